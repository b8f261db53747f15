// One hands-free voice turn with the official client: node voice_turn.mjs BASE_URL QUESTION.pcm (16-bit, 24 kHz).
import { readFileSync } from "node:fs";
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";

const [baseURL, question] = process.argv.slice(2);
const client = new OpenAI({ apiKey: "s3cret", baseURL });
const realtime = new OpenAIRealtimeWS({ model: "tiny" }, client);
const types = [];
let soundBytes = 0;

function end(status, told) {
  console.log(JSON.stringify(told));
  realtime.close();
  process.exitCode = status;
}

realtime.on("error", (error) => end(1, { error: String(error?.message ?? error) }));
realtime.on("event", (event) => types.push(event.type));
realtime.on("response.output_audio.delta", (event) => {
  soundBytes += Buffer.from(event.delta, "base64").length;
});
realtime.on("session.created", () => {
  realtime.send({ type: "session.update", session: { type: "realtime", max_output_tokens: 8 } });
  const sound = readFileSync(question);
  for (let start = 0; start < sound.length; start += 4800) {
    const audio = sound.subarray(start, start + 4800).toString("base64");
    realtime.send({ type: "input_audio_buffer.append", audio });
  }
});
realtime.on("response.done", (event) =>
  end(0, { types, soundBytes, status: event.response.status, item: event.response.output[0] }),
);
