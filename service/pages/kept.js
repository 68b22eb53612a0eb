// What the browser keeps of this page: choices for good, the key for as long as its tab.

/** Storage that may be missing or forbidden: then nothing is kept, and nothing fails. */
class Kept {
  #storage;

  /** `storage`: returns localStorage or sessionStorage; the browser may forbid even to ask. */
  constructor(storage) {
    this.#storage = storage;
  }

  /** Return the text kept under that name, "" if there is none. */
  get(name) {
    return this.#attempt((storage) => storage.getItem(`teleprinter.${name}`)) ?? "";
  }

  /** Keep a text; "" forgets it. */
  set(name, value) {
    this.#attempt((storage) =>
      value
        ? storage.setItem(`teleprinter.${name}`, value)
        : storage.removeItem(`teleprinter.${name}`),
    );
  }

  #attempt(act) {
    try {
      return act(this.#storage());
    } catch {
      return null;
    }
  }
}

export const forGood = new Kept(() => localStorage);
export const forTab = new Kept(() => sessionStorage);
