// fetch, read by eventsource-parser.
import { createParser } from "eventsource-parser";

import "./follow.mjs";
import { job, say, signal } from "./report.mjs";

const parser = createParser({ onEvent: ({ event, data }) => follow.event(event, data, say) });
await follow.post(job, (text) => parser.feed(text), say, signal);
