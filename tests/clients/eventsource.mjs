// EventSource: the package of that name, or Node's own where the job says `own`.
import { EventSource } from "eventsource";

import "./follow.mjs";
import { job, say, signal } from "./report.mjs";

const awake = setInterval(() => {}, 1000); // Node's own waits for its next try, but not to be alive
await follow.eventSource(job.own ? globalThis.EventSource : EventSource, job, say, signal);
clearInterval(awake);
