/** The columns of the table of slides, and how a cell says its value. */

import type { Cohort, Entry } from "../page/api";
import { make, type Child } from "../page/dom";
import type { SortKey } from "./listing";
import { hrefs } from "../page/route";
import { digits, NONE, sayMm, sayStage, STATUS_WORDS, toneOf, TYPES } from "../page/words";

export interface Column {
  sort: SortKey;
  label: string;
  title: string;
  kind: "text" | "number";
  cell: (entry: Entry) => Child;
}

export function columnsOf(cohort: Cohort): Column[] {
  const slide: Column = {
    sort: "slide",
    label: "Slide",
    title: "Name of the slide, its patient and node",
    kind: "text",
    cell: nameCell,
  };
  if (cohort.kind === "folder") return [slide];
  const stages = new Map(cohort.patients.map((p) => [p.patient_id, sayStage(p)]));
  return [
    slide,
    { sort: "status", label: "Status", title: "How far it is", kind: "text", cell: statusCell },
    {
      sort: "finding",
      label: cohort.ending === "burden" ? "Burden" : "Finding",
      title: "What was found",
      kind: cohort.ending === "burden" ? "number" : "text",
      cell: findingCell,
    },
    ...(stages.size > 0 ? [stageColumn(stages)] : []),
    number("largest", "Largest mm", "Largest lesion, longest extent", (e) => sayMm(e.largest_um)),
    number("tumor", "Tumor mm\u00b2", "Area at or above the threshold", (e) =>
      e.tumor_mm2 === null ? NONE : digits(e.tumor_mm2),
    ),
    number("lesions", "Lesions", "How many", (e) => e.lesions ?? NONE),
    number(
      "unsure",
      "Unsure",
      "Variance between the members where the probability is 0.3 to 0.7, 0 to 0.25",
      (e) => (e.unsure === null ? NONE : digits(e.unsure)),
    ),
    {
      sort: "attention",
      label: "Look because",
      title: "Why a person should look at it",
      kind: "text",
      cell: reasonsCell,
    },
  ];
}

function number(
  sort: SortKey,
  label: string,
  title: string,
  cell: (entry: Entry) => Child,
): Column {
  return {
    sort,
    label,
    title,
    kind: "number",
    cell: (e) => (e.status === "done" ? cell(e) : NONE),
  };
}

function stageColumn(stages: Map<string, string>): Column {
  return {
    sort: "stage",
    label: "Stage",
    title: "pN stage of the patient",
    kind: "text",
    cell: ({ patient_id }) => (patient_id && stages.get(patient_id)) || NONE,
  };
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

/** The type alone where there is one: its size has a column of its own. */
function verdictChip(entry: Entry): HTMLElement {
  const type = entry.metastasis === null ? null : TYPES[entry.metastasis];
  const label = type ?? entry.verdict_label ?? entry.verdict ?? NONE;
  return make("span", { class: `chip ${toneOf(entry)}`, title: entry.verdict_label }, label);
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
