// Texts in two languages. A page gives its tables once; every element that was told a text
// remembers its name, so that a change of language reaches all that stands on the page.
//
//   <p data-text="claim">…</p>   <button data-label="stop">   <textarea data-hint="question">

import { forGood } from "./kept.js";

const LANGUAGES = ["en", "zh-CN"];
const tables = { en: {}, "zh-CN": {} };
let now = globalThis.document?.documentElement.lang || "en"; // early.js has chosen

/** Add the texts of a page: {en: {name: "text with {values}"}, "zh-CN": {…}}. */
export function learn(texts) {
  for (const language of LANGUAGES) Object.assign(tables[language], texts[language]);
}

/** Return the language in force: "en" or "zh-CN". */
export function language() {
  return now;
}

/** Return the other one. */
export function otherLanguage() {
  return LANGUAGES.find((each) => each !== now);
}

/** Speak another language from now on, and keep it. */
export function speak(chosen) {
  now = chosen;
  forGood.set("language", chosen);
  document.documentElement.lang = chosen;
  translate(document);
}

/** Return the text of that name, with its {values} filled in; the name where there is no text. */
export function said(name, values = {}) {
  const text = tables[now][name] ?? tables.en[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

/** Tell whether there is a text of that name. */
export function known(name) {
  return name in tables.en;
}

/** Write a text into an element; "" empties it. */
export function tell(element, name, values = {}) {
  element.dataset.text = name;
  element.dataset.values = JSON.stringify(values);
  write(element);
}

/** Write a text that is the same in every language. */
export function quote(element, text) {
  delete element.dataset.text;
  element.textContent = text;
}

/** Write all texts below an element in the language in force. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) write(element);
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", said(element.dataset.label));
  }
  for (const element of root.querySelectorAll("[data-title]")) {
    element.title = said(element.dataset.title);
  }
  for (const element of root.querySelectorAll("[data-hint]")) {
    element.placeholder = said(element.dataset.hint);
  }
}

function write(element) {
  const { text, values } = element.dataset;
  element.textContent = text && said(text, values && JSON.parse(values));
}
