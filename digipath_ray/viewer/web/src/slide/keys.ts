/** Keyboard handling, and the dialog that lists the shortcuts. */

import { isTyping, make } from "../page/dom";

export interface Command {
  keys: string[];
  /** Keys displayed in the list instead. */
  shown?: string[];
  /** Description; empty: not listed. */
  what: string;
  run: () => void;
}

/** Run the command of a key, unless typing text. */
export function listenToKeys(commands: readonly Command[], until: AbortSignal): void {
  const byKey = new Map(commands.flatMap((c) => c.keys.map((key) => [key, c.run] as const)));
  const press = (event: KeyboardEvent) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    if (isOfControl(event)) return;
    const run = byKey.get(event.key);
    if (run === undefined) return;
    event.preventDefault();
    run();
  };
  document.addEventListener("keydown", press, { signal: until });
}

/** Arrows move a focused slider; Space and Enter press a button. */
function isOfControl(event: KeyboardEvent): boolean {
  const target = event.target as Element;
  if (target instanceof HTMLInputElement && target.type === "range") {
    return /^(Arrow|Home|End|Page)/.test(event.key);
  }
  const pressed = event.key === " " || event.key === "Enter";
  return pressed && target.closest("button, a, summary, input") !== null;
}

const NAMES: Record<string, string> = {
  " ": "Space",
  Escape: "Esc",
  Backspace: "\u232b",
};

export function showHelp(commands: readonly Command[]): void {
  const rows = commands.map(({ keys, shown, what }) => {
    const caps = (shown ?? keys).map((key) => make("kbd", {}, NAMES[key] ?? key));
    return make("div", {}, make("dt", {}, ...caps), make("dd", {}, what));
  });
  const close = make("button", { class: "button primary" }, "Close");
  const dialog = make(
    "dialog",
    { class: "help", "aria-label": "Keys" },
    make("h2", {}, "Keys"),
    make("dl", {}, ...rows),
    make("div", { class: "actions" }, close),
  );
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
