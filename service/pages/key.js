// The relay's key: asked for when it is needed, kept for this tab only.

import { forTab } from "./kept.js";
import { tell } from "./language.js";

/** Return the headers that show the key, if there is one. */
export function keyHeaders() {
  const key = forTab.get("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** The dialog: <dialog id="key"> with a form, an input, and by data-part title, wrong, cancel. */
export class KeyDialog {
  #dialog;
  #input;
  #title;
  #wrong;

  constructor(dialog) {
    this.#dialog = dialog;
    this.#input = dialog.querySelector("input");
    this.#title = dialog.querySelector("[data-part=title]");
    this.#wrong = dialog.querySelector("[data-part=wrong]");
    dialog.querySelector("[data-part=cancel]").addEventListener("click", () => dialog.close());
    dialog.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      forTab.set("key", this.#input.value.trim());
      dialog.close("given");
    });
  }

  /** Ask; `why`: "needed", or "wrong" if the key that is kept was refused; "" if somebody wants to.
   * Tells whether one was given. */
  ask(why = "") {
    const wrong = why === "wrong";
    const { promise, resolve } = settled();
    this.#input.value = wrong ? "" : forTab.get("key");
    this.#input.setAttribute("aria-invalid", String(wrong));
    tell(this.#title, why ? "key_needed" : "key_title");
    tell(this.#wrong, wrong ? "key_wrong" : "");
    this.#dialog.returnValue = "";
    this.#dialog.addEventListener("close", () => resolve(this.#dialog.returnValue === "given"), {
      once: true,
    });
    this.#dialog.showModal();
    this.#input.focus();
    return promise;
  }
}

function settled() {
  let resolve;
  const promise = new Promise((given) => (resolve = given));
  return { promise, resolve };
}
