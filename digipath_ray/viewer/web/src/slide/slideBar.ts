/** Bar above a slide: name, result, previous and next slide. */

import type { Entry } from "../page/api";
import { drawBar } from "../page/bar";
import { make } from "../page/dom";
import { icon } from "../page/icons";
import { arrange, listing } from "../cohort/listing";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { toneOf } from "../page/format";

export function drawSlideBar(live: Live, key: string): void {
  const entry = live.entry(key);
  if (entry === undefined) {
    drawBar(live);
    return;
  }
  const patient = entry.patient_id;
  const { before, after } = neighbors(live, key);
  const step = (to: string | null, label: string, picture: "back" | "next") => {
    const link = make("a", { class: "quiet-button", title: label, "aria-label": label });
    if (to !== null) link.href = hrefs.slide(to);
    else link.setAttribute("aria-disabled", "true");
    link.append(icon(picture));
    return link;
  };
  drawBar(
    live,
    make("span", { class: "crumb", "aria-hidden": true }, "/"),
    make("h1", { class: "slide-name" }, entry.slide_id),
    patient === null
      ? null
      : make("a", { class: "patient", href: hrefs.patient(patient) }, patient),
    make(
      "span",
      { class: `chip ${toneOf(entry)}` },
      entry.verdict_label ?? entry.verdict ?? formatStatus(entry),
    ),
    step(before, "Previous slide (K)", "back"),
    step(after, "Next slide (J)", "next"),
  );
}

function formatStatus({ status, progress }: Entry): string {
  return progress === null ? status : `${status}, ${Math.round(100 * progress)} %`;
}

/** Previous and next slide, in table order. */
export function neighbors(
  live: Live,
  key: string,
): { before: string | null; after: string | null } {
  const { slides, patients } = live.cohort;
  const keys = arrange(slides, patients, listing).map((entry) => entry.key);
  const at = keys.indexOf(key);
  if (at < 0) return { before: null, after: keys[0] ?? null };
  return { before: keys[at - 1] ?? null, after: keys[at + 1] ?? null };
}
