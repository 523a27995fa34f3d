/** Color theme: follows the system until the user chooses one. */

import { make } from "./dom";
import { icon } from "./icons";
import { recall, remember } from "./memory";

const system = window.matchMedia("(prefers-color-scheme: dark)");

export function startTheme(): void {
  system.addEventListener("change", apply);
  apply();
}

function apply(): void {
  document.documentElement.dataset.theme = current();
}

function current(): "light" | "dark" {
  const chosen = recall<string>("theme", "system");
  if (chosen === "light" || chosen === "dark") return chosen;
  return system.matches ? "dark" : "light";
}

export function themeButton(): HTMLButtonElement {
  const label = "Light or dark theme";
  const button = make("button", { class: "quiet-button", title: label, "aria-label": label });
  button.append(icon("theme"));
  button.addEventListener("click", () => {
    remember("theme", current() === "dark" ? "light" : "dark");
    apply();
  });
  return button;
}
