/** Stores values in the browser. If it refuses, they last until the page is closed. */

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

/** Store a value under a name. */
export function remember(place, name, word) {
  ours.set(name, word);
  try {
    window[place].setItem(name, word);
  } catch {
    // The browser refuses; the map keeps it until the page is closed.
  }
}
