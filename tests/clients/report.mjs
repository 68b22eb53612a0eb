// What the programs here have in common. The job comes as JSON in the first argument; reports go to
// stdout, one JSON object a line; the first line on stdin aborts.

const controller = new AbortController();

export const job = JSON.parse(process.argv[2]);
export const signal = controller.signal;

process.stdin.once("data", () => controller.abort()).unref();

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
