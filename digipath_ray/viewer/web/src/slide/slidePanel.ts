/** What stands beside a slide: notices, the controls, lesions, exports, facts. */

import { url, type Slide } from "../page/api";
import { comparisonPanel } from "./comparison";
import { fill, make, type Child } from "../page/dom";
import { keepFocus } from "./focus";
import { icon } from "../page/icons";
import { layerPanel } from "./layerPanel";
import type { Looks } from "./looks";
import { sayRun } from "./scene";
import { NONE } from "../page/words";

export class SlidePanel {
  readonly element = make("aside", { class: "panel", "aria-label": "Findings" });
  private updates: (() => void)[] = [];
  /** Which parts are open: as the user left them. */
  private readonly open = new Map([["Facts", false]]);

  constructor(
    private readonly looks: Looks,
    private readonly titles: Record<string, string>,
    private readonly researchUse: string,
  ) {}

  /** All of it anew; what has the focus keeps it. */
  draw(slide: Slide, lesions: HTMLElement): void {
    const layers = layerPanel(this.looks, this.titles);
    const comparison = comparisonPanel(this.looks);
    this.updates = [layers.update, comparison.update];
    const done = slide.status === "done";
    const fit = slide.layers.some((layer) => layer.kind === "value");
    const notes = slide.notes.length > 0 ? notice("To know", slide.notes, "plain-notice") : null;
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

  /** Bring the controls up to date with the looks. */
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

/** Why it was not analyzed, or why a person should look. */
function notices({ failure, image_error, reasons }: Slide): HTMLElement[] {
  if (failure !== null) {
    return [
      notice(`Not analyzed: failed at ${failure.step}`, [failure.error, failure.hint], "bad"),
    ];
  }
  return [
    ...(image_error ? [notice("Its file", [image_error.error, image_error.hint], "bad")] : []),
    ...(reasons.length > 0 ? [notice("Look because", reasons)] : []),
  ];
}

function notice(title: string, texts: readonly string[], kind = ""): HTMLElement {
  const paragraphs = texts.map((text) => make("p", {}, text));
  return make("section", { class: `notice ${kind}` }, make("b", {}, title), ...paragraphs);
}

/** A row of links for each run; where two are opened, it is said whose, even of one. */
function exports(slide: Slide, titles: Record<string, string>): HTMLElement {
  const several = Object.keys(titles).length > 1;
  const rows = slide.done.map((run) => {
    const title = several ? make("h3", { class: "run-title" }, sayRun(run, titles)) : null;
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
      link("heatmap", "OME-TIFF", "Heatmap with all its channels, as floats"),
    link("csv", "CSV", "The lesions of this slide, a row each"),
  ];
}

function facts(pairs: readonly [string, string][]): HTMLElement {
  const rows = pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value || NONE)),
  );
  return make("dl", { class: "facts" }, ...rows);
}
