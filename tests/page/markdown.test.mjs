// Markdown to nodes: what models write, what attackers write, and that growing changes nothing.

import assert from "node:assert/strict";
import test from "node:test";

import { cuts, random } from "./fuzz.mjs";

const { blocks } = await import(`${process.env.PAGES}/blocks.js`);
const { inline } = await import(`${process.env.PAGES}/inline.js`);
const { Growing } = await import(`${process.env.PAGES}/markdown.js`);

/** Nodes as they would look in HTML, with only the attributes that matter here. */
const html = (nodes) => nodes.map((node) => (typeof node === "string" ? escaped(node) : element(node))).join("");
const escaped = (text) => text.replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[c]);
const element = ([tag, { href, start, class: kind }, ...children]) => {
  const attributes = Object.entries({ href, start, class: kind }).filter(([, value]) => value);
  return `<${tag}${attributes.map(([name, value]) => ` ${name}="${value}"`).join("")}>${html(children)}</${tag}>`;
};
const read = (text) => blocks(text.split("\n")).map(({ node }) => node);

const INLINE = {
  "**a** *b* ***c*** ~~d~~ __e__ _f_":
    "<strong>a</strong> <em>b</em> <em><strong>c</strong></em> <del>d</del> <strong>e</strong> <em>f</em>",
  "a * b * c, 2*3*4, snake_case_name, ~100 to ~200": "a * b * c, 2<em>3</em>4, snake_case_name, ~100 to ~200",
  "**a *b* c** *a **b** c*": "<strong>a <em>b</em> c</strong> <em>a <strong>b</strong> c</em>",
  "**open, *closed*": "**open, <em>closed</em>",
  "*a**b*": "<em>a**b</em>",
  "**加粗。**后面 和**“引号”**这样": "<strong>加粗。</strong>后面 和<strong>“引号”</strong>这样",
  "`a` ``b`c`` `` ` `` `**a**`": "<code>a</code> <code>b`c</code> <code>`</code> <code>**a**</code>",
  "`open and ``other`` end": "`open and <code>other</code> end",
  "a\nb\\\nc": "a<br></br>b<br></br>c",
  "\\*a\\* \\`b\\` \\\\ \\a": "*a* `b` \\ \\a",
  "&lt;b&gt; &amp; &nope; AT&T": "&lt;b&gt; &amp; &amp;nope; AT&amp;T",
  "[a](https://x.org/y_z)": '<a href="https://x.org/y_z">a</a>',
  '[a **b**](<https://x.org/a b> "title")': '<a href="https://x.org/a%20b">a <strong>b</strong></a>',
  "[a](https://x.org/b_(c))": '<a href="https://x.org/b_(c)">a</a>',
  "[a] (b) [c][d] [e]": "[a] (b) [c][d] [e]",
  "[mail](mailto:a@b.org) <a@b.org>":
    '<a href="mailto:a@b.org">mail</a> <a href="mailto:a@b.org">a@b.org</a>',
  "See https://x.org/a_b. (https://x.org/) xhttps://y.org":
    'See <span><a href="https://x.org/a_b">https://x.org/a_b</a>.</span> (<span><a href="https://x.org/">https://x.org/</a>)</span> xhttps://y.org',
  "参见https://x.org/a，谢谢": '参见<a href="https://x.org/a">https://x.org/a</a>，谢谢',
  "![a picture](https://x.org/a.png)": '<a href="https://x.org/a.png">a picture</a>',
};

for (const [text, wanted] of Object.entries(INLINE)) {
  test(`inline: ${text}`, () => assert.equal(html(inline(text)), wanted));
}

const BLOCKS = {
  "# A\n## B ##\n####### C": "<h3>A</h3><h4>B</h4><p>####### C</p>",
  "#no heading\n\na\n# b": "<p>#no heading</p><p>a</p><h3>b</h3>",
  "a\nb\n\nc": "<p>a<br></br>b</p><p>c</p>",
  "a\n---\n***\n- - -": "<p>a</p><hr></hr><hr></hr><hr></hr>",
  "- a\n- b\n  - c\n    d\n- e": "<ul><li>a</li><li>b<ul><li>c<br></br>d</li></ul></li><li>e</li></ul>",
  "- a\n\n- b": "<ul><li><p>a</p></li><li><p>b</p></li></ul>",
  "- a\n\n  b\n- c": "<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>",
  "1. a\n  - b\n2. c": "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>",
  "3) a\n4) b\n1. c": '<ol start="3"><li>a</li><li>b</li></ol><ol><li>c</li></ol>',
  "* a\n- b": "<ul><li>a</li></ul><ul><li>b</li></ul>",
  "a:\n- b\n1986. A year": "<p>a:</p><ul><li>b</li></ul><ol start=\"1986\"><li>A year</li></ol>",
  "in\n1986. A year": "<p>in<br></br>1986. A year</p>",
  "- [ ] a\n- [x] b": "<ul><li>☐ a</li><li>☑ b</li></ul>",
  "> a\n> > b\nlazy\n\nc": "<blockquote><p>a</p><blockquote><p>b<br></br>lazy</p></blockquote></blockquote><p>c</p>",
  "| a | b |\n|:-:|--:|\n| `c\\|d` | **e** |\nf":
    '<div class="table"><table><thead><tr><th class="center">a</th><th class="right">b</th></tr></thead>' +
    '<tbody><tr><td class="center"><code>c|d</code></td><td class="right"><strong>e</strong></td></tr>' +
    '<tr><td class="center">f</td><td class="right"></td></tr></tbody></table></div>',
  "text\n| a |\n|---|\n| b |":
    '<p>text</p><div class="table"><table><thead><tr><th>a</th></tr></thead><tbody><tr><td>b</td></tr></tbody></table></div>',
  "a | b\nno table": "<p>a | b<br></br>no table</p>",
};

for (const [text, wanted] of Object.entries(BLOCKS)) {
  test(`blocks: ${JSON.stringify(text)}`, () => assert.equal(html(read(text)), wanted));
}

/** The language and the text of a block of code. */
const coded = (node) => [node[2][2][2] ?? "", node[3][2][2] ?? ""];

test("fenced code: its language, its text as it stands, its end", () => {
  const [code, after] = read("```python title=x\nif a:\n    **b**\n\n<i>\n```\nc");
  assert.deepEqual(coded(code), ["python", "if a:\n    **b**\n\n<i>"]);
  assert.equal(html([after]), "<p>c</p>");
  assert.deepEqual(coded(read("~~~\n```\n~~~")[0]), ["", "```"]);
  assert.deepEqual(coded(read("````\n```\n````")[0]), ["", "```"]);
  assert.deepEqual(coded(read("```js\nopen")[0]), ["js", "open"]);
  const [[, , [, , , item]]] = read("- a\n  ```\n  b\n    c\n  ```");
  assert.deepEqual(coded(item), ["", "b\n  c"]);
});

test("code has its language and a button that copies", () => {
  const [, , [, , language, button]] = read("```js\n```")[0];
  assert.equal(language[2], "js");
  assert.deepEqual([button[0], button[1]["data-copy"]], ["button", "code"]);
});

// --- hostile

const ALLOWED = new Set(
  "a blockquote br button code del div em figcaption figure h3 h4 h5 h6 hr li ol p pre span strong table tbody td th thead tr ul".split(" "),
);

/** Walk nodes: only these elements, links only where a click may lead. */
function check(node) {
  if (typeof node === "string") return;
  const [tag, attributes, ...children] = node;
  assert.ok(ALLOWED.has(tag), tag);
  for (const [name, value] of Object.entries(attributes)) {
    assert.match(name, /^(class|href|rel|target|start|role|tabindex|type|aria-label|data-copy|data-text)$/);
    assert.equal(typeof value, "string");
    if (name === "href") assert.match(value, /^(https?:\/\/|mailto:)/);
  }
  if (tag === "a") assert.match(attributes.rel, /\bnoopener\b/);
  children.forEach(check);
}

const text = (node) => (typeof node === "string" ? node : node.slice(2).map(text).join(""));

for (const hostile of [
  "<img src=x onerror=alert(1)>",
  "<script>alert(1)</script>",
  '<a href="javascript:alert(1)">a</a>',
  "<svg/onload=alert(1)>",
  "<!-- a --> <![CDATA[ b ]]> <?php c ?>",
  "[a](javascript:alert%281%29)",
  "[a](JaVaScRiPt:alert%281%29)",
  "[a](data:text/html;base64,PHNjcmlwdD4=)",
  "[a](vbscript:x)",
  "[a](file:///etc/passwd)",
  "[a](//evil.test/)",
  "[a](/chat?question=x)",
  "<javascript:alert(1)>",
  "![a](javascript:alert%281%29)",
  "&#x3C;img src=x&#x3E;",
]) {
  test(`hostile: ${hostile} is text`, () => {
    const nodes = read(hostile);
    nodes.forEach(check);
    assert.ok(!JSON.stringify(nodes).includes('"href"'));
    assert.equal(nodes.map(text).join(""), hostile);
  });
}

test("what a browser would take out of an address is taken out before it is judged", () => {
  for (const address of ["java\tscript:alert(1)", "java\nscript:alert(1)", "\u0001javascript:alert(1)", " javascript:a"]) {
    const nodes = read(`[a](<${address}>) <${address}>`);
    nodes.forEach(check);
    assert.ok(!JSON.stringify(nodes).includes('"href"'), address);
  }
});

test("a language is a text, and one word", () => {
  assert.deepEqual(coded(read('```"><script> x\n```')[0]), ['"><script>', ""]);
});

test("long hostile texts come to an end, and stay what they are", () => {
  for (const bit of ["*a ", "a* ", "*_", "[", "![](", "[](", "`a``", "> ", "- ", "1. ", "|", "| a |\n|-|\n", "<a", "&amp", "~~", "\\", "# # ", "```\n", "   "]) {
    for (const whole of [bit.repeat(6000), `${bit.repeat(6000)}x`]) {
      const nodes = read(whole);
      nodes.forEach(check);
    }
  }
});

test("nesting is bounded", () => {
  const depth = (node) => (typeof node === "string" ? 0 : 1 + Math.max(0, ...node.slice(2).map(depth)));
  for (const bit of ["> ", "- ", "1. ", "> - "]) {
    assert.ok(depth(read(`${bit.repeat(500)}a`)[0]) < 40);
  }
});

// --- growing

const PARTS = [
  "a", "b ", "**", "*", "_", "`", "```", "```js", "~~", "[", "](", "https://x.org", ")", "|", "|-|", "| a | b |",
  "# ", "- ", "-", "1. ", "2", "> ", "---", "\n", "\n", "\n\n", "\n  ", "\n    ", " ", "你好", "。", "<b>", "&lt;", "\\", "\r\n", ":",
];

/** Type a text in these pieces; return what stands there in the end, and check what was settled. */
function typed(pieces) {
  const growing = new Growing();
  const shown = [];
  for (const piece of pieces) {
    const { first, nodes } = growing.push(piece);
    shown.splice(first, Infinity, ...nodes);
    nodes.forEach(check);
  }
  const { first, nodes } = growing.end();
  assert.ok(first <= shown.length);
  shown.splice(first, Infinity, ...nodes);
  return shown;
}

test("a text that grew is what it would have been at once", () => {
  const next = random(7);
  for (let round = 0; round < 4000; round++) {
    const whole = Array.from({ length: 30 }, () => PARTS[next(PARTS.length)]).join("");
    assert.deepEqual(typed(cuts(whole, next)), read(whole.replaceAll("\r", "")), JSON.stringify(whole));
  }
});

test("character by character, no mark is seen before it is known what it is", () => {
  const growing = new Growing();
  let seen = [];
  for (const character of "So **bold** and `code` and [link](https://x.org/):\n\n- a\n- b\n\n| a | b |\n|---|---|\n| c | d |\n\n---\n\n2. e\n") {
    const { first, nodes } = growing.push(character);
    seen.splice(first, Infinity, ...nodes);
    const shown = seen.map(text).join("\n");
    assert.doesNotMatch(shown, /[*`|\d]|\]\(|--/, shown);
  }
});

test("what is settled is not looked at again", () => {
  const growing = new Growing();
  growing.push("a\n\nb\n\nc\n\n");
  const { first, nodes } = growing.push("d");
  assert.equal(first, 2);
  assert.equal(html(nodes), "<p>c</p><p>d</p>");
});
