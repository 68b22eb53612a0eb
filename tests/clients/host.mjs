// Runs one of the programs here again and again: a line of stdin is a job, or the word abort.
// Its imports stay; the program itself is evaluated anew for each job. A report `null` ends a job.
import { createInterface } from "node:readline";

import { abort, begin, say } from "./report.mjs";

let count = 0;
for await (const line of createInterface({ input: process.stdin })) {
  if (line === "abort") {
    abort();
  } else {
    begin(JSON.parse(line));
    count += 1;
    import(`./${process.argv[2]}?${count}`).then(() => say(null));
  }
}
process.exit();
