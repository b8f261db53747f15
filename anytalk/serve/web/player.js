/** Plays answers, and knows to the sample how much of each was heard. */

import { WIRE_RATE_HZ } from "./pcm.js";
import { PlaybackQueue } from "./playback-worklet.js";

/** Samples per block without worklets: 43 ms. */
const OLD_BLOCK = 1024;

/** Plays sound through the loudspeaker. */
export class Player {
  /**
   * @param {object} handlers
   * @param {(item: string) => void} handlers.onStart called when the first sound of an answer is played
   * @param {(item: string) => void} handlers.onEnd called when all of an answer was played
   */
  constructor({ onStart, onEnd }) {
    this.handlers = { onStart, onEnd };
    /** Samples that were played, of all answers. */
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

  /** Tell whether there is sound that wasn't played yet. */
  get isPlaying() {
    return this.playing !== null;
  }

  /** Prepare playback; browsers allow a page to make sound only after a click or a key. */
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

  /** Note that all sound of an answer was added. */
  end(item) {
    this.send?.({ type: "end", item });
  }

  /**
   * Stop at once; no more of this answer is played.
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
      // A context that the browser suspended sends no report, and has played nothing.
      setTimeout(resolve, 500, { item, samples: 0 });
    });
    // The last sample was played just before, so nothing was interrupted.
    if (report.item !== item) return null;
    // Sound that the system got less than its latency ago hasn't been heard yet.
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
