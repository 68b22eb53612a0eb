// Markdown by its lines, to nodes (dom.js): headings, rules, lists, quotes, fenced code, tables,
// paragraphs. A subset of CommonMark and of GitHub's tables, for what models write: a line break
// stays one, indented text is no code, and "---" below a paragraph is a rule.

import { inline } from "./inline.js";
import { said } from "./language.js";

const DEEPEST = 12; // lists and quotes in one another; what is deeper is a paragraph
const BLANK = /^\s*$/;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:\s+(.*))?$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|(\d{1,9})[.)])(?:(\s+)(.*))?$/s;
const DELIMITERS = /^\s*\|?(?:\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?\s*$/;

/** Return the blocks of these lines, [{at: number of its first line, node}].
 * `growing`: the last of them may go on. */
export function blocks(lines, growing = false, depth = 0) {
  const found = [];
  for (let at = 0; at < lines.length; ) {
    if (BLANK.test(lines[at])) at++;
    else {
      const [node, next] = block(lines, at, growing, depth);
      if (node) found.push({ at, node });
      at = next;
    }
  }
  return found;
}

function block(lines, at, growing, depth) {
  const line = lines[at];
  const deeper = depth < DEEPEST;
  if (FENCE.test(line)) return fence(lines, at);
  if (HEADING.test(line)) return heading(line, at, growing && at + 1 === lines.length);
  if (RULE.test(line)) return [["hr", {}], at + 1];
  if (deeper && QUOTE.test(line)) return quote(lines, at, growing, depth);
  if (deeper && ITEM.test(line)) return list(lines, at, growing, depth);
  if (isTable(lines, at)) return table(lines, at, growing);
  return paragraph(lines, at, growing);
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || interrupts(line);
}

/** Tell whether an item begins here though no blank line stands before it. */
function interrupts(line) {
  const match = ITEM.exec(line);
  return Boolean(match?.[5]) && (match[3] === undefined || match[3] === "1");
}

function fence(lines, at) {
  const [, mark, info] = FENCE.exec(lines[at]);
  const indent = columns(lines[at]);
  const end = new RegExp(`^ {0,3}${mark[0]}{${mark.length},}\\s*$`);
  let next = at + 1;
  while (next < lines.length && !end.test(lines[next])) next++;
  const text = lines.slice(at + 1, next).map((line) => dedent(line, indent));
  return [figure(info.trim().split(/\s/)[0], text.join("\n")), next + 1];
}

/** Code with its language and a button that copies it. */
export function figure(language, text) {
  const button = ["button", { type: "button", "data-copy": "code", "data-text": "copy" }, said("copy")];
  const label = { role: "group", tabindex: "0", "aria-label": language || said("code") };
  return [
    "figure",
    { class: "code" },
    ["figcaption", {}, ["span", {}, language], button],
    ["pre", label, ["code", {}, text]],
  ];
}

/** A heading, two levels down: the page's own are above it. */
function heading(line, at, growing) {
  const [, marks, rest = ""] = HEADING.exec(line);
  const text = rest.trimEnd().replace(/(^|\s)#+$/, "").trimEnd();
  return [[`h${Math.min(6, marks.length + 2)}`, {}, ...inline(text, growing)], at + 1];
}

function quote(lines, at, growing, depth) {
  const inner = [];
  let next = at;
  for (; next < lines.length; next++) {
    const line = lines[next];
    const lazy = inner.length && !BLANK.test(inner.at(-1)) && !BLANK.test(line) && !begins(line);
    if (!QUOTE.test(line) && !lazy) break;
    inner.push(line.replace(QUOTE, ""));
  }
  const children = blocks(inner, growing && next === lines.length, depth + 1);
  return [["blockquote", {}, ...children.map((child) => child.node)], next];
}

function list(lines, at, growing, depth) {
  const [, , first, number] = ITEM.exec(lines[at]);
  const items = [];
  let [next, loose] = [at, false];
  for (let match; next < lines.length && (match = sibling(lines[next], first, items[0])); ) {
    const read = item(lines, next, match);
    items.push({ ...read, column: columns(match[1]) });
    next = read.next;
  }
  const open = growing && next >= lines.length;
  const parsed = items.map(({ inner }, index) => {
    const children = blocks(inner, open && index === items.length - 1, depth + 1);
    const gap = children.some((child, i) => i && BLANK.test(inner[child.at - 1]));
    loose ||= gap || (index < items.length - 1 && BLANK.test(inner.at(-1)));
    return children.map((child) => child.node);
  });
  const start = number !== undefined && Number(number) !== 1 ? { start: String(Number(number)) } : {};
  const nodes = parsed.map((children) => ["li", {}, ...ticked(loose ? children : tight(children))]);
  return [[number === undefined ? "ul" : "ol", start, ...nodes], next];
}

/** Match a line that begins an item of the same list. */
function sibling(line, first, before) {
  const match = RULE.test(line) ? null : ITEM.exec(line);
  if (!match || match[2].at(-1) !== first.at(-1)) return null;
  return before && columns(match[1]) < before.column ? null : match;
}

/** Return the lines of an item, without its indent, and the number of the line behind it. */
function item(lines, at, [, space, marker, , gap = "", rest = ""]) {
  const left = columns(space);
  const width = left + marker.length + (gap.length > 4 ? 1 : Math.max(1, columns(gap)));
  const inner = [gap.length > 4 ? gap.slice(1) + rest : rest];
  let next = at + 1;
  for (; next < lines.length; next++) {
    const line = lines[next];
    const indent = columns(line);
    const within = indent >= width || (indent >= left + 2 && ITEM.test(line));
    const lazy = !BLANK.test(inner.at(-1)) && !begins(line) && !ITEM.test(line);
    if (!BLANK.test(line) && !within && !lazy) break;
    inner.push(dedent(line, width));
  }
  return { inner, next };
}

/** The items of a list without blank lines have no paragraphs of their own. */
function tight(children) {
  return children.flatMap((child) => (child[0] === "p" ? child.slice(2) : [child]));
}

/** [ ] and [x] as boxes. */
function ticked(children) {
  const [first, ...rest] = children;
  if (first?.[0] === "p") return [["p", {}, ...ticked(first.slice(2))], ...rest];
  const match = typeof first === "string" ? /^\[([ xX])\] /.exec(first) : null;
  return match ? [`${match[1] === " " ? "☐" : "☑"} ${first.slice(4)}`, ...rest] : children;
}

function isTable(lines, at) {
  const [head, line] = [lines[at], lines[at + 1] ?? ""];
  return head.includes("|") && line.includes("|") && DELIMITERS.test(line) && cells(head).length === cells(line).length;
}

function table(lines, at, growing) {
  const align = cells(lines[at + 1]).map((cell) => {
    const [left, right] = [cell.startsWith(":"), cell.endsWith(":")];
    return right ? { class: left ? "center" : "right" } : {};
  });
  let next = at + 2;
  while (next < lines.length && !BLANK.test(lines[next]) && !begins(lines[next])) next++;
  const row = (line, tag, open) =>
    ["tr", {}, ...align.map((how, i) => [tag, how, ...inline(cells(line)[i] ?? "", open)])];
  const rows = lines.slice(at + 2, next).map((line, i) => row(line, "td", growing && at + 3 + i === lines.length));
  const head = ["thead", {}, row(lines[at], "th", false)];
  const body = rows.length ? [["tbody", {}, ...rows]] : [];
  const label = { class: "table", role: "group", tabindex: "0", "aria-label": said("table") };
  return [["div", label, ["table", {}, head, ...body]], next];
}

/** The cells of a row; "\|" is a bar within one. */
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

/** Lines up to a blank one; nothing while its first line may yet become a table's head. */
function paragraph(lines, at, growing) {
  let next = at + 1;
  while (next < lines.length && !BLANK.test(lines[next]) && !begins(lines[next]) && !isTable(lines, next)) next++;
  const open = growing && next === lines.length;
  if (open && next - at < 3 && lines[at].trimStart().startsWith("|")) return [null, next];
  const text = lines.slice(at, next).map((line) => line.trim()).join("\n");
  return [["p", {}, ...inline(text, open)], next];
}

function columns(line) {
  let width = 0;
  for (const character of line) {
    if (character === "\t") width += 4 - (width % 4);
    else if (character === " ") width++;
    else break;
  }
  return width;
}

/** Take away so many columns of white space, or what there is of them. */
function dedent(line, most) {
  let [width, at] = [0, 0];
  while (width < most && (line[at] === " " || line[at] === "\t")) {
    width += line[at++] === "\t" ? 4 - (width % 4) : 1;
  }
  return " ".repeat(Math.max(0, width - most)) + line.slice(at);
}
