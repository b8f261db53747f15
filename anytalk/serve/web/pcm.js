/** Converts sound to and from the protocol's form: 16-bit little-endian PCM at 24 kHz, in base64. */

/** Samples per second in the protocol. */
export const WIRE_RATE_HZ = 24_000;

/**
 * Encode samples as base64 of PCM16.
 * @param {Float32Array} wave samples in [-1, 1]; louder ones are clipped.
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
  // In pieces, because the number of a call's arguments is limited.
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

/**
 * Decode base64 of PCM16 to samples.
 * @param {string} data
 * @returns {Float32Array}
 */
export function decode(data) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length >> 1 }, (_, index) => view.getInt16(2 * index, true) / 32768);
}
