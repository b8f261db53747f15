/** A client of the Realtime protocol: events as JSON over one WebSocket. */

import { Problem } from "./problems.js";
import { whyRefused } from "./server.js";

const KEY_SUBPROTOCOL = "openai-insecure-api-key.";
/** Errors after which the server ends the session. */
const LAST_WORDS = {
  session_limit_reached: "full",
  server_shutting_down: "stopping",
  session_idle: "idle",
  session_expired: "expired",
};
const CLOSE_CODES = { 1001: "stopping", 1008: "slow", 1012: "stopping", 1013: "full" };

/** One session. */
export class Connection {
  /**
   * @param {object} handlers
   * @param {(event: object) => void} handlers.onEvent a server event
   * @param {(problem: Problem) => void} handlers.onClosed the session is over, and not because we closed it
   */
  constructor({ onEvent, onClosed }) {
    this.onEvent = onEvent;
    this.onClosed = onClosed;
    this.socket = null;
    this.lastWords = null;
  }

  /** Whether events can be sent. */
  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /**
   * Begin a session.
   * @param {string} model
   * @param {string} key "" for none
   * @throws {Problem} it can't begin.
   */
  async open(model, key) {
    const address = new URL("v1/realtime", document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    address.searchParams.set("model", model);
    let socket;
    try {
      // Browsers set no headers here; the key goes the way that OpenAI's own clients send it.
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
