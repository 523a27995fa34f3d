/** The keys that change what is shown of a slide's layers. */

import { say } from "../page/dom";
import type { Command } from "./keys";
import type { Looks, Mode } from "./looks";

export function layerCommands(looks: Looks): Command[] {
  return [
    { keys: ["h"], what: "Layer off and on", run: () => toggleLayer(looks) },
    { keys: ["u"], what: "Next layer: probability, uncertainties", run: () => nextLayer(looks) },
    { keys: [","], what: "Threshold down", run: () => moveThreshold(looks, -0.02) },
    { keys: ["."], what: "Threshold up", run: () => moveThreshold(looks, 0.02) },
    { keys: ["["], what: "Opacity down", run: () => moveOpacity(looks, -0.1) },
    { keys: ["]"], what: "Opacity up", run: () => moveOpacity(looks, 0.1) },
    { keys: ["o"], what: "Lesion outlines", run: () => toggleLines(looks, "outlines") },
    { keys: ["t"], what: "Truth outlines", run: () => toggleLines(looks, "truthOutlines") },
    { keys: ["s"], what: "Swipe", run: () => switchMode(looks, "swipe") },
    { keys: ["d"], what: "Side by side", run: () => switchMode(looks, "side") },
  ];
}

/** The value layer that keys act on: the first one shown, else the first. */
function activeLayer(looks: Looks): string | null {
  const { values } = looks;
  if (looks.mode !== "one") return looks.left || looks.right || null;
  return (values.find((v) => looks.of(v.id).shown) ?? values[0])?.id ?? null;
}

function toggleLayer(looks: Looks): void {
  const id = activeLayer(looks);
  if (id !== null) looks.set(id, { shown: !looks.of(id).shown });
}

function nextLayer(looks: Looks): void {
  const { values } = looks;
  if (values.length === 0) return;
  const at = values.findIndex((layer) => layer.id === activeLayer(looks));
  const next = values[(at + 1) % values.length];
  for (const layer of values) looks.of(layer.id).shown = layer === next;
  looks.onChange();
  say(next.label);
}

function moveThreshold(looks: Looks, by: number): void {
  const layer = looks.values.find(({ id }) => id === activeLayer(looks));
  if (layer === undefined) return;
  const moved = looks.of(layer.id).threshold + by * (layer.high - layer.low);
  looks.set(layer.id, { threshold: Math.min(Math.max(moved, layer.low), layer.high) });
}

function moveOpacity(looks: Looks, by: number): void {
  const id = activeLayer(looks);
  if (id === null) return;
  const moved = looks.of(id).opacity + by;
  looks.set(id, { opacity: Math.min(Math.max(moved, 0), 1) });
}

function toggleLines(looks: Looks, which: "outlines" | "truthOutlines"): void {
  looks[which] = !looks[which];
  looks.onChange();
}

function switchMode(looks: Looks, mode: Mode): void {
  if (looks.values.length === 0) return;
  looks.compare({ mode: looks.mode === mode ? "one" : mode });
}
