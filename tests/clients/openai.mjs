// The npm package openai; the job names the call.
import OpenAI, { toFile } from "openai";

import { job, say, signal, work } from "./report.mjs";

const client = new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key });
const { body } = job;
const sound = () => toFile(Buffer.from("sound"), "声音.mp3");

await work({
  async stream() {
    const chunks = await client.chat.completions.create({ ...body, stream: true }, { signal });
    for await (const { choices: [choice] } of chunks) {
      if (choice?.delta?.content) say({ text: choice.delta.content });
      if (choice?.delta?.reasoning_content) say({ reasoning: choice.delta.reasoning_content });
      if (choice?.finish_reason) say({ done: choice.finish_reason });
    }
  },
  async tools() {
    const stream = client.chat.completions.stream(body, { signal });
    stream.on("tool_calls.function.arguments.delta", (e) => say({ arguments: e.arguments_delta }));
    const { choices, usage } = await stream.finalChatCompletion();
    for (const call of choices[0].message.tool_calls) {
      say({ tool: call.function.name, with: JSON.parse(call.function.arguments) });
    }
    say({ done: choices[0].finish_reason, usage: usage.total_tokens });
  },
  async responses() {
    for await (const event of await client.responses.create({ ...body, stream: true }, { signal })) {
      if (event.type === "response.output_text.delta") say({ text: event.delta });
      if (event.type === "response.completed") say({ done: event.response.status });
    }
  },
  async whole() {
    const { choices, _request_id } = await client.chat.completions.create(body);
    say({ text: choices[0].message.content, id: _request_id });
  },
  async structured() {
    say({ parsed: (await client.chat.completions.parse(body)).choices[0].message.parsed });
  },
  async embeddings() {
    say({ vector: (await client.embeddings.create(body)).data[0].embedding });
  },
  async file() {
    say({ id: (await client.files.create({ file: await sound(), purpose: "user_data" })).id });
  },
  async transcription() {
    say({ text: (await client.audio.transcriptions.create({ ...body, file: await sound() })).text });
  },
  async speech() {
    const spoken = await client.audio.speech.create(body);
    say({ bytes: Buffer.from(await spoken.arrayBuffer()).toString("hex") });
  },
  async image() {
    say({ image: (await client.images.generate(body)).data[0].b64_json });
  },
});
