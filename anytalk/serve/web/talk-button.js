/**
 * Handles the big button: pressed once to start and once to end (hands-free), or held while speaking.
 *
 * Space does the same anywhere on the page. Enter, and a screen reader's click, can't be held: they alternately
 * start and end a turn.
 */

/** Elements in which Space has its own meaning. */
const TYPING = "input, textarea, select, button, summary, a, [contenteditable], dialog";

/** Turns pointers and keys into presses of the button. */
export class TalkButton {
  /**
   * @param {HTMLButtonElement} button
   * @param {object} handlers
   * @param {() => boolean} handlers.isHeld whether the button has to be held
   * @param {() => void} handlers.onToggle
   * @param {() => void} handlers.onPress
   * @param {() => void} handlers.onRelease
   */
  constructor(button, handlers) {
    this.button = button;
    this.handlers = handlers;
    this.isDown = false;
    this.ignoresClick = false;
    button.addEventListener("pointerdown", (event) => this.#pointerDown(event));
    button.addEventListener("pointerup", () => this.#release());
    button.addEventListener("pointercancel", () => {
      this.ignoresClick = false;
      this.#release();
    });
    button.addEventListener("click", () => this.#click());
    // On phones, a long press would open a menu and end the press.
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    document.addEventListener("keydown", (event) => this.#keyDown(event));
    document.addEventListener("keyup", (event) => this.#keyUp(event));
    window.addEventListener("blur", () => this.#release());
  }

  #pointerDown(event) {
    if (event.button !== 0 || !this.handlers.isHeld() || this.button.disabled) return;
    this.button.setPointerCapture(event.pointerId);
    this.ignoresClick = true;
    this.#press();
  }

  #click() {
    const isOfPointer = this.ignoresClick;
    this.ignoresClick = false;
    if (!this.handlers.isHeld()) this.handlers.onToggle();
    else if (!isOfPointer && this.isDown) this.#release();
    else if (!isOfPointer) this.#press();
  }

  #keyDown(event) {
    if (!this.#isOurs(event)) return;
    event.preventDefault();
    if (event.repeat || this.button.disabled) return;
    if (this.handlers.isHeld()) this.#press();
    else this.handlers.onToggle();
  }

  #keyUp(event) {
    if (!this.#isOurs(event)) return;
    // The browser would treat this as a click on the button.
    event.preventDefault();
    this.#release();
  }

  #isOurs(event) {
    if (event.key !== " " || event.ctrlKey || event.altKey || event.metaKey) return false;
    return event.target === this.button || !event.target.closest?.(TYPING);
  }

  #press() {
    if (this.isDown) return;
    this.isDown = true;
    this.handlers.onPress();
  }

  #release() {
    if (!this.isDown) return;
    this.isDown = false;
    this.handlers.onRelease();
  }
}
