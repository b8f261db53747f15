/** Plays the answers, and knows to the sample how much of them was heard. */

import { WIRE_RATE_HZ } from "./pcm.js";
import { PlaybackQueue } from "./playback-worklet.js";

/** Samples at once where there is no worklet: 43 ms. */
const OLD_BLOCK = 1024;

/** The loudspeaker. */
export class Player {
  /**
   * @param {object} handlers
   * @param {(item: string) => void} handlers.onStart the first sound of an answer is played
   * @param {(item: string) => void} handlers.onEnd all of an answer was played
   */
  constructor({ onStart, onEnd }) {
    this.handlers = { onStart, onEnd };
    /** Samples of all answers that were played. */
    this.playedSamples = 0;
    /** @type {AnalyserNode | null} */
    this.analyser = null;
    this.context = null;
    this.open = null;
    this.playing = null;
    this.counted = 0;
    this.waiting = [];
    this.dropped = new Set();
  }

  /** Whether sound of an answer is there that was not played. */
  get isPlaying() {
    return this.playing !== null;
  }

  /** Be ready; browsers let a page make sound only from a click or a key on. */
  async resume() {
    this.open ??= this.#open();
    await this.open;
    await this.context.resume();
  }

  /**
   * Add sound of an answer.
   * @param {string} item its id
   * @param {Float32Array} wave at 24 kHz
   */
  play(item, wave) {
    if (this.dropped.has(item)) return;
    this.playing ??= item;
    this.send?.({ type: "push", item, wave });
  }

  /** All of an answer's sound was given. */
  end(item) {
    this.send?.({ type: "end", item });
  }

  /**
   * Be silent at once; nothing more of this answer is played.
   * @returns {Promise<{item: string, heardMs: number} | null>} what was interrupted
   */
  async stop() {
    if (!this.isPlaying) return null;
    const item = this.playing;
    this.dropped.add(item);
    this.playing = null;
    const report = await new Promise((resolve) => {
      this.waiting.push(resolve);
      this.send({ type: "stop" });
      // A context that the browser suspended answers nothing, and has played nothing.
      setTimeout(resolve, 500, { item, samples: 0 });
    });
    // Its last sample was played just before: nothing was interrupted.
    if (report.item !== item) return null;
    // What was handed to the system less than its latency ago was not heard yet.
    const latencyS = (this.context.outputLatency || 0) + (this.context.baseLatency || 0);
    return { item, heardMs: Math.max(0, Math.floor((report.samples / WIRE_RATE_HZ - latencyS) * 1000)) };
  }

  async #open() {
    this.context = new AudioContext({ sampleRate: WIRE_RATE_HZ, latencyHint: "interactive" });
    this.analyser = new AnalyserNode(this.context, { fftSize: 1024, smoothingTimeConstant: 0.3 });
    this.analyser.connect(this.context.destination);
    const node = await (this.context.audioWorklet ? this.#worklet() : this.#oldNode());
    node.connect(this.analyser);
  }

  async #worklet() {
    await this.context.audioWorklet.addModule(new URL("playback-worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    node.port.onmessage = ({ data }) => this.#hear(data);
    this.send = (message) => node.port.postMessage(message);
    return node;
  }

  #oldNode() {
    const queue = new PlaybackQueue(WIRE_RATE_HZ, (report) => this.#hear(report));
    const node = this.context.createScriptProcessor(OLD_BLOCK, 0, 1);
    node.onaudioprocess = ({ outputBuffer }) => queue.fill(outputBuffer.getChannelData(0));
    this.send = (message) => queue.take(message);
    return node;
  }

  #hear({ type, item, samples }) {
    if (type === "started") {
      this.counted = 0;
      this.playing = item;
    }
    this.playedSamples += Math.max(0, samples - this.counted);
    this.counted = samples;
    if (type === "stopped") {
      this.waiting.shift()?.({ item, samples });
      return;
    }
    if (this.dropped.has(item)) return;
    if (type === "started") this.handlers.onStart(item);
    if (type === "ended") {
      if (this.playing === item) this.playing = null;
      this.handlers.onEnd(item);
    }
  }
}
