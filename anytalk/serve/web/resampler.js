/** Resamples a stream piece by piece, with the same result as resampling all of it at once. */

/** Zero crossings of the filter on each side; with more it is steeper and slower. */
const CROSSINGS = 16;
/** The filter starts to fall below half of the lower rate, which limits aliasing. */
const ROLLOFF = 0.92;

/** Filters in polyphase form and keeps its state between pieces. */
export class Resampler {
  /**
   * @param {number} fromHz rate of the input
   * @param {number} toHz rate of the output
   */
  constructor(fromHz, toHz) {
    const common = greatestDivisor(fromHz, toHz);
    this.up = toHz / common;
    this.down = fromHz / common;
    this.isIdle = this.up === this.down;
    const cutoff = ROLLOFF * Math.min(1, toHz / fromHz);
    this.half = Math.ceil(CROSSINGS / cutoff);
    this.filters = this.isIdle ? [] : Array.from({ length: this.up }, (_, phase) => this.#filter(phase / this.up, cutoff));
    // Silence before the first sample gives the filter its left half.
    this.held = new Float32Array(this.half);
    this.phase = 0;
  }

  /**
   * @param {Float32Array} wave
   * @returns {Float32Array} the samples so far; they lag by half the length of the filter.
   */
  push(wave) {
    if (this.isIdle) return wave;
    const sound = new Float32Array(this.held.length + wave.length);
    sound.set(this.held);
    sound.set(wave, this.held.length);
    const found = [];
    let at = this.half;
    while (at + this.half < sound.length) {
      const filter = this.filters[this.phase];
      let sum = 0;
      for (let tap = 0; tap < filter.length; tap++) sum += filter[tap] * sound[at - this.half + 1 + tap];
      found.push(sum);
      this.phase += this.down;
      at += Math.floor(this.phase / this.up);
      this.phase %= this.up;
    }
    this.held = sound.slice(at - this.half);
    return Float32Array.from(found);
  }

  /** @returns {Float32Array} the samples held back; the stream may continue afterwards, after a gap. */
  flush() {
    return this.isIdle ? new Float32Array(0) : this.push(new Float32Array(this.half));
  }

  /** Compute the taps for a sample `fraction` after the middle one: a sinc under a Hann window. */
  #filter(fraction, cutoff) {
    const taps = Float32Array.from({ length: 2 * this.half }, (_, tap) => {
      const distance = tap + 1 - this.half - fraction;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * distance) / (this.half + 1));
      return cutoff * sinc(cutoff * distance) * window;
    });
    const sum = taps.reduce((a, b) => a + b, 0);
    return taps.map((tap) => tap / sum);
  }
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

function greatestDivisor(a, b) {
  return b === 0 ? a : greatestDivisor(b, a % b);
}
