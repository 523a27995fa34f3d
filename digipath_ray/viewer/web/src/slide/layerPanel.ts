/** Layer controls: visibility, opacity, threshold, colors. */

import type { Layer, Slide } from "../page/api";
import { COLORMAPS, type ColormapName } from "./colormaps";
import { fill, make } from "../page/dom";
import { strip } from "./legend";
import { firstThreshold, type LinesName, type Looks } from "./looks";
import { runsOf, formatRun } from "./scene";
import { colorOf } from "./valueLayer";
import { digits } from "../page/format";

const STEPS = 254; // resolution of a value tile

/** Controls, and a function that synchronizes them with the looks. */
interface Control {
  element: HTMLElement;
  update: () => void;
}

export function layerPanel(looks: Looks, titles: Record<string, string>): Control {
  const { slide } = looks;
  const several = runsOf(slide).length > 1;
  const controls = [
    ...slide.layers.flatMap((layer, i) => {
      const first = layer.run !== slide.layers[i - 1]?.run;
      const title = first && several ? [runTitle(layer.run, titles)] : [];
      return [...title, layerControl(layer, looks)];
    }),
    ...(slide.outlines.length > 0
      ? [lines("Lesion outlines", "outlines", looks, outlinedAt(slide))]
      : []),
    ...(looks.canBeSeen ? [pixels(looks)] : []),
    ...(slide.truth_outlines ? [lines("Ground truth outlines", "truthOutlines", looks)] : []),
  ];
  const element = make("div", { class: "layers" }, ...controls.map((control) => control.element));
  if (controls.length === 0) {
    fill(element, make("p", { class: "quiet" }, "No prediction for this slide yet."));
  }
  return { element, update: () => controls.forEach((control) => control.update()) };
}

function runTitle(run: string, titles: Record<string, string>): Control {
  const element = make("h3", { class: "run-title" }, formatRun(run, titles));
  return { element, update: () => undefined };
}

function layerControl(layer: Layer, looks: Looks): Control {
  const shown = make("input", { type: "checkbox" });
  shown.addEventListener("change", () => looks.set(layer.id, { shown: shown.checked }));
  const sliders = [
    opacity(
      () => looks.of(layer.id),
      (value) => looks.set(layer.id, { opacity: value }),
    ),
  ];
  if (layer.kind === "value") sliders.push(threshold(layer, looks), colors(layer, looks));
  const swatch = make("span", { class: "swatch" });
  swatch.hidden = layer.kind === "value";
  const details = make("div", { class: "sliders" }, ...sliders.map((slider) => slider.element));
  const element = make(
    "fieldset",
    { class: "layer", "data-layer": layer.id },
    make("legend", { class: "unseen" }, layer.label),
    make("label", { class: "layer-name" }, shown, swatch, layer.label),
    details,
  );
  return {
    element,
    update: () => {
      const compared = looks.mode !== "one" && layer.kind === "value";
      const visible = compared
        ? layer.id === looks.left || layer.id === looks.right
        : looks.of(layer.id).shown;
      element.hidden = compared && !visible;
      shown.checked = visible;
      shown.disabled = compared; // selected by the comparison
      details.hidden = !visible;
      swatch.style.backgroundColor = `rgb(${colorOf(layer, looks.of(layer.id), 1).join(" ")})`;
      sliders.forEach((slider) => slider.update());
    },
  };
}

function opacity(look: () => { opacity: number }, set: (opacity: number) => void): Control {
  const slider = make("input", {
    type: "range",
    min: 0,
    max: 100,
    step: 1,
    "data-role": "opacity",
  });
  const output = make("output");
  slider.addEventListener("input", () => set(Number(slider.value) / 100));
  return {
    element: make("label", { class: "slider" }, make("span", {}, "Opacity"), slider, output),
    update: () => {
      const percent = Math.round(100 * look().opacity);
      slider.value = String(percent);
      output.textContent = `${percent} %`;
    },
  };
}

function threshold(layer: Layer, looks: Looks): Control {
  const span = layer.high - layer.low;
  const slider = make("input", {
    type: "range",
    min: layer.low,
    max: layer.high,
    step: span / STEPS,
    "data-role": "threshold",
  });
  const output = make("output");
  const first = firstThreshold(layer, looks.slide);
  const reset = make("button", { class: "link", type: "button" }, digits(first));
  const why =
    layer.name === "probability" ? "Reset to the run's threshold" : "Reset";
  reset.title = why;
  reset.setAttribute("aria-label", `${why}, ${digits(first)}`);
  reset.addEventListener("click", () => looks.set(layer.id, { threshold: first }));
  slider.addEventListener("input", () => looks.set(layer.id, { threshold: Number(slider.value) }));
  return {
    element: make(
      "div",
      { class: "slider" },
      make("label", {}, make("span", {}, "From"), slider),
      output,
      reset,
    ),
    update: () => {
      const value = looks.of(layer.id).threshold;
      slider.value = String(value);
      output.textContent = digits(value);
      reset.hidden = Math.abs(value - first) < span / STEPS;
    },
  };
}

function colors(layer: Layer, looks: Looks): Control {
  const names = COLORMAPS.map(({ name, label }) => make("option", { value: name }, label));
  const select = make(
    "select",
    { "aria-label": `Colors of ${layer.label}`, "data-role": "colormap" },
    ...names,
  );
  select.addEventListener("change", () =>
    looks.set(layer.id, { colormap: select.value as ColormapName }),
  );
  const holder = make("span", { class: "strip", "aria-hidden": true });
  return {
    element: make("div", { class: "slider colors" }, make("span", {}, "Colors"), select, holder),
    update: () => {
      const look = looks.of(layer.id);
      select.value = look.colormap;
      fill(holder, strip(layer, look, 300, 10));
    },
  };
}

/** Pixels as scanned, or as the network saw them. */
function pixels(looks: Looks): Control {
  const box = make("input", { type: "checkbox", "data-role": "as-seen" });
  box.addEventListener("change", () => looks.setSeen(box.checked));
  const text = "Stains as the network saw them";
  return {
    element: make("div", { class: "layer" }, make("label", { class: "layer-name" }, box, text)),
    update: () => void (box.checked = looks.asSeen),
  };
}

/** Outlines do not follow the threshold slider, so their threshold is shown. */
function outlinedAt({ thresholds }: Slide): string {
  const runs = Object.entries(thresholds);
  const parts = runs.map(([run, threshold]) => {
    const whose = runs.length > 1 ? ` (${run})` : "";
    return `${threshold.toFixed(2)}${whose}`;
  });
  return parts.length > 0 ? `Outlined at a probability of ${parts.join(", ")}.` : "";
}

function lines(text: string, name: LinesName, looks: Looks, hint = ""): Control {
  const box = make("input", { type: "checkbox", "data-role": name });
  box.addEventListener("change", () => looks.setLines(name, { shown: box.checked }));
  const slider = opacity(
    () => looks.lines[name],
    (value) => looks.setLines(name, { opacity: value }),
  );
  const note = hint ? make("p", { class: "quiet" }, hint) : null;
  const details = make("div", { class: "sliders" }, slider.element, note);
  return {
    element: make(
      "div",
      { class: "layer", "data-layer": name },
      make("label", { class: "layer-name" }, box, text),
      details,
    ),
    update: () => {
      box.checked = looks.lines[name].shown;
      details.hidden = !box.checked;
      slider.update();
    },
  };
}
