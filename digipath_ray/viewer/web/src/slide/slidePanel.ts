/** Side panel of a slide: notices, controls, lesions, exports, facts. */

import { url, type Slide } from "../page/api";
import { comparisonPanel } from "./comparison";
import { fill, make, type Child } from "../page/dom";
import { keepFocus } from "./focus";
import { icon } from "../page/icons";
import { layerPanel } from "./layerPanel";
import type { Looks } from "./looks";
import { formatRun } from "./scene";
import { NONE } from "../page/format";

export class SlidePanel {
  readonly element = make("aside", { class: "panel", "aria-label": "Findings" });
  private updates: (() => void)[] = [];
  /** Which parts are expanded, as left by the user. */
  private readonly open = new Map([["Facts", false]]);

  constructor(
    private readonly looks: Looks,
    private readonly titles: Record<string, string>,
    private readonly researchUse: string,
  ) {}

  /** Redraw everything, keeping the focus. */
  draw(slide: Slide, lesions: HTMLElement): void {
    const layers = layerPanel(this.looks, this.titles);
    const comparison = comparisonPanel(this.looks);
    this.updates = [layers.update, comparison.update];
    const done = slide.status === "done";
    const fit = slide.layers.some((layer) => layer.kind === "value");
    const notes = slide.notes.length > 0 ? notice("Notes", slide.notes, "plain-notice") : null;
    keepFocus(this.element, () =>
      fill(
        this.element,
        ...notices(slide),
        fit ? comparison.element : null,
        this.part("Layers", layers.element, notes),
        done ? this.part("Lesions", lesions, null, ` (${slide.lesions.length})`) : null,
        slide.done.length > 0 ? this.part("Export", exports(slide, this.titles)) : null,
        slide.facts.length > 0 ? this.part("Facts", facts(slide.facts)) : null,
        make("p", { class: "quiet panel-end" }, this.researchUse),
      ),
    );
  }

  /** Synchronize the controls with the looks. */
  update(): void {
    for (const update of this.updates) update();
  }

  private part(title: string, content: HTMLElement, before: Child = null, more = ""): HTMLElement {
    const open = this.open.get(title) ?? true;
    const summary = make("summary", {}, `${title}${more}`);
    const details = make("details", { class: "part", open }, summary, before, content);
    details.addEventListener("toggle", () => this.open.set(title, details.open));
    return details;
  }
}

/** Reasons for failure or review. */
function notices({ failure, image_error, reasons }: Slide): HTMLElement[] {
  if (failure !== null) {
    return [
      notice(`Not analyzed: failed at ${failure.step}`, [failure.error, failure.hint], "bad"),
    ];
  }
  return [
    ...(image_error ? [notice("Slide file", [image_error.error, image_error.hint], "bad")] : []),
    ...(reasons.length > 0 ? [notice("Review because", reasons)] : []),
  ];
}

function notice(title: string, texts: readonly string[], kind = ""): HTMLElement {
  const paragraphs = texts.map((text) => make("p", {}, text));
  return make("section", { class: `notice ${kind}` }, make("b", {}, title), ...paragraphs);
}

/** Export links of each run, titled if two runs are opened. */
function exports(slide: Slide, titles: Record<string, string>): HTMLElement {
  const several = Object.keys(titles).length > 1;
  const rows = slide.done.map((run) => {
    const title = several ? make("h3", { class: "run-title" }, formatRun(run, titles)) : null;
    return make("div", { class: "exports" }, title, ...exportsOf(slide, run));
  });
  return make("div", {}, ...rows);
}

function exportsOf({ key, outlines, layers }: Slide, run: string): Child[] {
  const link = (what: "geojson" | "heatmap" | "csv", text: string, title: string) => {
    const href = url.exported(key, what, run);
    const anchor = make("a", { class: "button small", href, title });
    anchor.setAttribute("download", "");
    anchor.append(icon("save"), text);
    return anchor;
  };
  return [
    outlines.includes(run) && link("geojson", "GeoJSON", "Lesion outlines for QuPath"),
    layers.some((layer) => layer.kind === "value" && layer.run === run) &&
      link("heatmap", "OME-TIFF", "Heatmap with all channels, float32"),
    link("csv", "CSV", "Lesions of this slide, one row each"),
  ];
}

function facts(pairs: readonly [string, string][]): HTMLElement {
  const rows = pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value || NONE)),
  );
  return make("dl", { class: "facts" }, ...rows);
}
