/**
 * Keyboard shortcuts of the slide page. All can be typed on US, German, French and
 * Swedish keyboards without AltGr.
 */

import { announce } from "../page/dom";
import type { Command } from "./keys";
import type { LinesName, Looks, Mode } from "./looks";
import { STEPS } from "./scale";
import type { Actions } from "./toolbar";

/** Actions without a button. */
export interface KeyActions extends Actions {
  pan: (right: number, down: number) => void;
  stepLesion: (by: 1 | -1) => void;
  stepSlide: (by: 1 | -1) => void;
  crosshair: () => void;
  pointInMiddle: () => void;
  endArea: () => void;
  pointBack: () => void;
}

const PAN = 0.15;

export function slideCommands(actions: KeyActions, looks: Looks): Command[] {
  return [
    ...moveCommands(actions),
    ...layerCommands(looks),
    { keys: ["n"], what: "Next lesion", run: () => actions.stepLesion(1) },
    { keys: ["N"], what: "Previous lesion", run: () => actions.stepLesion(-1) },
    { keys: ["m"], what: "Measure a distance", run: () => actions.measure("distance") },
    { keys: ["a"], what: "Measure an area", run: () => actions.measure("area") },
    { keys: ["c"], what: "Crosshair in the center, with values", run: actions.crosshair },
    {
      keys: [" "],
      what: "Add a measurement point in the center",
      run: actions.pointInMiddle,
    },
    { keys: ["Enter"], what: "Close the area", run: actions.endArea },
    { keys: ["Escape", "Backspace"], what: "Remove the last point", run: actions.pointBack },
    { keys: ["j"], what: "Next slide", run: () => actions.stepSlide(1) },
    { keys: ["k"], what: "Previous slide", run: () => actions.stepSlide(-1) },
    { keys: ["p"], what: "Save this view as a PNG", run: actions.saveImage },
    { keys: ["?"], what: "Show this list", run: actions.help },
  ];
}

function moveCommands({ pan, zoom, whole, magnify, turn, mirror }: KeyActions): Command[] {
  const magnifications = STEPS.map((step) => `${step}\u00d7`).join(", ");
  return [
    {
      keys: ["ArrowLeft"],
      shown: ["\u2190", "\u2192", "\u2191", "\u2193"],
      what: "Move",
      run: () => pan(-PAN, 0),
    },
    { keys: ["ArrowRight"], what: "", run: () => pan(PAN, 0) },
    { keys: ["ArrowUp"], what: "", run: () => pan(0, -PAN) },
    { keys: ["ArrowDown"], what: "", run: () => pan(0, PAN) },
    { keys: ["+", "="], what: "Zoom in", run: () => zoom(1.5) },
    { keys: ["-"], what: "Zoom out", run: () => zoom(1 / 1.5) },
    { keys: ["0"], what: "Whole slide", run: whole },
    ...STEPS.map((step, i) => ({
      keys: [String(i + 1)],
      shown: ["1", "\u2013", "6"],
      what: i === 0 ? `Magnification: ${magnifications}` : "",
      run: () => magnify(step),
    })),
    { keys: ["r"], what: "Rotate right", run: () => turn(90) },
    { keys: ["R"], what: "Rotate left", run: () => turn(-90) },
    { keys: ["f"], what: "Mirror horizontally", run: mirror },
  ];
}

function layerCommands(looks: Looks): Command[] {
  return [
    { keys: ["h"], what: "Toggle all layers", run: () => toggleBare(looks) },
    { keys: ["u"], what: "Next layer: probability, uncertainties", run: () => nextLayer(looks) },
    { keys: [","], what: "Threshold down", run: () => moveThreshold(looks, -0.02) },
    { keys: ["."], what: "Threshold up", run: () => moveThreshold(looks, 0.02) },
    { keys: ["<"], what: "Opacity down", run: () => moveOpacity(looks, -0.1) },
    { keys: [">"], what: "Opacity up", run: () => moveOpacity(looks, 0.1) },
    { keys: ["o"], what: "Toggle lesion outlines", run: () => toggleLines(looks, "outlines") },
    { keys: ["t"], what: "Ground truth outlines", run: () => toggleLines(looks, "truthOutlines") },
    { keys: ["s"], what: "Swipe", run: () => switchMode(looks, "swipe") },
    { keys: ["d"], what: "Side by side", run: () => switchMode(looks, "side") },
  ];
}

/** Value layer that keys act on: the first visible one, else the first. */
function activeLayer(looks: Looks): string | null {
  const { values } = looks;
  if (looks.mode !== "one") return looks.left || looks.right || null;
  return (values.find((v) => looks.of(v.id).shown) ?? values[0])?.id ?? null;
}

function toggleBare(looks: Looks): void {
  looks.toggleBare();
  announce(looks.isBare ? "Layers off" : "Layers on");
}

/** Show only the next layer; in a comparison, on the left side. */
function nextLayer(looks: Looks): void {
  const { values } = looks;
  if (values.length === 0) return;
  const at = values.findIndex((layer) => layer.id === activeLayer(looks));
  const next = values[(at + 1) % values.length];
  if (looks.mode === "one") looks.showAlone(next.id);
  else looks.compare({ left: next.id });
  announce(next.label);
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

function toggleLines(looks: Looks, name: LinesName): void {
  looks.setLines(name, { shown: !looks.lines[name].shown });
}

function switchMode(looks: Looks, mode: Mode): void {
  if (looks.values.length === 0) return;
  looks.compare({ mode: looks.mode === mode ? "one" : mode });
}
