// One answer over many connections, on a clock and a network of the test's own.

import assert from "node:assert/strict";
import test from "node:test";

import { bytes } from "./fuzz.mjs";

const { BACK_OFF, Failure, follow, SILENCE } = await import(`${process.env.PAGES}/follow.js`);

const event = (number, name, data = {}) => `id: S.${number}\nevent: ${name}\ndata: ${JSON.stringify(data)}\n\n`;
const CUT = Symbol("the connection is lost");
const OPEN = Symbol("nothing more comes");

/** A response that streams these texts; at its end it is complete, CUT or OPEN. */
function stream(...parts) {
  const body = new ReadableStream({
    pull(controller) {
      const part = parts.shift();
      if (part === undefined) controller.close();
      else if (part === CUT) controller.error(new TypeError("network error"));
      else if (part === OPEN) return new Promise(() => {});
      else controller.enqueue(bytes(part));
    },
  }, { highWaterMark: 0 });
  const headers = { "Content-Type": "text/event-stream; charset=utf-8", "Teleprinter-Stream": "S" };
  return new Response(body, { headers });
}

const refusal = (status, code, headers = {}) =>
  new Response(JSON.stringify({ error: { code, message: `because of ${code}` } }), { status, headers });

/** A browser whose fetch gives these answers in turn (CUT: no connection), and whose time stands. */
class Browser {
  events = new EventTarget();
  local = false;
  asked = [];
  timers = [];

  constructor(...answers) {
    this.answers = answers;
  }

  fetch = async (path, request) => {
    this.asked.push({ path, ...request });
    const answer = this.answers.shift();
    if (answer === CUT || answer === undefined) throw new TypeError("Failed to fetch");
    return aborting(answer, request.signal);
  };

  after = (seconds, act) => {
    const timer = { seconds, act };
    this.timers.push(timer);
    return () => (this.timers = this.timers.filter((each) => each !== timer));
  };

  /** Let the earliest timer of so many seconds ring. */
  ring(seconds) {
    const timer = this.timers.find((each) => each.seconds === seconds);
    assert.ok(timer, `nobody waits ${seconds} s, but ${this.timers.map((each) => each.seconds)}`);
    this.timers = this.timers.filter((each) => each !== timer);
    timer.act();
  }

  says(name) {
    this.events.dispatchEvent(new Event(name));
  }
}

/** What fetch does when its signal is aborted: reading fails. */
function aborting(response, signal) {
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
  const reader = response.body.getReader();
  const aborted = new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
  aborted.catch(() => {});
  const read = () => Promise.race([reader.read(), aborted]);
  return { status: 200, ok: true, headers: response.headers, body: { getReader: () => ({ read }) } };
}

function begin(browser, body = { messages: [] }) {
  const controller = new AbortController();
  const headers = { Authorization: "Bearer k" };
  const events = follow(body, { headers, signal: controller.signal, browser });
  return { events, controller };
}

const turns = () => new Promise((resolve) => setImmediate(resolve));

/** Take all events; each wait ends at once, and is noted by its seconds. */
async function all(browser, { events }) {
  const seen = [];
  for await (const { name, data } of events) {
    seen.push(name === "gone" ? ["gone", data.seconds] : name === "answer" ? data.content : name);
    if (name === "gone") setImmediate(() => browser.ring(data.seconds));
  }
  return seen;
}

test("an answer that comes whole is asked for once", async () => {
  const browser = new Browser(stream(event(0, "start"), event(1, "answer", { content: "a" }), event(2, "done")));
  assert.deepEqual(await all(browser, begin(browser, { question: "q" })), ["opened", "start", "a", "done"]);
  const [{ path, method, headers, body }] = browser.asked;
  assert.deepEqual([path, method, JSON.parse(body)], ["chat", "POST", { question: "q" }]);
  assert.deepEqual(headers, { "Content-Type": "application/json", Authorization: "Bearer k" });
  assert.deepEqual(browser.timers, []);
});

for (const [how, end] of [["broken", [CUT]], ["closed without its end", []]]) {
  test(`a line that is ${how} is taken up behind the last event`, async () => {
    const browser = new Browser(
      stream(event(0, "start"), event(1, "answer", { content: "a" }), ...end),
      stream(event(2, "answer", { content: "b" }), event(3, "done")),
    );
    const seen = await all(browser, begin(browser, { question: "q" }));
    assert.deepEqual(seen, ["opened", "start", "a", ["gone", 0.5], "back", "opened", "b", "done"]);
    assert.deepEqual(browser.asked.map(({ headers }) => headers["Last-Event-ID"]), [undefined, "S.1"]);
    assert.equal(browser.asked[0].body, browser.asked[1].body);
  });
}

test("an event that was cut in two is not lost, and not seen twice", async () => {
  const [half, rest] = [event(2, "answer", { content: "b" }).slice(0, 30), event(2, "answer", { content: "b" })];
  const browser = new Browser(
    stream(event(1, "answer", { content: "a" }), half, CUT),
    stream(rest, event(3, "done")),
  );
  assert.deepEqual(await all(browser, begin(browser)), ["opened", "a", ["gone", 0.5], "back", "opened", "b", "done"]);
});

test("it waits 0.5, 1, 2, 4, 8, 10, 10 s, and from the start again once something came", async () => {
  const cut = () => stream(CUT);
  const browser = new Browser(
    stream(event(0, "start"), CUT), CUT, CUT, CUT, CUT, refusal(503, "draining"), CUT, cut(),
    stream(event(1, "answer", { content: "a" }), CUT), stream(event(2, "done")),
  );
  const seen = await all(browser, begin(browser));
  const waits = seen.filter(([name]) => name === "gone").map(([, seconds]) => seconds);
  assert.deepEqual(waits, [...BACK_OFF, 10, 10, 0.5]);
});

test("as soon as the browser is online it tries again", async () => {
  const browser = new Browser(stream(event(0, "start"), CUT), stream(event(1, "done")));
  const { events } = begin(browser);
  for (const name of ["opened", "start", "gone"]) assert.equal((await events.next()).value.name, name);
  const next = events.next();
  await turns();
  assert.equal(browser.asked.length, 1);
  browser.says("online");
  assert.equal((await next).value.name, "back");
  assert.equal(browser.asked[1].headers["Last-Event-ID"], "S.0");
  await events.return();
  assert.deepEqual(browser.timers, []);
});

test("a browser that says it is offline has no line, unless the relay is on its own machine", async () => {
  for (const local of [false, true]) {
    const browser = new Browser(stream(event(0, "start"), OPEN));
    browser.local = local;
    const { events, controller } = begin(browser);
    await events.next();
    await events.next();
    const next = events.next();
    await turns();
    browser.says("offline");
    await turns();
    if (local) controller.abort();
    if (local) await assert.rejects(next, { name: "AbortError" });
    else assert.equal((await next).value.name, "gone");
    await events.return();
  }
});

test("a line without a byte for four heartbeats is gone; a comment is a byte", async () => {
  const browser = new Browser(stream(event(0, "start"), ": keep-alive\n\n", OPEN));
  const { events } = begin(browser);
  await events.next();
  await events.next();
  const first = browser.timers[0];
  const next = events.next();
  await turns();
  assert.equal(browser.timers.length, 1);
  assert.notEqual(browser.timers[0], first);
  browser.ring(SILENCE);
  assert.equal((await next).value.name, "gone");
  await events.return();
});

test("204: the relay has no more of it", async () => {
  const browser = new Browser(stream(event(4, "start"), CUT), new Response(null, { status: 204 }));
  assert.deepEqual(await all(browser, begin(browser)), ["opened", "start", ["gone", 0.5], "nothing"]);
});

test("410: the rest is lost, and it says so", async () => {
  const browser = new Browser(stream(event(4, "start"), CUT), refusal(410, "stream_gone"));
  await assert.rejects(all(browser, begin(browser)), { code: "stream_gone", status: 410, message: "because of stream_gone" });
  assert.equal(browser.asked.length, 2);
});

test("an error is an end", async () => {
  const browser = new Browser(stream(event(1, "error", { code: "upstream_cut" }), CUT));
  assert.deepEqual(await all(browser, begin(browser)), ["opened", "error"]);
});

test("a question is never asked twice by itself", async () => {
  for (const [answer, code] of [
    [CUT, "no_connection"],
    [stream(CUT), "line_lost"],
    [stream(), "line_lost"],
    [refusal(503, "draining"), "draining"],
    [refusal(502, "no_proxy"), "no_proxy"],
  ]) {
    const browser = new Browser(answer);
    await assert.rejects(all(browser, begin(browser)), (problem) => problem instanceof Failure && problem.code === code);
    assert.equal(browser.asked.length, 1);
    assert.deepEqual(browser.timers, []);
  }
});

test("a refusal has its code, its words and when to come again", async () => {
  const browser = new Browser(refusal(429, "rate_limited", { "Retry-After": "7" }));
  await assert.rejects(all(browser, begin(browser)), { code: "rate_limited", status: 429, retryAfter: 7 });
});

test("what is no event stream is not the relay's", async () => {
  for (const answer of [new Response("<html>", { headers: { "Content-Type": "text/html" } }), new Response("x", { status: 502 })]) {
    const browser = new Browser(answer);
    await assert.rejects(all(browser, begin(browser)), { code: "no_stream" });
  }
});

test("abort ends it in every state", async () => {
  const reading = new Browser(stream(event(0, "start"), OPEN));
  const waiting = new Browser(stream(event(0, "start"), CUT));
  for (const [browser, steps] of [[reading, 2], [waiting, 3]]) {
    const { events, controller } = begin(browser);
    for (let step = 0; step < steps; step++) await events.next();
    const next = events.next();
    await turns();
    controller.abort();
    await assert.rejects(next, { name: "AbortError" });
    assert.deepEqual(browser.timers, []);
    assert.equal(browser.asked.length, 1);
  }
});
