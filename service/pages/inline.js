// Markdown within a line, to nodes (dom.js): emphasis, code, links, breaks. What is none of these,
// HTML above all, is text.
//
// Emphasis follows CommonMark 0.31 (6.2, delimiter runs), with one change that Chinese needs: Han
// and full-width marks count as punctuation beside a run, so that **强调。**这样 is emphasis too.

const LONGEST = 20_000; // characters that are looked at for marks; a longer text is plain
const TOKEN =
  /\\[!-/:-@[-`{-~]|\\?\n|`+|\*+|_+|~+|!?\[|<[^\s<>]+>|https?:\/\/[^\s<>"`\\\u3000-\u303f\uff00-\uffef\u4e00-\u9fff]+|&(?:amp|lt|gt|quot|nbsp|#39);|[^\\\n`*_~![<h&]+|[^]/gy;
const ENTITIES = {
  "&amp;": "&",
  "&lt;": "<",
  "&gt;": ">",
  "&quot;": '"',
  "&nbsp;": "\u00a0",
  "&#39;": "'",
};
const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const ENDINGS = "?!.,:;*_~'\""; // what ends a sentence, and no address
const SPACE = /^\s?$/;
const PUNCTUATION = /[\p{P}\p{S}]/u;
const WIDE = /[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]/;
const DESTINATION = /\(\s*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;

/** Return the nodes of a text. `growing`: more will come, so that what is open counts as closed. */
export function inline(text, growing = false) {
  if (text.length > LONGEST) return [text];
  const whole = growing ? promising(text) : text;
  return emphasised(tokens(whole, growing, true), growing);
}

/** Leave out what the next characters may turn into marks. */
function promising(text) {
  return stripped(text.replace(/!?\[([^[\]\n]*)\]\([^()\s]*$/, "$1"), "*_~`\\");
}

/** Return a text without these characters at its end. */
function stripped(text, characters) {
  let end = text.length;
  while (end && characters.includes(text[end - 1])) end--;
  return text.slice(0, end);
}

/** Return texts, nodes and delimiter runs. `links`: there may be some, for none holds another. */
function tokens(text, growing, links) {
  const found = [];
  const runs = codeRuns(text);
  const closing = brackets(text);
  TOKEN.lastIndex = 0;
  for (let match; (match = TOKEN.exec(text)); ) {
    const [token, at] = [match[0], match.index];
    const next = TOKEN.lastIndex;
    const [node, end] =
      token[0] === "`"
        ? code(text, at, next, runs, growing)
        : token.endsWith("[")
          ? link(text, at, next, closing, links)
          : [plain(text, token, at, next, links), next];
    found.push(node);
    TOKEN.lastIndex = end;
  }
  return found;
}

function plain(text, token, at, next, links) {
  if (token.endsWith("\n")) return ["br", {}];
  if (token[0] === "\\" && token.length > 1) return token[1];
  if (token in ENTITIES) return ENTITIES[token];
  if ("*_~".includes(token[0])) return run(token, text.slice(0, at), text.slice(next, next + 2));
  const bare = token.startsWith("http") && !/\w/.test(text[at - 1] ?? "");
  if (links && bare && token.includes("://")) return trimmed(token);
  if (links && token[0] === "<" && token.length > 2) return angled(token);
  return token;
}

/** A bare address, without the punctuation that ends its sentence. */
function trimmed(token) {
  let url = stripped(token, ENDINGS);
  if (!url.includes("(")) url = stripped(url, `${ENDINGS})`);
  const made = anchor(url, [url]);
  const rest = token.slice(url.length);
  return made && rest ? ["span", {}, made, rest] : (made ?? token);
}

/** <https://…> and <name@host>; anything else in angle brackets is text. */
function angled(token) {
  const inner = token.slice(1, -1);
  const mail = /^[\w.+-]+@[\w-]+(\.[\w-]+)+$/.test(inner);
  return anchor(mail ? `mailto:${inner}` : inner, [inner]) ?? token;
}

/** Return a link, null where the address is not one that a click may open. */
export function anchor(address, children) {
  if (!URL.canParse(address)) return null;
  const url = new URL(address);
  if (!SCHEMES.has(url.protocol)) return null;
  const attributes = { href: url.href, rel: "noopener noreferrer", target: "_blank" };
  return ["a", attributes, ...children];
}

/** [text](address "title"); an image is a link too, for nothing is loaded from elsewhere. */
function link(text, at, next, closing, links) {
  const end = closing.get(next - 1);
  DESTINATION.lastIndex = end + 1;
  const match = links && end !== undefined ? DESTINATION.exec(text) : null;
  if (!match) return [text.slice(at, next), next];
  const inner = text.slice(next, end);
  const address = match[1] ?? match[2];
  const last = DESTINATION.lastIndex;
  const made = anchor(address, emphasised(tokens(inner || address, false, false), false));
  return [made ?? text.slice(at, last), last];
}

/** Return where each bracket closes: {position of "[": position of "]"}. */
function brackets(text) {
  const open = [];
  const pairs = new Map();
  for (const { 0: found, index } of text.matchAll(/\\.|[[\]]/gs)) {
    if (found === "[") open.push(index);
    else if (found === "]" && open.length) pairs.set(open.pop(), index);
  }
  return pairs;
}

/** Return where the runs of backticks are, by their length. */
function codeRuns(text) {
  const runs = new Map();
  for (const { 0: found, index } of text.matchAll(/`+/g)) {
    if (!runs.has(found.length)) runs.set(found.length, []);
    runs.get(found.length).push(index);
  }
  return runs;
}

function code(text, at, next, runs, growing) {
  const length = next - at;
  const same = runs.get(length) ?? [];
  while (same[0] <= at) same.shift();
  const end = same[0] ?? (growing ? text.length : null);
  if (end === null) return [text.slice(at, next), next];
  const inner = text.slice(next, end).replaceAll("\n", " ");
  const padded = inner.startsWith(" ") && inner.endsWith(" ") && inner.trim() !== "";
  return [["code", {}, padded ? inner.slice(1, -1) : inner], Math.min(end + length, text.length)];
}

/** A run of * _ or ~ and what it may do, by its neighbours. */
function run(token, before, after) {
  const prev = [...before.slice(-2)].pop() ?? "";
  const next = [...after][0] ?? "";
  const edge = (character) =>
    SPACE.test(character) || PUNCTUATION.test(character) || WIDE.test(character);
  const left = !SPACE.test(next) && (!PUNCTUATION.test(next) || edge(prev));
  const right = !SPACE.test(prev) && (!PUNCTUATION.test(prev) || edge(next));
  const [mark, whole] = [token[0], token[0] === "_"];
  const counts = mark !== "~" || token.length === 2;
  return {
    mark,
    length: token.length,
    total: token.length,
    opens: counts && left && (!whole || !right || PUNCTUATION.test(prev)),
    closes: counts && right && (!whole || !left || PUNCTUATION.test(next)),
  };
}

/** Pair the runs; return nodes. */
function emphasised(found, growing) {
  const out = [];
  const open = [];
  const failed = new Map(); // how high the stack was when nothing in it fitted
  for (const part of found) {
    if (!part.mark) {
      out.push(part);
      continue;
    }
    while (part.closes && part.length && pair(part, open, out, failed));
    if (!part.length) continue;
    if (part.opens) open.push({ part, at: out.length });
    out.push(part);
  }
  while (growing && open.length) {
    const { part } = open.at(-1);
    if (part.mark === "_" || part.length !== 2) open.pop();
    else wrap(open, out, 2);
  }
  return merged(out);
}

/** Close what a run closes; tell whether it closed anything. */
function pair(part, open, out, failed) {
  const kind = `${part.mark}${part.total % 3}${part.opens}`;
  const floor = failed.get(kind) ?? 0;
  for (let index = open.length - 1; index >= floor; index--) {
    if (!fits(open[index].part, part)) continue;
    open.length = index + 1;
    const use = part.mark === "~" || (part.length > 1 && open[index].part.length > 1) ? 2 : 1;
    part.length -= use;
    wrap(open, out, use);
    for (const [each, height] of failed) failed.set(each, Math.min(height, open.length));
    return true;
  }
  failed.set(kind, open.length);
  return false;
}

function fits(opener, closer) {
  if (opener.mark !== closer.mark) return false;
  const both = (opener.opens && opener.closes) || (closer.opens && closer.closes);
  const three = (opener.total + closer.total) % 3 === 0;
  return !(both && three && (opener.total % 3 || closer.total % 3));
}

/** Put what stands behind the last opener into an element, and use so many of its characters. */
function wrap(open, out, use) {
  const { part, at } = open.at(-1);
  const children = merged(out.splice(at + 1));
  part.length -= use;
  if (!part.length) {
    out.pop();
    open.pop();
  }
  const tag = part.mark === "~" ? "del" : use === 2 ? "strong" : "em";
  out.push([tag, {}, ...children]);
}

/** Turn runs that did nothing into text, and join neighbouring texts. */
function merged(parts) {
  const nodes = [];
  for (const part of parts) {
    const node = part.mark ? part.mark.repeat(part.length) : part;
    if (typeof node === "string" && typeof nodes.at(-1) === "string") {
      nodes.push(nodes.pop() + node);
    } else if (node !== "") nodes.push(node);
  }
  return nodes;
}
