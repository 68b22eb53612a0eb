// The typewriter page: questions go to POST /chat, answers type themselves.
//
//   form ──▶ Turn ◀── follow ◀── POST /chat          (turn.js, follow.js)
//   a conversation is all turns so far; the last one may still be written

import { Choices } from "./choices.js";
import { copying } from "./copy.js";
import { Failure, follow } from "./follow.js";
import { keyHeaders, KeyDialog } from "./key.js";
import { learn, otherLanguage, speak, tell, translate } from "./language.js";
import { TEXTS } from "./texts.js";
import { themeButton } from "./theme.js";
import { Turn } from "./turn.js";

const NEAR = 96; // pixels from the page's end within which it follows the writing
/** Tell the tokens; and read on for two minutes when the line drops, for stop() ends it at once. */
const ALWAYS = { stream_options: { include_usage: true }, keep: 120 };
const SEEN = new Set(["connecting", "writing", "gone", "back"]);
const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((e) => [e.id, e]));

learn(TEXTS);
const key = new KeyDialog(part.key);
const { model, pace, delay_ms } = part;
const choices = new Choices({ model, pace, delay_ms }, part.models);
const turns = [];
let following = true; // the reader has not scrolled away from the writing
let writing = null; // {turn, controller, stream}: the answer that is being written

function ask(question) {
  const turn = new Turn(question, part.turn);
  turns.push(turn);
  part.welcome.hidden = true;
  part.paper.append(turn.element);
  turn.element.querySelector("[data-part=again]").addEventListener("click", () => answer(turn));
  return answer(turn);
}

async function answer(turn) {
  if (writing) return;
  const mine = (writing = { turn, controller: new AbortController(), stream: null });
  busy(true);
  turn.begin();
  following = true;
  show("connecting");
  try {
    await write(mine);
  } catch (problem) {
    if (mine.controller.signal.aborted) turn.stop();
    else fail(turn, problem);
  } finally {
    if (writing === mine) {
      writing = null;
      busy(false);
      if (following) requestAnimationFrame(scrollToEnd);
    }
  }
}

/** Ask, and ask for the key as long as it is wanted; write what comes. */
async function write(mine) {
  for (;;) {
    const headers = keyHeaders();
    try {
      return await typeAll(mine, headers);
    } catch (problem) {
      if (problem.code !== "unauthorized" || mine.stream) throw problem;
      if (!(await key.ask("Authorization" in headers ? "wrong" : "needed"))) throw problem;
    }
  }
}

async function typeAll(mine, headers) {
  const { turn, controller } = mine;
  const body = { ...ALWAYS, messages: messages(turn), ...choices.asked() };
  for await (const { name, data } of follow(body, { headers, signal: controller.signal })) {
    if (name === "opened") mine.stream = data.stream;
    else if (name === "start") show("writing");
    else if (name === "gone" || name === "back") show(name, data);
    else if (name === "nothing") throw new Failure("no_end");
    else if (name === "error") throw new Failure(data.code, data.message, data);
    else if (name === "done") return finish(turn, data);
    else turn.take(name, data);
  }
}

function finish(turn, done) {
  turn.finish(done);
  show("complete");
}

function fail(turn, problem) {
  const known = problem instanceof Failure;
  turn.fail(known ? problem : new Failure("page", String(problem)));
  show("failed");
}

/** Stop what is being written: here, and on the relay. */
function stop() {
  if (!writing) return;
  const { controller, stream } = writing;
  controller.abort();
  show("stopped");
  if (!stream) return;
  const gone = { method: "DELETE", headers: keyHeaders(), keepalive: true };
  fetch(`streams/${encodeURIComponent(stream)}`, gone).catch(() => {}); // it may have ended
}

function startAfresh() {
  stop();
  writing = null;
  turns.length = 0;
  part.paper.replaceChildren();
  part.welcome.hidden = false;
  show("");
  busy(false);
  part.question.focus();
}

/** Return the conversation up to this turn's question; a question without an answer is left out. */
function messages(turn) {
  const before = turns.slice(0, turns.indexOf(turn)).filter((each) => each.text);
  const said = before.flatMap((each) => [
    { role: "user", content: each.question },
    { role: "assistant", content: each.text },
  ]);
  return [...said, { role: "user", content: turn.question }];
}

/** Say how it stands; what the page shows anyway is said to screen readers alone. */
function show(name, values) {
  tell(part.status, name, values);
  part.status.classList.toggle("unseen", !SEEN.has(name));
}

function busy(now) {
  const focused = [part.ask, part.stop].includes(document.activeElement);
  part.ask.hidden = now;
  part.stop.hidden = !now;
  part.fresh.disabled = !turns.length;
  document.body.classList.toggle("writing", now);
  if (focused) (now ? part.stop : part.ask).focus();
}

/** Tell whether the page's end is in sight: then it follows the writing. */
function atEnd() {
  const page = document.documentElement;
  return page.scrollHeight - page.clientHeight - page.scrollTop < NEAR;
}

function scrollToEnd() {
  const page = document.documentElement;
  page.scrollTop = page.scrollHeight;
}

/** Let the box be as high as its text. */
function fit() {
  part.question.style.height = "auto";
  part.question.style.height = `${part.question.scrollHeight + 2}px`;
}

function submit() {
  const question = part.question.value.trim();
  if (writing || !question) return;
  part.question.value = "";
  fit();
  ask(question);
}

function copied(button) {
  if (button.dataset.copy === "code") return button.closest("figure").querySelector("code").textContent;
  return turns.find((turn) => turn.element.contains(button)).text;
}

part.form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
part.question.addEventListener("input", fit);
part.question.addEventListener("keydown", (event) => {
  const composing = event.isComposing || event.keyCode === 229; // an input method's Enter
  if (event.key !== "Enter" || event.shiftKey || composing) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !part.key.open) stop();
});
part.stop.addEventListener("click", stop);
part.fresh.addEventListener("click", startAfresh);
part.askKey.addEventListener("click", () => key.ask());
part.examples.addEventListener("click", (event) => {
  if (event.target.closest("button") && !writing) ask(event.target.closest("button").textContent);
});
const showTheme = themeButton(part.theme);
part.language.addEventListener("click", () => {
  speak(otherLanguage());
  for (const turn of turns) turn.refigure();
  greet();
});
addEventListener("scroll", () => (following = atEnd()), { passive: true });
new ResizeObserver(() => {
  if (following && document.body.classList.contains("writing")) scrollToEnd();
}).observe(part.paper);
addEventListener("pagehide", stop); // nobody is left to read it
copying(part.paper, copied);

function greet() {
  const [other, text] = otherLanguage() === "zh-CN" ? ["zh-CN", "中文"] : ["en", "English"];
  part.language.lang = other;
  part.language.textContent = text;
  showTheme();
}

translate(document);
greet();
busy(false);
part.question.value = new URLSearchParams(location.search).get("question") ?? "";
fit();
if (matchMedia("(pointer: fine)").matches) part.question.focus();
