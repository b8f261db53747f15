/** Sets the theme, light or dark: the system's until the user presses the switch. */

import { recall, remember } from "./storage.js";

const STORED = "anytalk-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/**
 * Let a button switch between light and dark.
 * @param {HTMLButtonElement} button
 * @param {() => void} onChange
 */
export function setUpTheme(button, onChange) {
  const show = () => {
    const isDark = (recall("localStorage", STORED) ?? (system.matches ? "dark" : "light")) === "dark";
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(isDark));
    onChange();
  };
  button.addEventListener("click", () => {
    remember("localStorage", STORED, document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    show();
  });
  system.addEventListener("change", show);
  show();
}
