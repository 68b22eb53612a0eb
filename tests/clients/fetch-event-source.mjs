// @microsoft/fetch-event-source, used as its README does: what the server refuses is fatal, whatever
// else ends the line is tried again. It is made for pages: Node must lend it two globals of theirs.
import { fetchEventSource } from "@microsoft/fetch-event-source";

import "./follow.mjs";
import { job, say, signal } from "./report.mjs";

globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };

class Refused extends Error {}

await fetchEventSource(job.url, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(job.body),
  signal,
  openWhenHidden: true,
  async onopen(response) {
    if (response.ok && response.headers.get("content-type") === "text/event-stream") return;
    const said = response.status === 204 ? {} : (await response.json()).error;
    say({ error: { status: response.status, ...said } });
    throw new Refused();
  },
  onmessage: ({ event, data }) => follow.event(event, data, say),
  onerror(error) {
    if (error instanceof Refused) throw error;
    say({ lost: error.name });
  },
}).catch((error) => error instanceof Refused || say({ lost: error.name }));
