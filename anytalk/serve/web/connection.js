/** Speaks the Realtime protocol: events as JSON over one WebSocket. */

import { Problem } from "./problems.js";
import { whyRefused } from "./server.js";

const KEY_SUBPROTOCOL = "openai-insecure-api-key.";
/** Maps errors after which the server ends the session to kinds of problems. */
const LAST_WORDS = {
  session_limit_reached: "full",
  server_shutting_down: "stopping",
  session_idle: "idle",
  session_expired: "expired",
};
const CLOSE_CODES = { 1001: "stopping", 1008: "slow", 1012: "stopping", 1013: "full" };

/** Holds one session with the server. */
export class Connection {
  /**
   * @param {object} handlers
   * @param {(event: object) => void} handlers.onEvent called with each server event
   * @param {(problem: Problem) => void} handlers.onClosed called if the session ends, unless `close` ended it
   */
  constructor({ onEvent, onClosed }) {
    this.onEvent = onEvent;
    this.onClosed = onClosed;
    this.socket = null;
    this.lastWords = null;
  }

  /** Tell whether events can be sent. */
  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /**
   * Start a session.
   * @param {string} model
   * @param {string} key "" for none
   * @throws {Problem} the session can't start.
   */
  async open(model, key) {
    const address = new URL("v1/realtime", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("model", model);
    let socket;
    try {
      // Browsers can't set headers here; OpenAI's own clients send the key in a subprotocol, too.
      socket = new WebSocket(address, key ? ["realtime", KEY_SUBPROTOCOL + key] : ["realtime"]);
    } catch {
      throw new Problem("key-unsendable");
    }
    this.socket = socket;
    this.lastWords = null;
    await new Promise((resolve, reject) => {
      let hasBegun = false;
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "error" && event.error.code in LAST_WORDS) {
          this.lastWords = new Problem(LAST_WORDS[event.error.code]);
          return;
        }
        hasBegun ||= event.type === "session.created";
        this.onEvent(event);
        if (hasBegun) resolve();
      };
      socket.onclose = async ({ code }) => {
        const isOurs = this.socket === socket;
        if (isOurs) this.socket = null;
        const told = this.lastWords ?? (CLOSE_CODES[code] && new Problem(CLOSE_CODES[code]));
        if (!hasBegun) reject(told ?? (await whyRefused(key)));
        else if (isOurs) this.onClosed(told ?? new Problem("lost"));
      };
    });
  }

  /** Send a client event. */
  send(type, fields = {}) {
    if (this.isOpen) this.socket.send(JSON.stringify({ type, ...fields }));
  }

  /** End the session. */
  close() {
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }
}
