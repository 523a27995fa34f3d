/** Status line below a slide: pointer position and predicted values. */

import { fetchJson, type Layer, type ShownSlide, type Values } from "../page/api";
import { fill, make } from "../page/dom";
import type { Point } from "./placement";
import { digits, NONE } from "../page/format";

/** Values of a run that fit in a line. */
const FEW = 4;

const WAIT_MS = 90;

export class Readout {
  readonly element = make("div", { class: "readout", role: "status", "aria-live": "off" });
  private readonly place = make("span", { class: "place" });
  private readonly values = make("span", { class: "values" });
  private readonly trouble = make("span", { class: "trouble" });
  private readonly aside = make("span", { class: "aside" });
  private timer = 0;
  private asking = new AbortController();

  constructor(
    private slide: ShownSlide,
    until: AbortSignal,
  ) {
    until.addEventListener("abort", () => this.show(null));
    fill(this.element, this.place, this.values, this.trouble, this.aside);
    this.show(null);
  }

  /** Update the slide and its layers. */
  take(slide: ShownSlide): void {
    this.slide = slide;
    this.showValues({});
  }

  /** Whether changes are announced to screen readers: not on mouse moves. */
  set isSpoken(spoken: boolean) {
    this.element.setAttribute("aria-live", spoken ? "polite" : "off");
  }

  /** Show the position at once, and exact values when the pointer rests. */
  show(point: Point | null): void {
    window.clearTimeout(this.timer);
    this.asking.abort();
    const { width, height } = this.slide.image;
    const inside =
      point !== null && point[0] >= 0 && point[1] >= 0 && point[0] < width && point[1] < height;
    this.place.textContent = inside
      ? this.formatPlace(point)
      : "Point at the slide to read its values";
    if (!inside || this.slide.layers.length === 0) {
      this.showValues({});
      return;
    }
    this.timer = window.setTimeout(() => void this.read(point), WAIT_MS);
  }

  /** Show a measurement or instruction. */
  note(text: string): void {
    this.aside.textContent = text;
  }

  /** Show a warning; empty clears it. */
  warn(text: string): void {
    this.trouble.textContent = text;
  }

  private formatPlace([x, y]: Point): string {
    const { mpp_x, mpp_y } = this.slide.image;
    if (mpp_x === null || mpp_y === null) return `x ${digits(x)}  y ${digits(y)} px`;
    return `x ${digits(x * mpp_x)}  y ${digits(y * mpp_y)} \u00b5m`;
  }

  private async read([x, y]: Point): Promise<void> {
    this.asking = new AbortController();
    const { signal } = this.asking;
    const at = `x=${Math.floor(x)}&y=${Math.floor(y)}`;
    const response = await fetchJson<Values>(`slides/${this.slide.key}/values?${at}`, signal).catch(
      () => null,
    );
    if (response === null || signal.aborted) return;
    this.showValues(response.values);
  }

  /** A line per run, with many classes several; even without values, so that the layout
   * does not shift. */
  private showValues(values: Values["values"]): void {
    const layers = this.slide.layers.filter((layer) => layer.kind === "value");
    const runs = [...new Set(layers.map((layer) => layer.run))];
    const formatLayer = (layer: Layer) => {
      const value = values[layer.id] ?? null;
      const text = make("b", { "data-value": layer.id }, value === null ? NONE : digits(value));
      return make("span", {}, `${layer.name.replace(/^class:/, "")} `, text);
    };
    const lines = runs.map((run) => {
      const name = runs.length > 1 ? make("span", {}, run) : null;
      const its = layers.filter((layer) => layer.run === run);
      const shape = its.length > FEW ? "run many" : "run";
      return make("span", { class: shape }, name, ...its.map(formatLayer));
    });
    fill(this.values, ...lines);
  }
}
