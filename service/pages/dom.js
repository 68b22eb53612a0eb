// Elements out of plain data. A node is a text, or [tag, attributes, ...nodes]:
//
//   ["p", {class: "note"}, "Read ", ["em", {}, "this"]]
//
// A text only ever becomes a text node, and only the attributes below are ever set: whatever a
// model writes, it makes no markup and no code.

const ATTRIBUTES = new Set([
  "aria-hidden",
  "aria-label",
  "class",
  "data-copy",
  "data-label",
  "data-text",
  "href",
  "rel",
  "role",
  "start",
  "tabindex",
  "target",
  "type",
]);

/** Make the element, or the text node, of a node. */
export function make(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const [tag, attributes, ...children] = node;
  const element = document.createElement(tag);
  dress(element, {}, attributes);
  element.append(...children.map(make));
  return element;
}

/** Turn the children of `parent`, from the one numbered `first` on, from the nodes `before` into
 * the nodes `after`. What is alike stays: a selection, a focus, a scrolled code block. */
export function patch(parent, before, after, first = 0) {
  after.forEach((node, index) => {
    const old = before[index];
    const found = parent.childNodes[first + index];
    if (old === undefined) parent.append(make(node));
    else if (!alike(old, node)) found.replaceWith(make(node));
    else if (typeof node === "string") rewrite(found, old, node);
    else {
      dress(found, old[1], node[1]);
      patch(found, old.slice(2), node.slice(2));
    }
  });
  while (parent.childNodes.length > first + after.length) parent.lastChild.remove();
}

function alike(old, node) {
  if (typeof old === "string" || typeof node === "string") return typeof old === typeof node;
  return old[0] === node[0];
}

function rewrite(found, old, text) {
  if (text === old) return;
  if (text.startsWith(old)) found.appendData(text.slice(old.length));
  else found.data = text;
}

function dress(element, before, after) {
  for (const name of Object.keys({ ...before, ...after })) {
    if (!ATTRIBUTES.has(name) || before[name] === after[name]) continue;
    if (after[name] === undefined) element.removeAttribute(name);
    else element.setAttribute(name, after[name]);
  }
}
