/** Opens the microphone: echo cancelled, resampled to 24 kHz, in small pieces. */

import { WIRE_RATE_HZ } from "./pcm.js";
import { Problem } from "./problems.js";
import { Resampler } from "./resampler.js";

/** Holds a microphone that can be opened and closed repeatedly. */
export class Microphone {
  /**
   * @param {object} handlers
   * @param {(wave: Float32Array) => void} handlers.onSound called with pieces at 24 kHz
   * @param {() => void} handlers.onLost called if the device disappears
   */
  constructor({ onSound, onLost }) {
    this.onSound = onSound;
    this.onLost = onLost;
    /** @type {AnalyserNode | null} */
    this.analyser = null;
    this.stream = null;
    this.context = null;
  }

  /** Tell whether the microphone is open. */
  get isOpen() {
    return this.stream !== null;
  }

  /**
   * Ask for the microphone and start.
   * @throws {Problem} there is no microphone, or the page may not use it.
   */
  async open() {
    if (this.isOpen) return;
    if (!window.isSecureContext || !navigator.mediaDevices?.getUserMedia) throw new Problem("insecure");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
    } catch (error) {
      throw new Problem(microphoneProblem(error), error.message);
    }
    this.stream = stream;
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      this.close();
      this.onLost();
    });
    // Use the device's own rate: Firefox refuses a microphone in a context with another one.
    this.context = new AudioContext({ latencyHint: "interactive" });
    await this.context.resume();
    await this.context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    const source = this.context.createMediaStreamSource(stream);
    const capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, channelCount: 1 });
    const resampler = new Resampler(this.context.sampleRate, WIRE_RATE_HZ);
    capture.port.onmessage = ({ data }) => this.onSound(resampler.push(data));
    this.analyser = new AnalyserNode(this.context, { fftSize: 2048, smoothingTimeConstant: 0.3 });
    source.connect(this.analyser);
    source.connect(capture);
  }

  /** Close the microphone; the browser's recording sign goes off. */
  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = this.analyser = null;
  }
}

function microphoneProblem(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "microphone-denied";
    case "NotFoundError":
    case "OverconstrainedError":
      return "microphone-missing";
    case "NotReadableError":
    case "AbortError":
      return "microphone-busy";
    default:
      return "microphone-failed";
  }
}
