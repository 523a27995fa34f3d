/** Comparison of two layers or runs, side by side or with a swipe line. */

import { fill, make } from "../page/dom";
import { icon, type IconName } from "../page/icons";
import type { Looks, Mode, Side } from "./looks";

const MODES: { mode: Mode; label: string; picture: IconName; key: string }[] = [
  { mode: "one", label: "One view", picture: "single", key: "" },
  { mode: "swipe", label: "Swipe", picture: "swipe", key: "S" },
  { mode: "side", label: "Side by side", picture: "side", key: "D" },
];

export function comparisonPanel(looks: Looks): { element: HTMLElement; update: () => void } {
  const buttons = MODES.map(({ mode, label, picture, key }) => {
    const button = make("button", {
      class: "button small",
      "data-mode": mode,
      title: key && `Key ${key}`,
    });
    button.append(icon(picture), label);
    button.addEventListener("click", () => looks.compare({ mode }));
    return button;
  });
  const left = chooser("left", looks);
  const right = chooser("right", looks);
  const sides = make(
    "div",
    { class: "sides" },
    make("label", {}, "Left", left),
    make("label", {}, "Right", right),
  );
  const group = make(
    "div",
    { class: "segments", role: "group", "aria-label": "Comparison" },
    ...buttons,
  );
  return {
    element: make("div", { class: "comparison" }, group, sides),
    update: () => {
      for (const b of buttons)
        b.setAttribute("aria-pressed", String(b.dataset.mode === looks.mode));
      sides.hidden = looks.mode === "one";
      left.value = looks.left;
      right.value = looks.right;
    },
  };
}

function chooser(side: Side, looks: Looks): HTMLSelectElement {
  const select = make("select", { "data-side": side });
  const options = looks.values.map((layer) => make("option", { value: layer.id }, layer.label));
  fill(select, make("option", { value: "" }, "slide only"), ...options);
  select.addEventListener("change", () => looks.compare({ [side]: select.value }));
  return select;
}

/** Swipe line, moved by pointer or arrow keys. */
export function divider(looks: Looks): { element: HTMLElement; update: () => void } {
  const line = make("div", {
    class: "divider",
    role: "slider",
    tabindex: 0,
    "aria-label": "Line between the two layers",
    "aria-valuemin": 0,
    "aria-valuemax": 100,
  });
  line.append(make("span", { class: "grip" }, icon("swipe")));
  const moveTo = (split: number) => looks.compare({ split: Math.min(Math.max(split, 0.02), 0.98) });
  line.addEventListener("pointerdown", (event) => {
    line.setPointerCapture(event.pointerId);
    event.preventDefault();
    line.focus();
  });
  line.addEventListener("pointermove", (event) => {
    if (!line.hasPointerCapture(event.pointerId)) return;
    const box = line.parentElement!.getBoundingClientRect();
    moveTo((event.clientX - box.left) / box.width);
  });
  line.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    moveTo(looks.split + step);
  });
  return {
    element: line,
    update: () => {
      line.hidden = looks.mode !== "swipe";
      line.style.left = `${100 * looks.split}%`;
      line.setAttribute("aria-valuenow", String(Math.round(100 * looks.split)));
    },
  };
}
