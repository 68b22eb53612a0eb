// Vercel's ai with @ai-sdk/openai-compatible; the job names the call.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

import { described, job, say, signal, work } from "./report.mjs";

const provider = createOpenAICompatible({ name: "relay", baseURL: `${job.url}/v1`, apiKey: job.key });
const asked = { model: provider(job.body.model), messages: job.body.messages, abortSignal: signal };
const weather = tool({
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
});

const SAYS = {
  "text-delta": ({ text }) => ({ text }),
  "reasoning-delta": ({ text }) => ({ reasoning: text }),
  "tool-call": ({ toolName, input }) => ({ tool: toolName, with: input }),
  finish: ({ finishReason }) => ({ done: finishReason }),
  error: ({ error }) => ({ error: typeof error === "object" ? described(error) : { message: error } }),
};

async function stream(tools) {
  const { fullStream } = streamText({ ...asked, tools, onError() {} });
  for await (const part of fullStream) if (part.type in SAYS) say(SAYS[part.type](part));
}

await work({
  stream: () => stream(),
  tools: () => stream({ weather }),
  async whole() {
    const { text, response } = await generateText(asked);
    say({ text, id: response.headers["x-request-id"] });
  },
});
