/** Describes problems in sentences for people. */

const SENTENCES = {
  insecure:
    "Browsers give the microphone only to https pages and to localhost. Open this page over https, or type instead.",
  "microphone-denied":
    "The microphone was not allowed. Allow it in the browser's address bar and press the button again, or type instead.",
  "microphone-missing": "No microphone was found. Connect one and press the button again, or type instead.",
  "microphone-busy": "The microphone is in use by another program, or the system refuses it. Free it and try again.",
  "microphone-failed": "The microphone could not be started.",
  "microphone-lost": "The microphone was disconnected. Connect it and press the button again, or type instead.",
  deaf: "This talker was made without ears. Type instead.",
  "key-missing": "This server asks for a key.",
  "key-wrong": "This is not the server's key. Check it: capital letters matter.",
  "key-unsendable":
    "Browsers can't send this key: it may hold letters, digits and !#$%&'*+-.^_`|~ only. Give the server another one.",
  full: "All places of this server are taken. Try again in a moment.",
  busy: "Too many requests came from your address. Wait a moment and try again.",
  unreachable: "The server doesn't answer. See whether it still runs, then reconnect.",
  lost: "The connection was lost. The server has forgotten what was said; reconnect to start again.",
  stopping: "The server is shutting down.",
  idle: "The conversation ended because nothing was said for a while.",
  expired: "The conversation ended because it reached the longest time that the server allows.",
  slow: "The server ended the conversation because this connection is too slow.",
  "too-short": "That was too short. Hold the button for as long as you speak.",
  refused: "The server refused something.",
  failed: "The answer failed.",
};

/** Reports a problem. `message` is the whole sentence for people. */
export class Problem extends Error {
  /**
   * @param {keyof typeof SENTENCES} kind
   * @param {string} [detail] the program's own message, shown after the sentence where it adds something
   */
  constructor(kind, detail = "") {
    super(withDetail(kind, detail));
    this.kind = kind;
  }
}

/** Kinds whose sentence says too little without the detail. */
const VAGUE = new Set(["microphone-failed", "refused", "failed"]);

function withDetail(kind, detail) {
  const sentence = SENTENCES[kind] ?? SENTENCES.refused;
  if (!detail || !VAGUE.has(kind)) return sentence;
  return `${sentence.slice(0, -1)}: ${detail}${/[.!?]$/.test(detail) ? "" : "."}`;
}
