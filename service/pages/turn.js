// One question and its answer, as they stand on the page.

import { figure } from "./blocks.js";
import { make, patch } from "./dom.js";
import { known, language, quote, said, tell, translate } from "./language.js";
import { Sheet } from "./markdown.js";

/** What of a code says whose fault it was. */
const WHOSE = [
  [/^(proxy_|no_proxy)/, "whose_proxy"],
  [/^upstream_/, "whose_upstream"],
  [/^(no_connection|line_lost)$/, "whose_line"],
  [/^(internal|draining|too_long|stopped|stream_gone|resume_lost|no_stream)$/, "whose_relay"],
];

export class Turn {
  /** The tokens of the answer so far. */
  get text() {
    return this.#answer.text;
  }

  /** `template`: the <template> of a turn; it says which part is which by data-part. */
  constructor(question, template) {
    this.question = question;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.#part("question").textContent = question;
    translate(this.element);
  }

  #answer;
  #reasoning;
  #tools = []; // by index: {name, arguments}
  #shownTools = [];

  /** Begin the answer, also a second time. */
  begin() {
    for (const name of ["answer", "reasoning", "tools"]) this.#part(name).replaceChildren();
    for (const name of ["thinking", "cut", "problem", "figures"]) this.#part(name).hidden = true;
    this.#answer = new Sheet(this.#part("answer"));
    this.#reasoning = new Sheet(this.#part("reasoning"));
    this.#tools = [];
    this.#shownTools = [];
    this.#busy(true);
    this.#answer.type(""); // the caret
  }

  /** Take one of the relay's events. */
  take(name, data) {
    if (name === "answer") this.#answer.type(data.content);
    if (name === "reasoning") this.#think(data.content);
    if (name === "tool_calls") this.#call(data.tool_calls);
  }

  /** The answer is complete: say what it came to. */
  finish(done) {
    this.#end();
    if (!["stop", "tool_calls", null, undefined].includes(done.finish_reason)) {
      this.#cut("ended_early", { reason: done.finish_reason });
    }
    this.#figure(done);
  }

  /** There is no more, because the reader stopped it. */
  stop() {
    this.#end();
    this.#cut("stopped");
  }

  /** There is no more: say why, and what to do. */
  fail({ code, message, status, retryAfter }) {
    this.#end();
    if (this.#holdsAnything()) this.#cut("cut");
    const whose = WHOSE.find(([pattern]) => pattern.test(code))?.[1] ?? "whose_request";
    const advice = known(`advice_${code}`) ? `advice_${code}` : `advice_${whose}`;
    tell(this.#part("whose"), whose);
    if (message) quote(this.#part("message"), message);
    else tell(this.#part("message"), `message_${code}`);
    tell(this.#part("advice"), retryAfter ? "advice_later" : advice, { seconds: retryAfter });
    quote(this.#part("code"), status ? `${code} · ${status}` : code);
    this.#part("problem").hidden = false;
  }

  /** Write the figures anew, in the language in force. */
  refigure() {
    if (this.#done) this.#figure(this.#done);
  }

  #done = null;

  #part(name) {
    return this.element.querySelector(`[data-part=${name}]`);
  }

  #think(text) {
    this.#part("thinking").hidden = false;
    this.#reasoning.type(text);
  }

  /** Join what came in pieces: an index, then bits of the arguments. */
  #call(calls) {
    for (const { index = 0, function: called = {} } of calls ?? []) {
      const tool = (this.#tools[index] ??= { name: "", arguments: "" });
      tool.name += called.name ?? "";
      tool.arguments += called.arguments ?? "";
    }
    const nodes = this.#tools.filter(Boolean).map((tool) => figure(tool.name, tool.arguments));
    patch(this.#part("tools"), this.#shownTools, nodes);
    this.#shownTools = nodes;
  }

  #holdsAnything() {
    return Boolean(this.#answer.text || this.#reasoning.text || this.#tools.length);
  }

  #end() {
    this.#answer.end();
    this.#reasoning.end();
    this.#busy(false);
  }

  #busy(busy) {
    this.#done = null;
    this.element.classList.toggle("busy", busy);
    this.#part("answer").ariaBusy = String(busy);
  }

  #cut(name, values) {
    tell(this.#part("cut"), name, values);
    this.#part("cut").hidden = false;
  }

  #figure(done) {
    this.#done = done;
    const list = this.#part("list");
    list.replaceChildren(...figures(done).map((text) => make(["li", {}, text])));
    this.#part("figures").hidden = false;
  }
}

/** Return what `done` says, as texts. */
function figures({ model, upstream, proxy, usage, first_token_ms: first, elapsed_ms: elapsed }) {
  const number = new Intl.NumberFormat(language(), { maximumFractionDigits: 1 });
  const tokens = usage?.completion_tokens;
  const writing = (elapsed - first) / 1000;
  const rate = tokens > 1 && first != null && writing > 0 ? tokens / writing : null;
  const way = proxy ? `${upstream} ← ${proxy}` : upstream;
  return [
    model,
    tokens != null && said("tokens", { n: number.format(tokens) }),
    rate && said("rate", { n: number.format(rate) }),
    first != null && said("first", { n: number.format(first) }),
    elapsed != null && said("took", { n: number.format(elapsed / 1000) }),
    way && said("way", { way }),
  ].filter(Boolean);
}
