// Model, pace and delay: kept for good; what the page's own address says wins for this visit.
//   /?model=demo-thinking&pace=typewriter&delay_ms=100

import { keyHeaders } from "./key.js";
import { forGood } from "./kept.js";

const NAMES = ["model", "pace", "delay_ms"];

export class Choices {
  #fields;
  #listed = null; // whose list of models stands in the page

  /** `fields`: {model, pace, delay_ms}: the inputs; `models`: the model's datalist. */
  constructor(fields, models) {
    this.#fields = fields;
    const asked = new URLSearchParams(location.search);
    for (const name of NAMES) {
      fields[name].value = asked.get(name) ?? forGood.get(name);
      fields[name].addEventListener("change", () => this.#keep(name));
    }
    fields.model.addEventListener("focus", () => this.#list(models));
    this.#show();
  }

  /** Return what POST /chat takes; what was not chosen is left to the relay. */
  asked() {
    const { model, pace, delay_ms: delay } = this.#fields;
    const asked = {};
    if (model.value.trim()) asked.model = model.value.trim();
    if (pace.value) asked.pace = pace.value;
    if (pace.value === "typewriter" && delay.value && delay.validity.valid) {
      asked.delay_ms = Number(delay.value) || 1; // 0 would contradict the pace
    }
    return asked;
  }

  #keep(name) {
    const field = this.#fields[name];
    if (field.validity.valid) forGood.set(name, field.value.trim());
    this.#show();
  }

  #show() {
    this.#fields.delay_ms.closest("label").hidden = this.#fields.pace.value !== "typewriter";
  }

  /** Ask the relay once which models there are; without an answer any name can be typed. */
  async #list(models) {
    const headers = keyHeaders();
    const whose = headers.Authorization ?? "";
    if (this.#listed === whose) return;
    this.#listed = whose;
    try {
      const response = await fetch("v1/models", { headers });
      const { data } = await response.json();
      models.replaceChildren(...data.map(({ id }) => new Option(id, id)));
    } catch {
      this.#listed = null;
    }
  }
}
