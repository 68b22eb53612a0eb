// Clients that a platform brings along: a module for Node, and as it stands a script for a page.
// Each follows GET or POST /chat and says: text, reasoning, tools, done, error, and how it was lost.

const SAYS = {
  answer: ({ content }) => ({ text: content }),
  reasoning: ({ content }) => ({ reasoning: content }),
  tool_calls: ({ tool_calls }) => ({ tools: tool_calls }),
  done: ({ finish_reason }) => ({ done: finish_reason }),
  error: ({ code, message, status }) => ({ error: { code, message, status } }),
};

globalThis.follow = {
  /** Reports one event of /chat; `start` has nothing to tell. */
  event(name, data, say) {
    if (name in SAYS) say(SAYS[name](JSON.parse(data)));
  },

  /** Follows with an EventSource, closed at the end as a page does; `stays`: the page forgets to. */
  eventSource(EventSource, { url, stays }, say, signal) {
    return new Promise((closed) => {
      const source = new EventSource(`${url}`);
      const close = () => closed(source.close());
      signal.addEventListener("abort", close);
      for (const name of Object.keys(SAYS)) {
        source.addEventListener(name, ({ data }) => data && follow.event(name, data, say));
      }
      if (!stays) source.addEventListener("done", close);
      source.addEventListener("error", ({ data }) => {
        // with data it is the event of /chat, without it the EventSource's own
        if (data) return stays || close();
        const over = source.readyState === source.CLOSED;
        say({ lost: over ? "closed" : "connecting" });
        if (over) closed();
      });
    });
  },

  /** POSTs, hands the body's text to `read` piece by piece, and reports how it broke. */
  async post({ url, body }, read, say, signal) {
    try {
      const response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(body),
        signal,
      });
      if (!response.ok) {
        return say({ error: { status: response.status, ...(await response.json()).error } });
      }
      const reader = response.body.getReader();
      const decoder = new TextDecoder();
      for (let piece; !(piece = await reader.read()).done; ) {
        read(decoder.decode(piece.value, { stream: true }));
      }
    } catch (error) {
      if (!signal.aborted) say({ lost: error.name });
    }
  },

  /** Reads as many pages do: an event ends at a blank line, and its fields have one line each. */
  byBlankLines(say) {
    let held = "";
    return (text) => {
      const blocks = (held + text).split("\n\n");
      held = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").map((line) => [line, line.indexOf(": ")]);
        const fields = lines.map(([line, at]) => [line.slice(0, at), line.slice(at + 2)]);
        const { event, data } = Object.fromEntries(fields);
        if (data) follow.event(event, data, say);
      }
    };
  },
};
