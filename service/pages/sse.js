// Bytes to events, as the HTML standard has it (9.2.6, interpreting an event stream): UTF-8, one
// BOM, LF, CRLF and CR, comments, several data lines; an event that has no end is none.

/** Takes the bytes as they come, cut anywhere. */
export class Parser {
  #decoder = new TextDecoder(); // it takes the BOM away, and half a character waits in it
  #line = ""; // what has come of a line that has no end yet
  #returned = false; // the last character was a CR: a LF after it belongs to it
  #data = [];
  #type = "";
  #id = ""; // of the block that is being read

  /** The last event's id, which the standard keeps from event to event. */
  lastEventId = "";

  /** Return the events that these bytes complete: [{type, data, id}]. */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#returned && text) {
      this.#returned = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    if (text.endsWith("\r")) this.#returned = true;
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    return lines.map((line) => this.#take(line)).filter(Boolean);
  }

  #take(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch() {
    const [data, type] = [this.#data, this.#type];
    this.#data = [];
    this.#type = "";
    this.lastEventId = this.#id;
    if (!data.length) return null;
    return { type: type || "message", data: data.join("\n"), id: this.lastEventId };
  }
}
