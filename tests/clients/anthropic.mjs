// The npm package @anthropic-ai/sdk; the job names the call.
import Anthropic from "@anthropic-ai/sdk";

import { job, say, signal, work } from "./report.mjs";

const client = new Anthropic({ baseURL: job.url, apiKey: job.key });
const body = { max_tokens: 100, ...job.body };

await work({
  async stream() {
    for await (const event of await client.messages.create({ ...body, stream: true }, { signal })) {
      if (event.delta?.type === "text_delta") say({ text: event.delta.text });
      if (event.delta?.type === "thinking_delta") say({ reasoning: event.delta.thinking });
      if (event.type === "message_delta") say({ done: event.delta.stop_reason });
    }
  },
  async tools() {
    const stream = client.messages.stream(body, { signal });
    stream.on("thinking", (piece) => say({ reasoning: piece }));
    stream.on("inputJson", (piece) => say({ arguments: piece }));
    const { content, stop_reason, usage } = await stream.finalMessage();
    for (const block of content) {
      if (block.type === "thinking") say({ thinking: block.thinking, signature: block.signature });
      if (block.type === "tool_use") say({ tool: block.name, with: block.input });
    }
    say({ done: stop_reason, usage: usage.output_tokens });
  },
  async whole() {
    const { content, _request_id } = await client.messages.create(body);
    say({ text: content[0].text, id: _request_id });
  },
});
