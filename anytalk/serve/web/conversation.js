/** Runs a conversation: shows and plays what the server sends, and stops an answer when the user speaks. */

import { Connection } from "./connection.js";
import { Problem } from "./problems.js";
import { WIRE_RATE_HZ, decode, encode } from "./pcm.js";

/** A held turn shorter than this counts as an accident. */
const SHORTEST_TURN_S = 0.25;
/** Errors of harmless races, e.g. an answer that ended before it was cancelled. */
const HARMLESS = new Set(["response_cancel_not_active"]);

/**
 * @typedef {object} Settings
 * @property {boolean} isHandsFree whether the server detects turns; otherwise the user holds the button
 * @property {string} voice
 * @property {string} instructions "" for the talker's own
 * @property {number} silenceMs silence that ends a turn
 * @property {boolean} writesDown whether spoken questions are transcribed
 * @property {boolean} speaks whether answers have sound
 */

/** Holds one session and its turns. */
export class Conversation {
  /**
   * @param {object} parts
   * @param {import("./player.js").Player} parts.player
   * @param {import("./transcript.js").Transcript} parts.transcript
   * @param {(problem: Problem) => void} parts.onProblem
   * @param {() => void} parts.onChange called when the state changes
   */
  constructor({ player, transcript, onProblem, onChange }) {
    this.player = player;
    this.transcript = transcript;
    this.onProblem = onProblem;
    this.onChange = onChange;
    this.connection = new Connection({
      onEvent: (event) => this.#take(event),
      onClosed: (problem) => this.#closed(problem),
    });
    this.#reset();
  }

  /** @returns {"closed" | "ready" | "listening" | "thinking" | "speaking"} */
  get state() {
    if (!this.connection.isOpen) return "closed";
    if (this.turn) return "listening";
    if (this.player.isPlaying) return "speaking";
    return this.answer && !this.answer.isOver ? "thinking" : "ready";
  }

  /**
   * Start a session.
   * @param {string} model
   * @param {string} key
   * @param {Settings} settings
   * @throws {Problem}
   */
  async begin(model, key, settings) {
    if (this.connection.isOpen) return;
    // Pressing two buttons quickly must start only one session.
    this.opening ??= this.connection.open(model, key).finally(() => (this.opening = null));
    await this.opening;
    this.configure(settings);
    this.onChange();
  }

  /** End the session; the transcript stays on the page. */
  end() {
    this.player.stop();
    this.connection.close();
    this.#reset();
    this.transcript.divide();
    this.onChange();
  }

  /** Send the settings to the server. */
  configure(settings) {
    const detection = { type: "server_vad", silence_duration_ms: settings.silenceMs };
    this.connection.send("session.update", {
      session: {
        type: "realtime",
        output_modalities: [settings.speaks ? "audio" : "text"],
        instructions: settings.instructions || this.ownInstructions,
        audio: {
          input: {
            turn_detection: settings.isHandsFree ? detection : null,
            transcription: settings.writesDown ? {} : null,
          },
          output: { voice: settings.voice },
        },
      },
    });
  }

  /** Send sound of the microphone, at 24 kHz. */
  hear(wave) {
    // Without its settings, the server would detect turns in this sound.
    if (this.opening || !this.connection.isOpen || !wave.length) return;
    this.connection.send("input_audio_buffer.append", { audio: encode(wave) });
    const from = this.sentSamples;
    this.sentSamples += wave.length;
    this.loudness.push({ ms: toMs(from), peak: wave.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0) });
    // Forget what is older than the longest turn, which is all that is drawn.
    if (this.loudness.length > 4000) this.loudness.splice(0, 2000);
  }

  /** Send a typed question. */
  async type(text) {
    await this.interrupt();
    const content = [{ type: "input_text", text }];
    this.connection.send("conversation.item.create", { item: { type: "message", role: "user", content } });
    this.#ask();
  }

  /** Start a turn because the button is held; a running answer ends. */
  beginTurn() {
    this.connection.send("input_audio_buffer.clear");
    this.turn = { item: null, startMs: toMs(this.sentSamples) };
    this.interrupt();
    this.onChange();
  }

  /** End the turn because the button was released, and request an answer. */
  endTurn() {
    if (!this.turn) return;
    const { startMs } = this.turn;
    this.turn = null;
    const endMs = toMs(this.sentSamples);
    if (endMs - startMs < SHORTEST_TURN_S * 1000) {
      this.connection.send("input_audio_buffer.clear");
      this.onProblem(new Problem("too-short"));
    } else {
      this.held = { startMs, endMs };
      this.connection.send("input_audio_buffer.commit");
      this.#ask();
    }
    this.onChange();
  }

  /** Forget the started turn because the microphone was switched off. */
  forgetTurn() {
    this.connection.send("input_audio_buffer.clear");
    if (this.turn?.item) this.transcript.remove(this.turn.item);
    this.turn = null;
    this.onChange();
  }

  /** Stop the answer: the model, the sound, and what both remember of it. */
  async interrupt() {
    if (this.answer && !this.answer.isOver) {
      this.answer.isCancelled = true;
      this.connection.send("response.cancel", { response_id: this.answer.id });
    }
    await this.#silence();
  }

  /** Note that the first sound of an answer is played. */
  started(item) {
    const answer = this.answers.get(item);
    if (answer?.askedAt) this.transcript.figure(item, "first sound", seconds(performance.now() - answer.askedAt));
    this.onChange();
  }

  #ask() {
    this.askedAt = performance.now();
    this.connection.send("response.create");
  }

  async #silence() {
    const stopped = await this.player.stop();
    if (!stopped) return;
    const { item, heardMs } = stopped;
    this.connection.send("conversation.item.truncate", { item_id: item, content_index: 0, audio_end_ms: heardMs });
    this.transcript.figure(item, "interrupted after", seconds(heardMs));
    this.onChange();
  }

  #take(event) {
    const handler = this.handlers[event.type];
    if (!handler) return;
    handler(event);
    this.onChange();
  }

  handlers = {
    "session.created": ({ session }) => {
      this.ownInstructions = session.instructions;
    },
    "input_audio_buffer.speech_started": ({ item_id: item, audio_start_ms: startMs }) => {
      this.turn = { item, startMs };
      this.transcript.listen(item);
      // The server has cancelled the answer, but sound that it sent before is still queued here.
      if (this.answer && !this.answer.isOver) this.answer.isCancelled = true;
      this.#silence();
    },
    "input_audio_buffer.speech_stopped": ({ item_id: item, audio_end_ms: endMs }) => {
      const startMs = this.turn?.startMs ?? 0;
      this.turn = null;
      this.askedAt = performance.now();
      this.#showSpoken(item, startMs, endMs);
    },
    "conversation.item.added": ({ item }) => {
      if (item.role !== "user") return;
      const [part] = item.content;
      if (part.type === "input_text") this.transcript.user(item.id, part.text);
      else if (this.held) this.#showSpoken(item.id, this.held.startMs, this.held.endMs);
      this.held = null;
    },
    "conversation.item.input_audio_transcription.delta": ({ item_id: item, delta }) =>
      this.transcript.hear(item, delta),
    "conversation.item.input_audio_transcription.completed": ({ item_id: item, transcript }) => {
      this.transcript.write(item, transcript);
    },
    "response.created": ({ response }) => {
      this.answer = { id: response.id, createdAt: performance.now(), askedAt: this.askedAt, soundS: 0, isOver: false };
      this.askedAt = null;
    },
    "response.output_item.added": ({ item }) => {
      this.answers.set(item.id, this.answer);
      this.transcript.answer(item.id);
    },
    "response.output_audio_transcript.delta": ({ item_id: item, delta }) => this.transcript.append(item, delta),
    "response.output_text.delta": ({ item_id: item, delta }) => this.transcript.append(item, delta),
    "response.output_audio.delta": ({ item_id: item, delta }) => {
      const answer = this.answers.get(item);
      if (answer.isCancelled) return;
      const wave = decode(delta);
      answer.soundS += wave.length / WIRE_RATE_HZ;
      answer.lastSoundAt = performance.now();
      this.player.play(item, wave);
    },
    "response.output_audio.done": ({ item_id: item }) => this.player.end(item),
    "response.done": ({ response }) => this.#answered(response),
    "conversation.item.truncated": ({ item_id: item }) => {
      // Only the server knows how many words belong to the sound that was heard.
      this.connection.send("conversation.item.retrieve", { item_id: item });
    },
    "conversation.item.retrieved": ({ item }) => this.transcript.heard(item.id, item.content[0]?.transcript ?? ""),
    error: ({ error }) => {
      if (!HARMLESS.has(error.code)) this.onProblem(new Problem("refused", error.message));
    },
  };

  #showSpoken(item, startMs, endMs) {
    const peaks = this.loudness.filter(({ ms }) => ms >= startMs && ms < endMs).map(({ peak }) => peak);
    this.transcript.spoken(item, peaks, seconds(endMs - startMs));
  }

  #answered(response) {
    const answer = this.answer;
    if (answer?.id !== response.id) return;
    answer.isOver = true;
    const item = response.output[0]?.id;
    if (item) {
      if (answer.soundS > 0) {
        const factor = (answer.lastSoundAt - answer.createdAt) / 1000 / answer.soundS;
        this.transcript.figure(item, "speech", seconds(1000 * answer.soundS));
        this.transcript.figure(item, "real-time factor", factor.toFixed(2));
      }
      if (response.status === "incomplete") this.transcript.figure(item, "ended by", "longest length");
      this.transcript.done(item, response.status === "cancelled");
    }
    if (response.status === "failed") this.onProblem(new Problem("failed", response.status_details?.error?.message));
  }

  async #closed(problem) {
    await this.player.stop();
    this.#reset();
    this.transcript.divide();
    this.onProblem(problem);
    this.onChange();
  }

  #reset() {
    this.answers = new Map();
    this.answer = this.turn = this.held = this.askedAt = null;
    this.ownInstructions = "";
    this.sentSamples = 0;
    this.loudness = [];
  }
}

function toMs(samples) {
  return (1000 * samples) / WIRE_RATE_HZ;
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(2)} s`;
}
