/** Draws sound as a picture that grows to the right, and as a level. */

const LOWEST_HZ = 80;
const HIGHEST_HZ = 8000;
const QUIETEST_DB = -92;
const LOUDEST_DB = -22;
/** Seconds in the picture. */
const WIDTH_S = 6;
const LEVEL_RANGE_DB = 54;
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** Draws the picture of one side of the conversation. */
export class Spectrogram {
  /**
   * @param {HTMLElement} lane contains a `canvas` and a `.level`
   * @param {() => AnalyserNode | null} analyser returns the sound's analyser; null without sound
   */
  constructor(lane, analyser) {
    this.lane = lane;
    this.canvas = lane.querySelector("canvas");
    this.level = lane.querySelector(".level");
    this.drawing = this.canvas.getContext("2d", { willReadFrequently: true });
    this.analyser = analyser;
    this.due = 0;
    this.cursor = 0;
    new ResizeObserver(() => this.#resize()).observe(this.canvas);
    this.recolour();
  }

  /** Take the colours of the current theme and start a new picture. */
  recolour() {
    const style = getComputedStyle(this.lane);
    const [near, bright] = ["--tone", "--tone-bright"].map((name) => rgb(style.getPropertyValue(name)));
    this.palette = Array.from({ length: 256 }, (_, index) => {
      const strength = index / 255;
      const colour = near.map((value, channel) => value + (bright[channel] - value) * Math.max(0, 2 * strength - 1));
      return [...colour, 255 * Math.min(1, 1.7 * strength ** 1.4)];
    });
    this.drawing.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.cursor = 0;
  }

  /**
   * Draw what was heard since the last call.
   * @param {number} elapsedS
   * @returns {number} the level in [0, 1]
   */
  draw(elapsedS) {
    const analyser = this.analyser();
    const level = analyser ? levelOf(analyser) : 0;
    this.level.style.transform = `scaleX(${level.toFixed(3)})`;
    if (!analyser) return level;
    this.due += (elapsedS * this.canvas.width) / WIDTH_S;
    const columns = Math.min(Math.floor(this.due), this.canvas.width);
    this.due -= Math.floor(this.due);
    if (columns > 0) this.#columns(analyser, columns);
    return level;
  }

  #columns(analyser, count) {
    const { width, height } = this.canvas;
    const decibels = new Float32Array(analyser.frequencyBinCount);
    analyser.getFloatFrequencyData(decibels);
    // The level of digital silence is minus infinity.
    const bins = decibels.map((value) => Math.max(value, QUIETEST_DB));
    const perBin = analyser.context.sampleRate / 2 / bins.length;
    const image = this.drawing.createImageData(count, height);
    for (let row = 0; row < height; row++) {
      const hz = HIGHEST_HZ * (LOWEST_HZ / HIGHEST_HZ) ** (row / height);
      const nextHz = HIGHEST_HZ * (LOWEST_HZ / HIGHEST_HZ) ** ((row + 1) / height);
      const strength = (loudest(bins, nextHz / perBin, hz / perBin) - QUIETEST_DB) / (LOUDEST_DB - QUIETEST_DB);
      const colour = this.palette[Math.round(255 * Math.max(0, Math.min(1, strength)))];
      for (let column = 0; column < count; column++) image.data.set(colour, 4 * (row * count + column));
    }
    if (reducedMotion.matches) {
      // With reduced motion nothing scrolls: the picture is overwritten from left to right.
      if (this.cursor + count > width) this.cursor = 0;
      this.drawing.putImageData(image, this.cursor, 0);
      this.cursor += count;
    } else {
      this.drawing.globalCompositeOperation = "copy";
      this.drawing.drawImage(this.canvas, -count, 0);
      this.drawing.putImageData(image, width - count, 0);
    }
  }

  #resize() {
    const scale = Math.min(devicePixelRatio, 2);
    const width = Math.max(1, Math.round(this.canvas.clientWidth * scale));
    const height = Math.max(1, Math.round(this.canvas.clientHeight * scale));
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = width;
    this.canvas.height = height;
    this.cursor = 0;
  }
}

/** Return the root mean square as a share of the range that is shown. */
function levelOf(analyser) {
  const wave = new Float32Array(analyser.fftSize);
  analyser.getFloatTimeDomainData(wave);
  const power = wave.reduce((sum, sample) => sum + sample * sample, 0) / wave.length;
  return Math.max(0, Math.min(1, 1 + (10 * Math.log10(power + 1e-12)) / LEVEL_RANGE_DB));
}

/** Return the loudest bin of a band, interpolated if the band is narrower than a bin. */
function loudest(bins, from, to) {
  const first = Math.ceil(from);
  if (first > to) {
    const below = Math.min(Math.floor(to), bins.length - 2);
    return bins[below] + (bins[below + 1] - bins[below]) * (to - below);
  }
  let most = -Infinity;
  for (let bin = first; bin <= Math.min(to, bins.length - 1); bin++) most = Math.max(most, bins[bin]);
  return most;
}

/** Convert `#rrggbb` to [r, g, b]. */
function rgb(colour) {
  const digits = colour.trim().slice(1);
  return [0, 2, 4].map((start) => parseInt(digits.slice(start, start + 2), 16));
}
