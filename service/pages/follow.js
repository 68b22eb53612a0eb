// One answer, over as many connections as it takes.
//
//   POST /chat ──▶ start, answer, …, done
//        ✂ the line is gone: wait 0.5, 1, 2, 4, … 10 s, or until the browser is online again
//   POST /chat with Last-Event-ID ──▶ goes on behind that event; the model is not asked again
//
// The events: what the relay sends, {name, data}, and what becomes of the line:
//   opened {stream} · gone {seconds} · back · nothing (the relay has no more of it)

import { Parser } from "./sse.js";

/** Seconds before the first, the second, … time that a line is tried again. */
export const BACK_OFF = [0.5, 1, 2, 4, 8, 10];
/** Seconds without a byte after which a line is gone: the relay's heartbeat comes every 15. */
export const SILENCE = 60;

const PASSING = new Set([502, 503, 504]); // what a front end says while the relay starts again
const LOCAL = /^(localhost|127\.[\d.]+|\[::1\])$/;

/** What the browser gives; tests give another. */
export const BROWSER = {
  fetch: (...asked) => fetch(...asked),
  after: (seconds, act) => {
    const timer = setTimeout(act, seconds * 1000);
    return () => clearTimeout(timer);
  },
  events: globalThis, // online, offline
  local: LOCAL.test(globalThis.location?.hostname ?? ""), // needs no network
};

/** Why there is no answer, or no more of it; `code` is the relay's, or one of the page's own:
 * no_connection, line_lost, no_stream. */
export class Failure extends Error {
  constructor(code, message = "", more = {}) {
    super(message);
    this.code = code;
    this.status = more.status ?? null;
    this.retryAfter = more.retryAfter ?? null;
  }
}

class Gone extends Error {}

/** Ask, and yield the events up to the end; `body`: the JSON of POST /chat.
 * Throws Failure, or the signal's reason when it is aborted. */
export async function* follow(body, { headers, signal, browser = BROWSER }) {
  const line = { body: JSON.stringify(body), headers, signal, browser, last: "", tries: 0 };
  for (;;) {
    try {
      yield* connection(line);
      return;
    } catch (problem) {
      signal.throwIfAborted();
      if (!(problem instanceof Gone)) throw problem;
      if (!line.last) throw new Failure(line.opened ? "line_lost" : "no_connection");
    }
    const seconds = BACK_OFF[Math.min(line.tries++, BACK_OFF.length - 1)];
    yield { name: "gone", data: { seconds } };
    await pause(seconds, line);
  }
}

/** Yield the events of one connection; throws Gone when it ends before the answer does. */
async function* connection(line) {
  const guard = watch(line);
  try {
    const response = await gone(line.browser.fetch("chat", request(line, guard.signal)));
    if (response.status === 204) return yield { name: "nothing", data: {} };
    await check(response, line);
    if (line.last) yield { name: "back", data: {} };
    line.opened = true;
    yield { name: "opened", data: { stream: response.headers.get("Teleprinter-Stream") } };
    const parser = new Parser();
    const reader = response.body.getReader();
    for (;;) {
      const { done, value } = await gone(reader.read());
      if (done) throw new Gone();
      guard.heard();
      for (const { type, data, id } of parser.push(value)) {
        line.last = id;
        line.tries = 0;
        yield { name: type, data: JSON.parse(data) };
        if (type === "error") return;
        if (type === "done") return guard.release(reader);
      }
    }
  } finally {
    guard.end();
  }
}

function request(line, signal) {
  const headers = { "Content-Type": "application/json", ...line.headers };
  if (line.last) headers["Last-Event-ID"] = line.last;
  return { method: "POST", headers, body: line.body, signal, cache: "no-store" };
}

async function gone(promise) {
  try {
    return await promise;
  } catch {
    throw new Gone();
  }
}

/** Throw what the relay's refusal says. */
async function check(response, line) {
  if (line.last && PASSING.has(response.status)) throw new Gone();
  const kind = response.headers.get("Content-Type") ?? "";
  if (response.ok && kind.startsWith("text/event-stream")) return;
  const error = await response.json().then((told) => told.error, () => null);
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const more = { status: response.status, retryAfter };
  if (error?.code) throw new Failure(error.code, error.message, more);
  throw new Failure("no_stream", `HTTP ${response.status} ${response.statusText}`, more);
}

/** Cut a connection that says nothing, or whose network has gone, and with the caller's signal. */
function watch({ signal, browser }) {
  const cut = new AbortController();
  const abort = () => cut.abort();
  let cancel = browser.after(SILENCE, abort);
  signal.addEventListener("abort", abort);
  if (!browser.local) browser.events.addEventListener("offline", abort);
  if (signal.aborted) abort();
  let leave = abort; // a connection that has not ended by itself
  return {
    signal: cut.signal,
    heard() {
      cancel();
      cancel = browser.after(SILENCE, abort);
    },
    release(reader) {
      leave = () => reader.read().catch(() => {}); // the body's end is on its way
    },
    end() {
      cancel();
      signal.removeEventListener("abort", abort);
      browser.events.removeEventListener("offline", abort);
      leave();
    },
  };
}

/** Wait so many seconds, or until the browser is online; throws the signal's reason. */
async function pause(seconds, { signal, browser }) {
  let wake;
  const waited = new Promise((resolve) => (wake = resolve));
  const cancel = browser.after(seconds, wake);
  browser.events.addEventListener("online", wake);
  signal.addEventListener("abort", wake);
  if (signal.aborted) wake();
  await waited;
  cancel();
  browser.events.removeEventListener("online", wake);
  signal.removeEventListener("abort", wake);
  signal.throwIfAborted();
}
