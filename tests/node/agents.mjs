// A spoken turn, an interruption and a function call with @openai/agents-realtime and its defaults:
// node agents.mjs ws://HOST/v1/realtime QUESTION.pcm (16-bit, 24 kHz).
import { readFileSync } from "node:fs";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from "@openai/agents-realtime";

const [url, question] = process.argv.slice(2);
const told = { errors: [], soundBytes: 0 };

const getWeather = tool({
  name: "get_weather",
  description: "Tell the weather.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
  execute: async ({ city }) => `sunny-in-${city}`,
});

async function session(act) {
  const agent = new RealtimeAgent({ name: "Assistant", instructions: "Be brief.", tools: [getWeather] });
  const made = new RealtimeSession(agent, { transport: new OpenAIRealtimeWebSocket({ url }) });
  made.on("error", (event) => told.errors.push(String(event.error?.error?.message ?? event.error)));
  made.on("audio", (event) => (told.soundBytes += event.data.byteLength));
  await made.connect({ apiKey: "any", url });
  await act(made);
  made.close();
}

function once(made, name) {
  return new Promise((resolve) => made.once(name, resolve));
}

async function says(made, words) {
  while (!JSON.stringify(made.history).includes(words)) await new Promise((resolve) => setTimeout(resolve, 20));
}

await session(async (made) => {
  const sound = readFileSync(question);
  for (let start = 0; start < sound.length; start += 4800) {
    made.sendAudio(new Uint8Array(sound.subarray(start, start + 4800)).buffer);
  }
  await says(made, "You said it.");
  told.voice = true;
});
await session(async (made) => {
  const interrupted = once(made, "audio_interrupted");
  made.sendMessage("Tell me a story");
  await once(made, "audio");
  made.interrupt();
  await interrupted;
  const done = await once(made.transport, "turn_done");
  told.interrupted = done.response.output.length > 0;
});
await session(async (made) => {
  made.sendMessage("What's the weather?");
  await says(made, "It is sunny-in-Paris.");
  told.tool = true;
});
console.log(JSON.stringify(told));
process.exit(0);
