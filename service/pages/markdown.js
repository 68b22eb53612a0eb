// Markdown that grows. Only the last block can still change, and a line that has its end is needed
// to know that another block has begun: all before it is settled, and never looked at again.

import { blocks } from "./blocks.js";
import { patch } from "./dom.js";

/** A last line that its next character may turn into something else: a list, a fence, a rule. */
const PROMISE = /(^|\n)[ \t]*(?:[-*+#>=_|`~]+|\d{1,9}[.)]?)[ \t]*$/;

/** A text, and what of it is settled. */
export class Growing {
  #open = ""; // the text of the blocks that may still change
  #before = 0; // blocks that are settled

  /** Take more of the text; return {first: number of the first block in `nodes`, nodes}: the blocks
   * that may have changed since the last call, to the end of the text. */
  push(text) {
    this.#open += text.replaceAll("\r", "");
    const visible = this.#open.replace(PROMISE, "$1");
    const found = blocks(visible.replace(/\n$/, "").split("\n"), true); // the last line has begun
    const first = this.#before;
    this.#settle(this.#open.split("\n"));
    return { first, nodes: found.map((block) => block.node) };
  }

  /** Return the same once no more will come. */
  end() {
    const found = blocks(this.#open.split("\n"));
    return { first: this.#before, nodes: found.map((block) => block.node) };
  }

  #settle(lines) {
    const whole = lines.slice(0, -1); // what follows the last line break may go on
    const found = blocks(whole);
    if (found.length < 2) return;
    this.#before += found.length - 1;
    this.#open = [...whole.slice(found.at(-1).at), lines.at(-1)].join("\n");
  }
}

/** An element that a text is typed into; the caret stands at its end. */
export class Sheet {
  text = "";
  #element;
  #growing = new Growing();
  #shown = []; // the nodes of the element's children
  #pending = "";
  #scheduled = null;
  #caret = null;
  #cost = 0; // milliseconds of the last rendering

  constructor(element) {
    this.#element = element;
  }

  /** Type a text; it is seen with the next frame. */
  type(text) {
    this.text += text;
    this.#pending += text;
    this.#scheduled ??= schedule(() => this.#render(), 4 * this.#cost);
  }

  /** Show all of it, without a caret. */
  end() {
    this.#scheduled?.();
    this.#show(this.#growing.push(this.#pending));
    this.#pending = "";
    this.#show(this.#growing.end());
    this.#caret?.classList.remove("caret");
  }

  #render() {
    const began = performance.now();
    this.#scheduled = null;
    const pending = this.#pending;
    this.#pending = "";
    this.#show(this.#growing.push(pending));
    this.#caret?.classList.remove("caret");
    this.#caret = tail(this.#element);
    this.#caret.classList.add("caret");
    this.#cost = performance.now() - began;
  }

  #show({ first, nodes }) {
    patch(this.#element, this.#shown.slice(first), nodes, first);
    this.#shown.splice(first, Infinity, ...nodes);
  }
}

/** Act with the next frame; later where that would keep the browser busy, or where nobody looks. */
function schedule(act, milliseconds) {
  if (milliseconds < 16 && !document.hidden) {
    const frame = requestAnimationFrame(act);
    return () => cancelAnimationFrame(frame);
  }
  const timer = setTimeout(act, document.hidden ? 250 : milliseconds);
  return () => clearTimeout(timer);
}

/** Return the element that the text ends in. */
function tail(element) {
  let last = element;
  while (last.lastChild?.nodeType === Node.ELEMENT_NODE && last.lastChild.tagName !== "BR" && last.lastChild.tagName !== "HR") {
    last = last.lastChild;
  }
  return last;
}
