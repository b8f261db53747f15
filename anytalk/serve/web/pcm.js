/** Sound as the protocol carries it: 16-bit little-endian PCM at 24 kHz, in base64. */

/** Samples per second on the wire. */
export const WIRE_RATE_HZ = 24_000;

/**
 * Samples to base64 of PCM16.
 * @param {Float32Array} wave in [-1, 1]; louder is clipped.
 * @returns {string}
 */
export function encode(wave) {
  const view = new DataView(new ArrayBuffer(2 * wave.length));
  wave.forEach((sample, index) => {
    const clipped = Math.max(-1, Math.min(1, sample));
    view.setInt16(2 * index, Math.round(clipped * 32767), true);
  });
  const bytes = new Uint8Array(view.buffer);
  let text = "";
  // In pieces: a call takes only so many arguments.
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

/**
 * Base64 of PCM16 to samples.
 * @param {string} data
 * @returns {Float32Array}
 */
export function decode(data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}
