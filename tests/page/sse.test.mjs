// The parser against the rules of the HTML standard, 9.2.5 and 9.2.6.

import assert from "node:assert/strict";
import test from "node:test";

import { bytes, cuts, random } from "./fuzz.mjs";

const { Parser } = await import(`${process.env.PAGES}/sse.js`);
const message = (data, id = "", type = "message") => ({ type, data, id });

const CASES = {
  "a line of data": ["data: a\n\n", [message("a")]],
  "no space behind the colon": ["data:a\n\n", [message("a")]],
  "only one space is taken away": ["data:  a\n\n", [message(" a")]],
  "several lines of data": ["data: a\ndata\ndata: b\n\n", [message("a\n\nb")]],
  "empty data is an event": ["data:\n\n", [message("")]],
  "no data is none": ["event: x\nid: 1\n\n", []],
  "CRLF": ["data: a\r\ndata: b\r\n\r\n", [message("a\nb")]],
  "CR": ["data: a\rdata: b\r\r", [message("a\nb")]],
  "CR, LF and CRLF in turn": ["data: a\r\rdata: b\n\ndata: c\r\n\r\n", ["a", "b", "c"].map((d) => message(d))],
  "one BOM": ["\ufeffdata: a\n\n\ufeffdata: b\n\n", [message("a")]],
  "comments": [": keep-alive\n\n:\ndata: a\n: b\n\n", [message("a")]],
  "an event's name lasts for one event": ["event: x\ndata: a\n\ndata: b\n\n", [message("a", "", "x"), message("b")]],
  "an id lasts": ["id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n", [message("a", "1"), message("b", "1"), message("c")]],
  "an id with NUL is none": ["id: 1\nid: 2\0\ndata: a\n\n", [message("a", "1")]],
  "names are case-sensitive": ["Data: a\ndata: b\n\n", [message("b")]],
  "unknown fields": ["retry: 5\nfoo: a\ndata: b\n\n", [message("b")]],
  "what has no end is no event": ["data: a\n\ndata: b\n", [message("a")]],
  "only LF and CR end lines": ["data: a\u2028b\u0085c\vd\n\n", [message("a\u2028b\u0085c\vd")]],
  "every alphabet": ["data: 你好 👋 é\n\n", [message("你好 👋 é")]],
};

const parse = (chunks) => {
  const parser = new Parser();
  return [chunks.flatMap((chunk) => parser.push(chunk)), parser.lastEventId];
};

for (const [rule, [text, events]] of Object.entries(CASES)) {
  test(rule, () => assert.deepEqual(parse([bytes(text)])[0], events));

  test(`${rule}: cut anywhere`, () => {
    const whole = bytes(text);
    for (let at = 0; at <= whole.length; at++) {
      assert.deepEqual(parse([whole.subarray(0, at), whole.subarray(at)])[0], events);
    }
    assert.deepEqual(parse([...whole].map((byte) => Uint8Array.of(byte)))[0], events);
  });
}

test("bytes that are no UTF-8 become U+FFFD", () => {
  assert.deepEqual(parse([Uint8Array.of(...bytes("data: "), 0xff, 0x0a, 0x0a)])[0], [message("\ufffd")]);
});

test("the id of a block without data counts from its blank line on", () => {
  assert.equal(parse([bytes("id: 7\n")])[1], "");
  assert.equal(parse([bytes("id: 7\n\n")])[1], "7");
});

test("any bytes, cut anyhow, give the same events", () => {
  const next = random(1);
  const parts = ["data: a", "data", "id: 1", "event: x", ": c", "\n", "\n", "\r", "\r\n", "\n\n", "你", "\ufeff", " "];
  for (let round = 0; round < 1500; round++) {
    const text = Array.from({ length: 25 }, () => parts[next(parts.length)]).join("");
    assert.deepEqual(parse(cuts(bytes(text), next)), parse([bytes(text)]), JSON.stringify(text));
  }
});
