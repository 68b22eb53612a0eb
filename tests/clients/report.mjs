// What the programs here have in common: the job that host.mjs began; reports go to stdout, one JSON
// object a line.

let controller;

export let job;
export let signal;

export function begin(given) {
  controller = new AbortController();
  signal = controller.signal;
  job = given;
}

export function abort() {
  controller.abort();
}

export function say(report) {
  process.stdout.write(`${JSON.stringify(report)}\n`);
}

/** Does what the job calls for, and reports what it throws, unless it was aborted. */
export async function work(calls) {
  try {
    await calls[job.call ?? "stream"](job);
  } catch (error) {
    if (!signal.aborted) say({ error: described(error) });
  }
}

/** Returns what a program would look at; a RetryError stands for the last of several. */
export function described(error) {
  const { name, message, status, statusCode, code } = error.lastError ?? error;
  return { name, message, status: status ?? statusCode, code };
}
