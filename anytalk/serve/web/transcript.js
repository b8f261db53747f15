/** Shows the words of a conversation as they come. */

/** Bars in the picture of a spoken question. */
const BARS = 48;
/** Pixels above the end that still count as the end. */
const NEAR_END = 40;

/** Shows the list of turns. */
export class Transcript {
  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} announcer a live region; it gets whole answers, so that they aren't read word by word
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

  /** Add a typed question. */
  user(item, text) {
    this.#saidOf(this.#turn(item, "user")).textContent = text;
    this.#follow(true);
  }

  /** Add a turn because the user starts to speak. */
  listen(item) {
    const turn = this.#turn(item, "user");
    turn.classList.add("pending");
    this.#saidOf(turn).textContent = "…";
    this.#follow();
  }

  /** Draw the loudness of a spoken question. */
  spoken(item, peaks, length) {
    const turn = this.#turn(item, "user");
    turn.classList.remove("pending");
    this.#saidOf(turn).replaceChildren(waveform(peaks, `Spoken, ${length}`));
    this.figure(item, "spoken", length);
    this.#follow();
  }

  /** Add words of a spoken question, which may not have ended yet. */
  hear(item, delta) {
    const turn = this.turns.get(item);
    if (turn) this.write(item, (turn.querySelector(".words")?.textContent ?? "") + delta);
  }

  /** Set all words of a spoken question. */
  write(item, text) {
    const turn = this.turns.get(item);
    if (!turn || !text.trim()) return;
    const words = turn.querySelector(".words") ?? element("p", "words");
    words.textContent = text.trimStart();
    this.#saidOf(turn).after(words);
    this.#follow();
  }

  /** Add an answer. */
  answer(item) {
    this.#turn(item, "answer").classList.add("pending");
    this.#follow();
  }

  /** Add text to an answer. */
  append(item, text) {
    const turn = this.turns.get(item);
    if (!turn) return;
    const said = this.#saidOf(turn);
    // The first token of an answer often begins with a space.
    said.append(said.textContent ? text : text.trimStart());
    this.#follow();
  }

  /** Mark an answer as complete. */
  done(item, isCancelled) {
    const turn = this.turns.get(item);
    if (!turn) return;
    turn.classList.remove("pending");
    const text = this.#saidOf(turn).textContent;
    if (!text) this.#saidOf(turn).append(element("span", "unheard", isCancelled ? "(nothing yet)" : "(no words)"));
    if (!isCancelled) this.announcer.textContent = `${this.name}: ${text}`;
  }

  /** Show how much of an interrupted answer was heard. */
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

  /** Show a figure of a turn. */
  figure(item, name, value) {
    const turn = this.turns.get(item);
    if (!turn) return;
    const figure = element("li");
    figure.append(`${name} `, element("b", "", value));
    turn.querySelector(".figures").append(figure);
    this.#follow();
  }

  /** Remove a turn. */
  remove(item) {
    this.turns.get(item)?.remove();
    this.turns.delete(item);
  }

  /** Mark the end of the conversation; another may follow. */
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

  /** Scroll to the end, unless the user reads further up. */
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

/** Draw loudness (n,) in [0, 1] as bars. */
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
