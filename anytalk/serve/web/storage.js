/** What the browser remembers. It may refuse to; then it is remembered until the page is closed. */

const ours = new Map();

/**
 * @param {"localStorage" | "sessionStorage"} place
 * @param {string} name
 * @returns {string | null}
 */
export function recall(place, name) {
  try {
    return window[place].getItem(name) ?? ours.get(name) ?? null;
  } catch {
    return ours.get(name) ?? null;
  }
}

/** Remember a word under a name. */
export function remember(place, name, word) {
  ours.set(name, word);
  try {
    window[place].setItem(name, word);
  } catch {
    // As above.
  }
}
