/** Legend of the colors, shared by the page and saved images. */

import type { Layer } from "../page/api";
import { drawStrip } from "./colormaps";
import { make } from "../page/dom";
import type { Look, Side } from "./looks";
import { penOf, PENS } from "./outlines";
import { runsOf, formatRun, type Scene } from "./scene";
import { alphaOf, colorOf } from "./valueLayer";
import { digits } from "../page/format";

export type LegendEntry =
  | { kind: "scale"; text: string; layer: Layer; look: Look }
  | { kind: "patch"; text: string; color: string }
  | { kind: "line"; text: string; color: string; dashed: boolean }
  | { kind: "text"; text: string };

const STRIP_PX = 170;

/** Legend entries of the given sides, without duplicates. */
export function legendEntries(scene: Scene, sides: readonly Side[]): LegendEntry[] {
  if (scene.looks.isBare) return [{ kind: "text", text: "Layers off" }];
  const entries = [
    ...sides.flatMap((side) => scales(scene, side)),
    ...sides.flatMap((side) => patches(scene, side)),
    ...lesionLines(scene, sides),
    ...truthLines(scene),
    ...runNames(scene, sides),
  ];
  return entries.filter((e, i) => entries.findIndex((other) => other.text === e.text) === i);
}

function scales({ looks }: Scene, side: Side): LegendEntry[] {
  const where = looks.mode === "one" ? "" : side === "left" ? "Left: " : "Right: ";
  const layers = looks.shownOn(side).filter((layer) => layer.kind === "value");
  if (layers.length === 0 && where) return [{ kind: "text", text: `${where}slide only` }];
  return layers.map((layer) => {
    const unit = layer.unit && !layer.label.includes(layer.unit) ? `, ${layer.unit}` : "";
    const text = `${where}${layer.label}${unit}`;
    return { kind: "scale", text, layer, look: looks.of(layer.id) };
  });
}

function patches({ looks }: Scene, side: Side): LegendEntry[] {
  const masks = looks.shownOn(side).filter((layer) => layer.kind === "mask");
  return masks.map((layer) => {
    const color = `rgb(${colorOf(layer, looks.of(layer.id), 1).join(" ")})`;
    return { kind: "patch", text: layer.label, color };
  });
}

function lesionLines({ looks, slide, outlines }: Scene, sides: readonly Side[]): LegendEntry[] {
  if (!looks.shows("outlines")) return [];
  const several = runsOf(slide).length > 1;
  const runs = new Set(sides.flatMap((side) => looks.runsOn(side)));
  return [...runs].flatMap((run): LegendEntry[] => {
    const lines = outlines.get(run) ?? [];
    const whose = several ? ` of ${run}` : "";
    const { color } = penOf(run, slide);
    const threshold = slide.thresholds[run];
    const at = threshold === undefined ? "" : `, outlined at ${threshold.toFixed(2)}`;
    const hull = lines.some(({ whole }) => whole);
    const lesions = lines.some(({ whole }) => !whole);
    return [
      ...(lesions
        ? [{ kind: "line" as const, text: `lesions${whose}${at}`, color, dashed: false }]
        : []),
      ...(hull
        ? [{ kind: "line" as const, text: `whole tumor region${whose}`, color, dashed: true }]
        : []),
    ];
  });
}

function truthLines({ looks, truth }: Scene): LegendEntry[] {
  if (!looks.shows("truthOutlines") || truth.length === 0) return [];
  return [{ kind: "line", text: "ground truth outlines", color: PENS.truth.color, dashed: true }];
}

/** Entries that explain the letters of two runs. */
function runNames({ looks, slide, titles }: Scene, sides: readonly Side[]): LegendEntry[] {
  if (runsOf(slide).length < 2) return [];
  const runs = sides.flatMap((side) => [
    ...looks.runsOn(side),
    ...looks.shownOn(side).map((layer) => layer.run),
  ]);
  const named = [...new Set(runs)].filter((run) => run in titles);
  return named.map((run) => ({ kind: "text", text: formatRun(run, titles) }));
}

export function drawLegend(entries: readonly LegendEntry[]): HTMLElement[] {
  return entries.map((entry) => {
    if (entry.kind === "scale") return drawScale(entry);
    if (entry.kind === "text") return make("div", { class: "key" }, entry.text);
    const dashed = entry.kind === "line" && entry.dashed ? " dashed" : "";
    const mark = make("span", { class: entry.kind === "line" ? `line${dashed}` : "swatch" });
    const side = entry.kind === "line" ? "borderTopColor" : "backgroundColor";
    mark.style[side] = entry.color;
    return make("div", { class: "key" }, mark, entry.text);
  });
}

function drawScale({ text, layer, look }: LegendEntry & { kind: "scale" }): HTMLElement {
  return make(
    "div",
    { class: "key value" },
    make("span", {}, text),
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

/** Colormap on white; hidden values below the threshold are gray. */
export function strip(layer: Layer, look: Look, width: number, height: number): HTMLCanvasElement {
  const canvas = drawStrip(look.colormap, width, height, (part) => alphaOf(layer, part));
  const context = canvas.getContext("2d")!;
  const cut = ((look.threshold - layer.low) / (layer.high - layer.low)) * width;
  context.fillStyle = "#9aa0a6";
  context.fillRect(0, 0, Math.max(0, Math.min(cut, width)), height);
  return canvas;
}
