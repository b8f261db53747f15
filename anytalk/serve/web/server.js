/** Asks the server about itself over HTTP. */

import { Problem } from "./problems.js";

/**
 * @typedef {object} Talker
 * @property {string} id
 * @property {string[]} voices
 * @property {boolean} hears
 * @property {boolean} writes whether hearing alone gives the words of a spoken question
 */

/**
 * Ask which talker the server has.
 * @param {string} key "" for none
 * @returns {Promise<Talker>}
 * @throws {Problem} the server can't be reached, or refuses us.
 */
export async function askForTalker(key) {
  let response;
  try {
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    response = await fetch(new URL("v1/models", document.baseURI), { headers, cache: "no-store" });
  } catch {
    throw new Problem("unreachable");
  }
  if (response.ok) return (await response.json()).data[0];
  if (response.status === 401) throw new Problem(key ? "key-wrong" : "key-missing");
  if (response.status === 429) throw new Problem("busy");
  const said = await response.json().catch(() => null);
  throw new Problem("refused", said?.error?.message ?? `status ${response.status}`);
}

/**
 * Find out why a WebSocket was refused, which browsers tell nobody.
 * @param {string} key
 * @returns {Promise<Problem>}
 */
export async function whyRefused(key) {
  try {
    await askForTalker(key);
  } catch (problem) {
    return problem;
  }
  return new Problem("lost");
}
