/** What the colors on a slide mean. */

import type { Layer } from "../page/api";
import { drawStrip } from "./colormaps";
import { make } from "../page/dom";
import type { Look, Looks, Side } from "./looks";
import { PENS } from "./outlines";
import type { Scene } from "./pane";
import { colorOf } from "./valueLayer";
import { digits } from "../page/words";

const STRIP_PX = 170;

export function legend(scene: Scene, side: Side): HTMLElement[] {
  const { looks } = scene;
  const sides: Side[] = looks.mode === "swipe" ? ["left", "right"] : [side];
  const entries = sides.flatMap((s) =>
    looks.shownOn(s).map((layer) => entry(layer, looks, sides.length > 1 ? s : null)),
  );
  const once = entries.filter(
    (e, i) => entries.findIndex((other) => other.dataset.name === e.dataset.name) === i,
  );
  return [...once, ...lines(scene, sides)];
}

function entry(layer: Layer, looks: Looks, side: Side | null): HTMLElement {
  const look = looks.of(layer.id);
  if (layer.kind === "mask") {
    const swatch = make("span", { class: "swatch" });
    swatch.style.backgroundColor = `rgb(${colorOf(layer, look, 1).join(" ")})`;
    return make("div", { class: "key", "data-name": layer.id }, swatch, layer.label);
  }
  const where = side === null ? "" : side === "left" ? "\u25c0 " : "\u25b6 ";
  const unit = layer.unit && layer.unit !== layer.name ? `, ${layer.unit}` : "";
  return make(
    "div",
    { class: "key value", "data-name": `${layer.id} ${side ?? ""}` },
    make("span", {}, `${where}${layer.label}${unit}`),
    strip(layer, look, STRIP_PX, 9),
    make(
      "span",
      { class: "ends" },
      make("span", {}, digits(layer.low)),
      make("span", {}, `from ${digits(look.threshold)}`),
      make("span", {}, digits(layer.high)),
    ),
  );
}

/** The colormap; what is below the threshold, and so not shown, is crossed out in gray. */
export function strip(layer: Layer, look: Look, width: number, height: number): HTMLCanvasElement {
  const canvas = drawStrip(look.colormap, width, height);
  const context = canvas.getContext("2d")!;
  const cut = ((look.threshold - layer.low) / (layer.high - layer.low)) * width;
  context.fillStyle = "#9aa0a6";
  context.fillRect(0, 0, Math.max(0, Math.min(cut, width)), height);
  return canvas;
}

function lines({ looks, slide, outlines, truth }: Scene, sides: Side[]): HTMLElement[] {
  const first = slide.layers[0]?.run;
  const runs = new Set(sides.map((side) => looks.runOn(side)));
  const several = slide.layers.some((layer) => layer.run !== first);
  const keys: HTMLElement[] = [];
  for (const run of looks.outlines && slide.outlines ? runs : []) {
    const name = several ? `lesions of ${run}` : "lesions";
    const { color } = run === first ? PENS.lesion : PENS.other;
    keys.push(line(name, color, false));
    const hull = run !== null && outlines.get(run)?.some(({ whole }) => whole);
    if (hull) keys.push(line("whole tumor region", color, true));
  }
  if (looks.truthOutlines && truth.length > 0) keys.push(line("truth", PENS.truth.color, true));
  return keys;
}

function line(text: string, color: string, dashed: boolean): HTMLElement {
  const mark = make("span", { class: dashed ? "line dashed" : "line" });
  mark.style.borderTopColor = color;
  return make("div", { class: "key" }, mark, text);
}
