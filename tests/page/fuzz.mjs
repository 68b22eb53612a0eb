// Random texts and random cuts, the same in every run.

/** Return a function that gives whole numbers below its argument (mulberry32). */
export function random(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

export const bytes = (text) => new TextEncoder().encode(text);

/** Cut a text, or bytes, into pieces of 0 to 8. */
export function cuts(whole, next) {
  const pieces = [];
  for (let at = 0; at < whole.length; ) {
    const end = at + next(9);
    pieces.push(whole.slice(at, end));
    at = end;
  }
  return pieces;
}
