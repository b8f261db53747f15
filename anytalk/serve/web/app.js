/** Connects the page's buttons, fields and pictures to a conversation. */

import { Conversation } from "./conversation.js";
import { Microphone } from "./microphone.js";
import { Player } from "./player.js";
import { Problem } from "./problems.js";
import { askForTalker } from "./server.js";
import { Spectrogram } from "./spectrogram.js";
import { recall, remember } from "./storage.js";
import { TalkButton } from "./talk-button.js";
import { setUpTheme } from "./theme.js";
import { Transcript } from "./transcript.js";

const KEY = "anytalk-key";
/** People release the button while their last sound is still in the air or in the browser's pipeline. */
const TAIL_MS = 120;
const STATES = {
  closed: "Ready",
  ready: "Ready",
  listening: "Listening to you",
  thinking: "Thinking",
  speaking: "Speaking",
};
const RECONNECTABLE = new Set(["lost", "full", "stopping", "idle", "expired", "slow", "unreachable", "busy"]);

const find = (id) => document.getElementById(id);

class App {
  constructor() {
    this.talker = null;
    this.key = recall("sessionStorage", KEY) ?? "";
    this.transcript = new Transcript(find("turns"), find("announcer"));
    this.player = new Player({
      onStart: (item) => this.conversation.started(item),
      onEnd: () => this.show(),
    });
    this.conversation = new Conversation({
      player: this.player,
      transcript: this.transcript,
      onProblem: (problem) => this.tell(problem),
      onChange: () => this.show(),
    });
    this.microphone = new Microphone({
      onSound: (wave) => this.#heard(wave),
      onLost: () => this.#stopListening(new Problem("microphone-lost")),
    });
    this.lanes = [
      new Spectrogram(find("user-lane"), () => this.microphone.analyser),
      new Spectrogram(find("answer-lane"), () => (this.player.isPlaying ? this.player.analyser : null)),
    ];
    this.drawnAt = 0;
    this.isDrawing = false;
    this.talkButton = new TalkButton(find("talk"), {
      isHeld: () => !this.settings.isHandsFree,
      onToggle: () => this.#guarded(() => this.#toggle()),
      onPress: () => this.#guarded(() => this.#press()),
      onRelease: () => this.#release(),
    });
    this.#setUpFields();
    setUpTheme(find("theme"), () => this.lanes.forEach((lane) => lane.recolour()));
  }

  /** Ask the server which talker answers. */
  async start() {
    await this.#guarded(() => this.#meet());
  }

  /** @returns {import("./conversation.js").Settings} */
  get settings() {
    return {
      isHandsFree: document.querySelector("input[name=mode]:checked").value === "free",
      voice: find("voice").value || "default",
      instructions: find("instructions").value.trim(),
      silenceMs: Number(find("silence").value),
      writesDown: find("writes-down").checked && Boolean(this.talker?.hears),
      speaks: find("speaks").checked,
    };
  }

  /** Show a problem as a sentence, with a button if that helps. */
  tell(problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (problem.kind.startsWith("key-")) {
      this.#askForKey(problem);
      return;
    }
    if (!this.conversation.connection.isOpen) this.microphone.close();
    find("problem-text").textContent = problem.message;
    find("problem-action").hidden = !RECONNECTABLE.has(problem.kind);
    find("problem").hidden = false;
    this.show();
  }

  /** Update the page to the current state. */
  show() {
    const { isHandsFree } = this.settings;
    const state = this.conversation.state;
    const isOn = isHandsFree ? this.microphone.isOpen : this.talkButton.isDown;
    const body = document.body.dataset;
    body.state = state;
    body.listening = String(isOn);
    const isWaiting = isHandsFree && isOn && state === "ready";
    setText(find("status-text"), this.talker ? (isWaiting ? "Listening" : STATES[state]) : "Not connected");
    find("talk").setAttribute("aria-pressed", String(isOn));
    const doings = isHandsFree ? ["Start listening", "Stop listening"] : ["Hold to talk", "Let go to send"];
    setText(find("talk-label"), doings[Number(isOn)]);
    setText(find("hint"), this.#hint(isHandsFree, isOn));
    find("stop").disabled = state !== "speaking" && state !== "thinking";
    this.#draw();
  }

  #hint(isHandsFree, isOn) {
    if (this.talker && !this.talker.hears) return "This talker doesn't hear: type";
    if (isHandsFree) return isOn ? "Speak. Press again to switch it off" : "Press and speak";
    return isOn ? "Let go to send" : "Hold it, or Space, while you speak";
  }

  // ---- speaking

  async #toggle() {
    if (this.microphone.isOpen) {
      this.#stopListening();
      return;
    }
    await this.#listen();
  }

  async #press() {
    clearTimeout(this.tail);
    if (this.conversation.turn) return;
    this.#clearProblem();
    const wasOpen = this.microphone.isOpen;
    await this.#listen();
    // The button may have been released while the browser asked for permission.
    if (this.talkButton.isDown) this.conversation.beginTurn();
    else if (!wasOpen) find("hint").textContent = "The microphone is ready: hold the button and speak";
  }

  #release() {
    clearTimeout(this.tail);
    this.tail = setTimeout(() => this.conversation.endTurn(), TAIL_MS);
    this.show();
  }

  async #listen() {
    if (this.talker && !this.talker.hears) throw new Problem("deaf");
    await this.microphone.open();
    try {
      await this.#connect();
    } catch (problem) {
      this.microphone.close();
      throw problem;
    }
    this.#clearProblem();
    this.show();
  }

  #stopListening(problem = null) {
    this.microphone.close();
    this.conversation.forgetTurn();
    if (problem) this.tell(problem);
    this.show();
  }

  #heard(wave) {
    if (this.settings.isHandsFree || this.conversation.turn) this.conversation.hear(wave);
  }

  async #connect() {
    await this.player.resume();
    if (!this.talker) await this.#meet();
    await this.conversation.begin(this.talker.id, this.key, this.settings);
    find("welcome").hidden = true;
  }

  #leave() {
    this.microphone.close();
    this.conversation.end();
  }

  async #type() {
    const text = find("text").value.trim();
    if (!text) return;
    await this.#connect();
    this.#clearProblem();
    find("text").value = "";
    await this.conversation.type(text);
  }

  // ---- the page's parts

  #setUpFields() {
    find("typing").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#guarded(() => this.#type());
    });
    find("stop").addEventListener("click", () => this.conversation.interrupt());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.conversation.interrupt();
    });
    for (const mode of document.querySelectorAll("input[name=mode]")) {
      mode.addEventListener("change", () => {
        this.#stopListening();
        this.conversation.configure(this.settings);
      });
    }
    find("open-settings").addEventListener("click", () => find("settings").showModal());
    find("settings").addEventListener("change", () => this.conversation.configure(this.settings));
    find("silence").addEventListener("input", () => {
      find("silence-shown").textContent = `${find("silence").value} ms`;
    });
    find("new-conversation").addEventListener("click", () => {
      find("settings").close();
      this.#leave();
    });
    find("problem-close").addEventListener("click", () => this.#clearProblem());
    find("problem-action").addEventListener("click", () =>
      this.#guarded(async () => {
        this.#clearProblem();
        await this.#connect();
      }),
    );
    // Browsers may keep a page that was left in memory, and with it the place at the server.
    window.addEventListener("pagehide", () => this.#leave());
    find("key-form").addEventListener("submit", () => {
      this.key = find("key").value.trim();
      remember("sessionStorage", KEY, this.key);
      this.start();
    });
  }

  async #meet() {
    this.talker = await askForTalker(this.key);
    const { id, voices, hears, writes } = this.talker;
    find("model").textContent = id;
    document.title = `${id} – anytalk`;
    this.transcript.name = id;
    find("answer-name").textContent = id;
    find("voice").replaceChildren(...voices.map((voice) => new Option(voice, voice)));
    find("voice-field").hidden = voices.length < 2;
    find("writes-field").hidden = !hears;
    // If hearing gives the words anyway, show them by default; otherwise writing them takes the model's time.
    find("writes-down").checked ||= Boolean(writes);
    find("talk").disabled = !hears;
    this.show();
  }

  #askForKey(problem) {
    find("key-problem").textContent = problem.kind === "key-missing" ? "" : problem.message;
    const dialog = find("key-dialog");
    if (!dialog.open) dialog.showModal();
    find("key").select();
  }

  #clearProblem() {
    find("problem").hidden = true;
  }

  async #guarded(work) {
    try {
      await work();
    } catch (problem) {
      this.tell(problem);
    }
  }

  /** Draw the pictures in each frame; they stand still without sound. */
  #draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    this.drawnAt = performance.now();
    const step = (now) => {
      const elapsedS = Math.max(0, Math.min(0.25, (now - this.drawnAt) / 1000));
      this.drawnAt = now;
      const [mine] = this.lanes.map((lane) => lane.draw(elapsedS));
      find("talk").style.setProperty("--level", mine.toFixed(3));
      this.isDrawing = this.microphone.isOpen || this.player.isPlaying;
      if (this.isDrawing) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }
}

/** Set a text only if it differs: live regions would read the same text aloud again. */
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The app of this page; tests use it. */
export const app = new App();
app.start();
