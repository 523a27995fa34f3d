/** What stands beside a slide: notices, the controls, lesions, exports, facts. */

import { url, type Slide } from "../page/api";
import { make } from "../page/dom";
import { icon } from "../page/icons";
import { NONE } from "../page/words";

interface Parts {
  comparison: HTMLElement;
  layers: HTMLElement;
  lesions: HTMLElement;
  researchUse: string;
}

export function slidePanel(slide: Slide, parts: Parts): HTMLElement {
  const done = slide.status === "done";
  const compared = slide.layers.some((layer) => layer.kind === "value");
  return make(
    "aside",
    { class: "panel", "aria-label": "Findings" },
    ...notices(slide),
    compared ? parts.comparison : null,
    part("Layers", true, parts.layers),
    done ? part(`Lesions (${slide.lesions.length})`, true, parts.lesions) : null,
    done ? part("Export", true, exports(slide)) : null,
    slide.facts.length > 0 ? part("Facts", false, facts(slide.facts)) : null,
    make("p", { class: "quiet panel-end" }, parts.researchUse),
  );
}

/** Why it was not analyzed, or why a person should look. */
function notices({ failure, image_error, reasons, notes }: Slide): HTMLElement[] {
  if (failure !== null) {
    return [
      notice(`Not analyzed: failed at ${failure.step}`, [failure.error, failure.hint], "bad"),
    ];
  }
  return [
    ...(image_error ? [notice("Its file", [image_error.error, image_error.hint], "bad")] : []),
    ...(reasons.length > 0 ? [notice("Look because", reasons)] : []),
    ...(notes.length > 0 ? [notice("To know", notes, "plain-notice")] : []),
  ];
}

function notice(title: string, texts: readonly string[], kind = ""): HTMLElement {
  const paragraphs = texts.map((text) => make("p", {}, text));
  return make("section", { class: `notice ${kind}` }, make("b", {}, title), ...paragraphs);
}

function part(title: string, open: boolean, content: HTMLElement): HTMLElement {
  return make("details", { class: "part", open }, make("summary", {}, title), content);
}

function exports({ key, outlines, layers }: Slide): HTMLElement {
  const link = (what: "geojson" | "heatmap" | "csv", text: string, title: string) => {
    const anchor = make("a", { class: "button small", href: url.exported(key, what), title });
    anchor.setAttribute("download", "");
    anchor.append(icon("save"), text);
    return anchor;
  };
  return make(
    "div",
    { class: "exports" },
    outlines && link("geojson", "GeoJSON", "Lesion outlines for QuPath"),
    layers.some((layer) => layer.kind === "value") &&
      link("heatmap", "OME-TIFF", "Heatmap with all its channels, as floats"),
    link("csv", "CSV", "Outcome of this slide"),
  );
}

function facts(pairs: readonly [string, string][]): HTMLElement {
  const rows = pairs.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value || NONE)),
  );
  return make("dl", { class: "facts" }, ...rows);
}
