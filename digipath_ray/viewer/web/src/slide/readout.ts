/** The line under a slide: where the pointer is, and what was predicted there. */

import { ask, type Layer, type ShownSlide, type Values } from "../page/api";
import { fill, make } from "../page/dom";
import type { Point } from "./placement";
import { digits, NONE } from "../page/words";

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

  /** The same slide, which may have other layers now. */
  take(slide: ShownSlide): void {
    this.slide = slide;
    this.showValues({});
  }

  /** Whether a change is told to those who hear the page: not while a mouse moves. */
  set isSpoken(spoken: boolean) {
    this.element.setAttribute("aria-live", spoken ? "polite" : "off");
  }

  /** Say the place at once, and the exact values as soon as the pointer rests. */
  show(point: Point | null): void {
    window.clearTimeout(this.timer);
    this.asking.abort();
    const { width, height } = this.slide.image;
    const inside =
      point !== null && point[0] >= 0 && point[1] >= 0 && point[0] < width && point[1] < height;
    this.place.textContent = inside
      ? this.sayPlace(point)
      : "Point at the slide to read its values";
    if (!inside || this.slide.layers.length === 0) {
      this.showValues({});
      return;
    }
    this.timer = window.setTimeout(() => void this.read(point), WAIT_MS);
  }

  /** What else is to be said: a measurement, or what to do next. */
  note(text: string): void {
    this.aside.textContent = text;
  }

  /** Say what cannot be shown at present; empty: all is. */
  warn(text: string): void {
    this.trouble.textContent = text;
  }

  private sayPlace([x, y]: Point): string {
    const { mpp_x, mpp_y } = this.slide.image;
    if (mpp_x === null || mpp_y === null) return `x ${digits(x)}  y ${digits(y)} px`;
    return `x ${digits(x * mpp_x)}  y ${digits(y * mpp_y)} \u00b5m`;
  }

  private async read([x, y]: Point): Promise<void> {
    this.asking = new AbortController();
    const { signal } = this.asking;
    const at = `x=${Math.floor(x)}&y=${Math.floor(y)}`;
    const answer = await ask<Values>(`slides/${this.slide.key}/values?${at}`, signal).catch(
      () => null,
    );
    if (answer === null || signal.aborted) return;
    this.showValues(answer.values);
  }

  /** A line for each run, also while nothing is known, so that the slide above stays put. */
  private showValues(values: Values["values"]): void {
    const layers = this.slide.layers.filter((layer) => layer.kind === "value");
    const runs = [...new Set(layers.map((layer) => layer.run))];
    const say = (layer: Layer) => {
      const value = values[layer.id] ?? null;
      const said = make("b", { "data-value": layer.id }, value === null ? NONE : digits(value));
      return make("span", {}, `${layer.name} `, said);
    };
    const lines = runs.map((run) => {
      const name = runs.length > 1 ? make("span", {}, run) : null;
      const its = layers.filter((layer) => layer.run === run);
      return make("span", { class: "run" }, name, ...its.map(say));
    });
    fill(this.values, ...lines);
  }
}
