// Other people's cases: what eventsource-parser and eventsource make of each URL.
import { createHash } from "node:crypto";

import { EventSource } from "eventsource";
import { createParser } from "eventsource-parser";

import { job, say } from "./report.mjs";

/** Returns a text, or what it comes to if it is as long as no report should be. */
function told(text) {
  if (text.length < 10_000) return text;
  return `sha256 ${createHash("sha256").update(text).digest("hex")}`;
}

/** Reads a body as it comes, decodes it and parses it. */
async function parse(response) {
  const said = [];
  let id = "";
  const parser = createParser({
    onEvent: (event) => {
      id = event.id ?? id;
      said.push([event.event ?? "message", told(event.data), id]);
    },
    onRetry: (retry) => said.push({ retry }),
    onComment: (comment) => said.push({ comment }),
    onError: ({ type, field }) => said.push({ error: type, field }),
  });
  const decoder = new TextDecoder();
  for await (const piece of response.body) parser.feed(decoder.decode(piece, { stream: true }));
  return { said, status: response.status };
}

/** Asks for a stream; if it is to be kept, asks for it again by its name. */
async function parsed({ url, keep }) {
  if (!keep) return parse(await fetch(url));
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Teleprinter-Keep": `${keep}` },
    body: JSON.stringify({ model: "m", stream: true }),
  });
  const first = await parse(response);
  const name = response.headers.get("Teleprinter-Stream");
  return { first, again: await parse(await fetch(new URL(`/streams/${name}`, url))) };
}

/** Follows with an EventSource until it closes, or has read so many streams to their end. */
function followed({ url, ends, closes, types }) {
  return new Promise((done) => {
    const source = new EventSource(url);
    const said = [];
    let opened = 0;
    let ended = 0;
    source.onopen = () => opened++;
    for (const type of types) {
      source.addEventListener(type, ({ data, lastEventId }) => said.push([type, data, lastEventId]));
    }
    source.onerror = ({ code }) => {
      const closed = source.readyState === source.CLOSED;
      ended++;
      if (!closed && (closes || ended < ends)) return;
      source.close();
      done({ said, opened, closed, code });
    };
  });
}

for (const one of job.parse) say(await parsed(one));
for (const one of job.follow) say(await followed(one));
