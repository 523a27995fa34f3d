/** Patients: the table of all, and the page of one: the nodes side by side, their votes,
 * the stage and the rule that gave it. */

import type { Cohort, Entry, Patient, PatientNode } from "../page/api";
import { fill, make } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { thumbnail } from "./slideTable";
import { GRAVITY, natural, NONE, sayLength, sayStage, STATUS_WORDS, TYPES } from "../page/words";

export function patientTable(cohort: Cohort): HTMLElement {
  if (cohort.patients.length === 0) {
    return make("p", { class: "empty" }, "No patient has a stage yet.");
  }
  const heads = ["Patient", "pN stage", "Nodes", "Rule"].map((text) =>
    make("th", { scope: "col" }, text),
  );
  const patients = [...cohort.patients].sort((a, b) => natural(a.patient_id, b.patient_id));
  const table = make(
    "table",
    { class: "patients" },
    make("thead", {}, make("tr", {}, ...heads)),
    make("tbody", {}, ...patients.map(row)),
  );
  return make("div", { class: "scroll" }, table);
}

function row(patient: Patient): HTMLTableRowElement {
  const name = make(
    "a",
    { href: hrefs.patient(patient.patient_id), class: "name" },
    patient.patient_id,
  );
  return make(
    "tr",
    {},
    make("th", { scope: "row" }, name),
    make("td", { class: "pn" }, sayStage(patient)),
    make("td", {}, make("div", { class: "chips" }, ...graver(patient.nodes).map(nodeChip))),
    make("td", { class: "rule" }, patient.rule, missing(patient)),
  );
}

function missing(patient: Patient): HTMLElement | null {
  return patient.missing ? make("div", { class: "error-text" }, patient.missing) : null;
}

/** The gravest node first. */
export function graver(nodes: PatientNode[]): PatientNode[] {
  const gravity = (node: PatientNode) => GRAVITY.indexOf(node.metastasis ?? "");
  return [...nodes].sort((a, b) => gravity(b) - gravity(a) || natural(a.node ?? "", b.node ?? ""));
}

function nodeChip(node: PatientNode): HTMLElement {
  const type = node.metastasis;
  const title = type === null ? "not analyzed" : TYPES[type];
  const text = `${node.node ?? NONE}: ${type ?? "not analyzed"}`;
  return make("a", { class: `chip ${type ?? "failed"}`, href: hrefs.slide(node.key), title }, text);
}

export function showPatient(main: HTMLElement, live: Live, id: string, until: AbortSignal): void {
  const draw = () => {
    const patient = live.cohort.patients.find((p) => p.patient_id === id);
    fill(main, patient ? describe(patient, live) : unstaged(id, live));
  };
  live.watch((part) => (part === "patients" || part === "slides") && draw(), until);
  draw();
}

function describe(patient: Patient, live: Live): HTMLElement {
  return make(
    "div",
    { class: "page patient-page" },
    make("h1", {}, patient.patient_id),
    make(
      "section",
      { class: "card stage-card", "aria-label": "Stage" },
      make("p", { class: "big-stage" }, sayStage(patient)),
      make(
        "div",
        {},
        make("p", {}, patient.rule),
        patient.missing ? make("p", { class: "error-text" }, patient.missing) : null,
        ...patient.notes.map((note) => make("p", { class: "quiet" }, note)),
      ),
    ),
    make("h2", {}, "Nodes, the gravest first"),
    make("ul", { class: "nodes" }, ...graver(patient.nodes).map((node) => nodeCard(node, live))),
  );
}

/** A patient of whom no stage is known (yet): the slides alone. */
function unstaged(id: string, live: Live): HTMLElement {
  const slides = live.cohort.slides.filter((entry) => entry.patient_id === id);
  if (slides.length === 0) {
    return make("p", { class: "empty" }, "This cohort has no such patient.");
  }
  const nodes = slides.map(({ key, node, metastasis }) => ({ key, node, metastasis, votes: [] }));
  return make(
    "div",
    { class: "page patient-page" },
    make("h1", {}, id),
    make("p", { class: "quiet" }, "No stage is known."),
    make("ul", { class: "nodes" }, ...nodes.map((node) => nodeCard(node, live))),
  );
}

function nodeCard(node: PatientNode, live: Live): HTMLElement {
  const entry = live.entry(node.key);
  const tone = node.metastasis ?? (entry?.status === "failed" ? "failed" : "plain");
  const link = make("a", { href: hrefs.slide(node.key) });
  fill(
    link,
    entry ? thumbnail(entry) : null,
    make("span", { class: "node-name" }, sayNode(node, entry)),
  );
  return make(
    "li",
    { class: `card node ${tone}` },
    link,
    make("p", {}, make("span", { class: `chip ${tone}` }, sayType(node, entry))),
    entry?.status === "done" ? largest(entry) : null,
    node.votes.length > 0 ? votes(node) : null,
    entry?.failure ? make("p", { class: "error-text" }, entry.failure.error) : null,
  );
}

/** A slide of no known node goes by its own name. */
function sayNode({ node }: PatientNode, entry: Entry | undefined): string {
  if (node === null || node === entry?.slide_id) return entry?.slide_id ?? "slide";
  return `Node ${node}`;
}

function sayType(node: PatientNode, entry: Entry | undefined): string {
  if (node.metastasis !== null) return TYPES[node.metastasis] ?? node.metastasis;
  return entry ? STATUS_WORDS[entry.status] : "not analyzed";
}

function largest(entry: Entry): HTMLElement {
  const text = entry.largest_um ? `Largest lesion ${sayLength(entry.largest_um)}` : "No lesion";
  return make("p", { class: "quiet" }, text);
}

function votes(node: PatientNode): HTMLElement {
  const rows = node.votes.map(({ forest, type }) =>
    make(
      "tr",
      { class: type === node.metastasis ? "taken" : null },
      make("th", { scope: "row" }, forest),
      make("td", {}, TYPES[type] ?? type),
    ),
  );
  const caption = make("caption", {}, "Votes of the forests");
  return make("table", { class: "votes" }, caption, make("tbody", {}, ...rows));
}
