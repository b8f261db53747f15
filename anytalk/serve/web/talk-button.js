/**
 * The big button in its two ways: pressed once to begin and once to end (hands-free), or held while speaking.
 *
 * Space anywhere on the page does what the button does. Enter, and the click of a screen reader, can't be held: they
 * begin and end a turn in turn.
 */

/** Elements in which Space has a meaning of its own. */
const TYPING = "input, textarea, select, button, summary, a, [contenteditable], dialog";

/** The button. */
export class TalkButton {
  /**
   * @param {HTMLButtonElement} button
   * @param {object} handlers
   * @param {() => boolean} handlers.isHeld whether it is to be held
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
    // A long press on a phone would open a menu and end the press.
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
    // A button would take this as a click.
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
