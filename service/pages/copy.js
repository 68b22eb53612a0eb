// Buttons that copy: the code that they stand above, or a text that somebody gives.

import { tell } from "./language.js";

const SAID_FOR = 2000; // milliseconds

/** Let every button [data-copy] below `root` copy; `text(button)` says what. */
export function copying(root, text) {
  root.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const done = await copy(text(button));
    tell(button, done ? "copied" : "not_copied");
    setTimeout(() => tell(button, "copy"), SAID_FOR);
  });
}

/** Put a text on the clipboard; tell whether it worked. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyOldWay(text); // without TLS there is no other, but on this machine
  }
}

function copyOldWay(text) {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
