/** Toolbar of a slide. */

import { make } from "../page/dom";
import { icon, type IconName } from "../page/icons";
import { fullMagnification, formatMagnification, STEPS } from "./scale";
import type { Measurements, Tool } from "./measurements";
import type { ShownSlide } from "../page/api";

export interface Actions {
  magnify: (step: number) => void;
  zoom: (factor: number) => void;
  whole: () => void;
  turn: (degrees: number) => void;
  mirror: () => void;
  measure: (tool: Tool) => void;
  clear: () => void;
  saveImage: () => void;
  help: () => void;
}

export class Toolbar {
  readonly element: HTMLElement;
  private readonly now = make("output", { class: "magnification", title: "Current magnification" });
  private readonly steps: HTMLButtonElement[];
  private readonly distance: HTMLButtonElement;
  private readonly area: HTMLButtonElement;
  private readonly mirror: HTMLButtonElement;
  private readonly clear: HTMLButtonElement;

  constructor(slide: ShownSlide, actions: Actions) {
    const full = fullMagnification(slide.image);
    this.steps = STEPS.map((step) => {
      const text = formatMagnification(step);
      const label = `Magnify ${step} times`;
      const button = make(
        "button",
        { class: "tool", "data-step": step, "aria-label": label },
        text,
      );
      button.addEventListener("click", () => actions.magnify(step));
      return button;
    });
    this.distance = tool("ruler", "Measure a distance (M)", () => actions.measure("distance"));
    this.area = tool("area", "Measure an area (A)", () => actions.measure("area"));
    this.mirror = tool("mirror", "Mirror horizontally (F)", actions.mirror);
    this.clear = tool("close", "Remove measurements", actions.clear);
    this.element = make(
      "div",
      { class: "toolbar", role: "toolbar", "aria-label": "View" },
      group("Magnification", full === null ? [] : [...this.steps, this.now]),
      group("Zoom", [
        tool("minus", "Zoom out (-)", () => actions.zoom(1 / 1.5)),
        tool("plus", "Zoom in (+)", () => actions.zoom(1.5)),
        tool("home", "Whole slide (0)", actions.whole),
      ]),
      group("Rotation and mirror", [
        tool("left", "Rotate left (Shift+R)", () => actions.turn(-90)),
        tool("right", "Rotate right (R)", () => actions.turn(90)),
        this.mirror,
      ]),
      group("Measure", [this.distance, this.area, this.clear]),
      group("Image and keys", [
        tool("camera", "Save this view as a PNG (P)", actions.saveImage),
        tool("help", "Keys (?)", actions.help),
      ]),
    );
  }

  showView(magnification: number | null, mirrored: boolean): void {
    this.mirror.setAttribute("aria-pressed", String(mirrored));
    if (magnification === null) return;
    this.now.textContent = formatMagnification(magnification);
    for (const button of this.steps) {
      const off = Math.abs(Math.log2(magnification / Number(button.dataset.step)));
      button.setAttribute("aria-pressed", String(off < 0.02));
    }
  }

  showTool(measurements: Measurements): void {
    this.distance.setAttribute("aria-pressed", String(measurements.tool === "distance"));
    this.area.setAttribute("aria-pressed", String(measurements.tool === "area"));
    this.clear.hidden = measurements.isEmpty;
  }
}

function group(label: string, parts: HTMLElement[]): HTMLElement | null {
  return parts.length > 0
    ? make("div", { class: "group", role: "group", "aria-label": label }, ...parts)
    : null;
}

function tool(picture: IconName, label: string, run: () => void): HTMLButtonElement {
  const button = make("button", { class: "tool", title: label, "aria-label": label });
  button.append(icon(picture));
  button.addEventListener("click", run);
  return button;
}
