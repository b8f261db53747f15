/**
 * Queues sound for playback in the audio thread, and counts exactly what was played.
 *
 * The page imports this file as well: without worklets (on pages that are neither https nor from localhost), the same
 * queue feeds an older node.
 */

/** Sound to collect before playback starts, so that a late piece makes no gap. */
const FIRST_RESERVE_S = 0.1;
/** A gap doubles the reserve, up to this. */
const LARGEST_RESERVE_S = 0.8;
/** Time between two reports during playback. */
const REPORT_S = 0.05;

/** Plays the sound of one answer after another. */
export class PlaybackQueue {
  /**
   * @param {number} rateHz
   * @param {(report: object) => void} tell takes `{type: "started" | "played" | "ended" | "stopped", item, samples}`
   */
  constructor(rateHz, tell) {
    this.rateHz = rateHz;
    this.tell = tell;
    this.reserve = FIRST_RESERVE_S * rateHz;
    this.clear();
  }

  /** Obey a message: `{type: "push", item, wave}`, `{type: "end", item}` or `{type: "stop"}`. */
  take(message) {
    if (message.type === "push") this.push(message.item, message.wave);
    else if (message.type === "end") this.end(message.item);
    else this.stop();
  }

  /** Add sound of an answer. */
  push(item, wave) {
    let answer = this.answers.at(-1);
    if (answer?.item !== item) {
      answer = { item, waves: [], offset: 0, left: 0, played: 0, isWhole: false, isPlaying: false, hasStarted: false };
      this.answers.push(answer);
    }
    answer.waves.push(wave);
    answer.left += wave.length;
  }

  /** Note that all sound of an answer has arrived. */
  end(item) {
    const answer = this.answers.find((one) => one.item === item);
    if (answer) answer.isWhole = true;
  }

  /** Drop all sound and report how much of the current answer was played. */
  stop() {
    const answer = this.answers[0];
    this.tell({ type: "stopped", item: answer?.item ?? null, samples: answer?.played ?? 0 });
    this.clear();
  }

  /** Write the next samples, or silence if there are none. */
  fill(output) {
    output.fill(0);
    const answer = this.answers[0];
    if (!answer) return;
    if (!answer.isPlaying) {
      if (!answer.isWhole && answer.left < this.reserve) return;
      answer.isPlaying = true;
      if (!answer.hasStarted) this.tell({ type: "started", item: answer.item, samples: 0 });
      answer.hasStarted = true;
    }
    const count = this.#copy(answer, output);
    answer.played += count;
    this.unreported += count;
    if (answer.left > 0) {
      if (this.unreported >= REPORT_S * this.rateHz) this.#report("played", answer);
    } else if (answer.isWhole) {
      this.#report("ended", answer);
      this.answers.shift();
    } else {
      // The next piece is late, so collect more sound before going on.
      this.#report("played", answer);
      answer.isPlaying = false;
      this.reserve = Math.min(2 * this.reserve, LARGEST_RESERVE_S * this.rateHz);
    }
  }

  clear() {
    this.answers = [];
    this.unreported = 0;
  }

  #copy(answer, output) {
    let count = 0;
    while (count < output.length && answer.waves.length) {
      const wave = answer.waves[0];
      const piece = wave.subarray(answer.offset, answer.offset + output.length - count);
      output.set(piece, count);
      count += piece.length;
      answer.offset += piece.length;
      answer.left -= piece.length;
      if (answer.offset === wave.length) {
        answer.waves.shift();
        answer.offset = 0;
      }
    }
    return count;
  }

  #report(type, answer) {
    this.tell({ type, item: answer.item, samples: answer.played });
    this.unreported = 0;
  }
}

if (globalThis.AudioWorkletProcessor) {
  registerProcessor(
    "playback",
    class extends AudioWorkletProcessor {
      constructor() {
        super();
        this.queue = new PlaybackQueue(sampleRate, (report) => this.port.postMessage(report));
        this.port.onmessage = ({ data }) => this.queue.take(data);
      }

      process(_, [[output]]) {
        this.queue.fill(output);
        return true;
      }
    },
  );
}
