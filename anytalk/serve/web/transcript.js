/** What was said, as it comes. */

/** Of the picture of a spoken question. */
const BARS = 48;
/** Pixels from the end that still count as its end. */
const NEAR_END = 40;

/** The list of turns. */
export class Transcript {
  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} announcer a live region: answers are read out whole, not word by word
   */
  constructor(list, announcer) {
    this.list = list;
    this.announcer = announcer;
    this.name = "Answer";
    /** @type {Map<string, HTMLElement>} */
    this.turns = new Map();
    this.isAtEnd = true;
    list.addEventListener("scroll", () => {
      this.isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END;
    });
    new ResizeObserver(() => this.#follow()).observe(list);
  }

  /** A typed question. */
  user(item, text) {
    this.#saidOf(this.#turn(item, "user")).textContent = text;
    this.#follow(true);
  }

  /** Somebody begins to speak. */
  listen(item) {
    const turn = this.#turn(item, "user");
    turn.classList.add("pending");
    this.#saidOf(turn).textContent = "…";
    this.#follow();
  }

  /** A spoken question, by its loudness. */
  spoken(item, peaks, length) {
    const turn = this.#turn(item, "user");
    turn.classList.remove("pending");
    this.#saidOf(turn).replaceChildren(waveform(peaks, `Spoken, ${length}`));
    this.figure(item, "spoken", length);
    this.#follow();
  }

  /** More of the words of a spoken question, which may still be being spoken. */
  hear(item, delta) {
    const turn = this.turns.get(item);
    if (turn) this.write(item, (turn.querySelector(".words")?.textContent ?? "") + delta);
  }

  /** All the words of a spoken question. */
  write(item, text) {
    const turn = this.turns.get(item);
    if (!turn || !text.trim()) return;
    const words = turn.querySelector(".words") ?? element("p", "words");
    words.textContent = text.trimStart();
    this.#saidOf(turn).after(words);
    this.#follow();
  }

  /** An answer begins. */
  answer(item) {
    this.#turn(item, "answer").classList.add("pending");
    this.#follow();
  }

  /** More of an answer's text. */
  append(item, text) {
    const turn = this.turns.get(item);
    if (!turn) return;
    const said = this.#saidOf(turn);
    // Tokens that begin an answer often begin with a space.
    said.append(said.textContent ? text : text.trimStart());
    this.#follow();
  }

  /** An answer is complete. */
  done(item, isCancelled) {
    const turn = this.turns.get(item);
    if (!turn) return;
    turn.classList.remove("pending");
    const text = this.#saidOf(turn).textContent;
    if (!text) this.#saidOf(turn).append(element("span", "unheard", isCancelled ? "(nothing yet)" : "(no words)"));
    if (!isCancelled) this.announcer.textContent = `${this.name}: ${text}`;
  }

  /** Of an answer that was interrupted only this was heard. */
  heard(item, heardText) {
    const turn = this.turns.get(item);
    if (!turn) return;
    const said = this.#saidOf(turn);
    const text = said.textContent;
    const end = text.trimEnd() === heardText.trim() ? text.length : heardText.trimStart().length;
    const unheard = element("span", "unheard", text.slice(end));
    unheard.title = "Not heard: the answer was interrupted, and the model forgot this part.";
    said.replaceChildren(text.slice(0, end), ...(end < text.length ? [unheard] : []));
  }

  /** A number of a turn. */
  figure(item, name, value) {
    const turn = this.turns.get(item);
    if (!turn) return;
    const figure = element("li");
    figure.append(`${name} `, element("b", "", value));
    turn.querySelector(".figures").append(figure);
    this.#follow();
  }

  /** Take a turn away. */
  remove(item) {
    this.turns.get(item)?.remove();
    this.turns.delete(item);
  }

  /** The conversation is over; another may begin. */
  divide() {
    this.turns.forEach((turn) => turn.classList.remove("pending"));
    this.turns.clear();
    if (!this.list.lastElementChild?.matches(".turn")) return;
    this.list.append(element("p", "divider", "end of this conversation"));
    this.#follow();
  }

  #turn(item, side) {
    let turn = this.turns.get(item);
    if (turn) return turn;
    turn = element("div", `turn ${side}`);
    const who = element("p", "who", side === "user" ? "You" : this.name);
    turn.append(who, element("div", "said"), element("ul", "figures"));
    this.turns.set(item, turn);
    this.list.append(turn);
    return turn;
  }

  #saidOf(turn) {
    return turn.querySelector(".said");
  }

  /** Keep the end in view, unless somebody reads further up. */
  #follow(always = false) {
    if (always || this.isAtEnd) this.list.scrollTop = this.list.scrollHeight;
  }
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Loudness as bars, (n,) in [0, 1]. */
function waveform(peaks, label) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", `0 0 ${BARS * 4} 32`);
  drawing.setAttribute("class", "waveform");
  drawing.setAttribute("role", "img");
  drawing.setAttribute("aria-label", label);
  const loudest = Math.max(0.05, ...peaks);
  for (let bar = 0; bar < BARS; bar++) {
    const part = peaks.slice(Math.floor((bar * peaks.length) / BARS), Math.ceil(((bar + 1) * peaks.length) / BARS));
    const height = Math.max(2, (30 * Math.max(0, ...part)) / loudest);
    const line = document.createElementNS(space, "rect");
    const place = { x: bar * 4, y: 16 - height / 2, width: 2.4, height, rx: 1.2 };
    for (const [name, value] of Object.entries(place)) line.setAttribute(name, value);
    drawing.append(line);
  }
  return drawing;
}
