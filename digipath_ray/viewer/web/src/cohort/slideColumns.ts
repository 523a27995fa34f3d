/** Columns of the slide table and their cells. */

import type { Entry, Patient } from "../page/api";
import { make, type Child } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import {
  digits,
  NONE,
  formatFinding,
  formatMm,
  formatStage,
  STATUS_WORDS,
  toneOf,
} from "../page/format";
import type { Column } from "./dataTable";
import type { SortKey } from "./listing";

type SlideColumn = Column<Entry, SortKey>;

export function columnsOf(live: Live): SlideColumn[] {
  const { kind, ending, patients } = live.cohort;
  const slide = text("slide", "Slide", "Name of the slide, its patient and node", nameCell);
  if (kind === "folder") return [slide];
  const burden = ending === "burden";
  return [
    slide,
    text("status", "Status", "Status", statusCell),
    burden
      ? number("finding", "Burden", "Viable tumor area / whole tumor area", findingCell)
      : text("finding", "Finding", "Result", findingCell),
    ...(ending === "stage" && patients.length > 0 ? [stageColumn(live)] : []),
    number("largest", "Largest lesion, mm", "Longest extent of the largest lesion", (e) =>
      formatMm(e.largest_um),
    ),
    number("tumor", "Tumor, mm\u00b2", "Area at or above the threshold", (e) =>
      e.tumor_mm2 === null ? NONE : digits(e.tumor_mm2),
    ),
    number("lesions", "Lesions", "Number of lesions", (e) => e.lesions ?? NONE),
    number("unsure", "Variance", VARIANCE, (e) => (e.unsure === null ? NONE : digits(e.unsure))),
    text("attention", "Review because", "Reasons for review", reasonsCell),
  ];
}

const VARIANCE =
  "Disagreement of the ensemble's members: variance of their probabilities, " +
  "0 (agreement) to 0.25, averaged where the probability is 0.3 to 0.7";

function text(
  sort: SortKey,
  label: string,
  title: string,
  cell: (entry: Entry) => Child,
): SlideColumn {
  return { sort, name: sort, label, title, kind: "text", cell };
}

function number(
  sort: SortKey,
  label: string,
  title: string,
  cell: (entry: Entry) => Child,
): SlideColumn {
  const known = (entry: Entry) => (entry.status === "done" ? cell(entry) : NONE);
  return { sort, name: sort, label, title, kind: "number", cell: known };
}

function stageColumn(live: Live): SlideColumn {
  let known: readonly Patient[] = [];
  let stages = new Map<string, string>();
  return text("stage", "Stage", "pN stage of the patient", ({ patient_id }) => {
    const { patients } = live.cohort;
    if (known !== patients) {
      known = patients;
      stages = new Map(patients.map((p) => [p.patient_id, p.pn_stage ? formatStage(p) : NONE]));
    }
    return stages.get(patient_id ?? "") ?? NONE;
  });
}

function nameCell(entry: Entry): HTMLElement {
  const link = make("a", { href: hrefs.slide(entry.key), class: "name" }, entry.slide_id);
  if (entry.patient_id === null) return link;
  const patient = make("a", { href: hrefs.patient(entry.patient_id) }, entry.patient_id);
  const node = entry.node === null ? null : `, node ${entry.node}`;
  return make("div", {}, link, make("div", { class: "place" }, patient, node));
}

function statusCell(entry: Entry): HTMLElement {
  const word = make("span", { class: `status ${entry.status}` }, STATUS_WORDS[entry.status]);
  if (entry.status !== "running") return word;
  const part = entry.progress ?? 0;
  const meter = make("progress", {
    max: 1,
    value: part,
    "aria-label": `${entry.slide_id}: predicted`,
  });
  return make("div", { class: "running-cell" }, word, ` ${Math.floor(100 * part)} %`, meter);
}

function findingCell(entry: Entry): Child {
  return entry.status === "done" && entry.verdict !== null ? verdictChip(entry) : NONE;
}

/** Type only, if there is one: its size has a separate column. */
function verdictChip(entry: Entry): HTMLElement {
  const title = entry.verdict_label;
  return make("span", { class: `chip ${toneOf(entry)}`, title }, formatFinding(entry));
}

function reasonsCell(entry: Entry): Child {
  if (entry.failure !== null) {
    const { step, error, hint } = entry.failure;
    const text = make("div", { class: "error-text" }, `Failed at ${step}: ${error}`);
    return make("div", { class: "reasons" }, text, make("div", { class: "quiet" }, hint));
  }
  if (entry.reasons.length === 0) return null;
  return make(
    "div",
    { class: "reasons" },
    ...entry.reasons.map((reason) => make("div", {}, reason)),
  );
}
