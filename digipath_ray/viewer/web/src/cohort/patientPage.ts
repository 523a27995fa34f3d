/** Patient page: nodes with votes, stage and rule. */

import type { Entry, Patient, PatientNode } from "../page/api";
import { fill, make, patchChildren } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { NONE, formatFinding, formatLength, formatStage, toneOf, TYPES } from "../page/format";
import { bySeverity } from "./patientTable";
import { thumbnail } from "./thumbnails";

export function showPatient(main: HTMLElement, live: Live, id: string, until: AbortSignal): void {
  const page = make("div", { class: "page patient-page" });
  const draw = () => {
    const patient = live.cohort.patients.find((p) => p.patient_id === id);
    patchChildren(page, patient ? describe(patient, live) : [make("h1", {}, id), unknown()]);
  };
  const parts = new Set(["patients", "slides", "status"]);
  live.watch((part) => parts.has(part) && draw(), until);
  draw();
  fill(main, page);
}

function unknown(): HTMLElement {
  return make("p", { class: "empty" }, "Patient not found in this cohort.");
}

function describe(patient: Patient, live: Live): HTMLElement[] {
  return [
    make("h1", {}, patient.patient_id),
    make(
      "section",
      { class: "card stage-card", "aria-label": "Stage" },
      make("p", { class: "big-stage" }, formatStage(patient)),
      make(
        "div",
        {},
        make("p", {}, patient.rule),
        patient.missing ? make("p", { class: "lacking" }, patient.missing) : null,
        ...patient.notes.map((note) => make("p", { class: "quiet" }, note)),
      ),
    ),
    make("h2", {}, "Nodes, most severe first"),
    make(
      "ul",
      { class: "nodes" },
      ...bySeverity(patient.nodes).map((node) => nodeCard(node, live)),
    ),
  ];
}

function nodeCard(node: PatientNode, live: Live): HTMLElement {
  const entry = live.entry(node.key);
  const tone = entry ? toneOf(entry) : "plain";
  const link = make("a", { href: hrefs.slide(node.key) });
  fill(
    link,
    entry ? thumbnail(entry) : null,
    make("span", { class: "node-name" }, formatNode(node, entry)),
  );
  return make(
    "li",
    { class: `card node ${tone}` },
    link,
    make("p", {}, make("span", { class: `chip ${tone}` }, entry ? formatFinding(entry) : NONE)),
    entry?.status === "done" ? largest(entry) : null,
    node.votes.length > 0 ? votes(node) : null,
    entry?.failure ? make("p", { class: "error-text" }, entry.failure.error) : null,
  );
}

/** A slide of unknown node is titled by its own name. */
function formatNode({ node }: PatientNode, entry: Entry | undefined): string {
  if (node === null || node === entry?.slide_id) return entry?.slide_id ?? "slide";
  return `Node ${node}`;
}

function largest(entry: Entry): HTMLElement {
  const text = entry.largest_um ? `Largest lesion ${formatLength(entry.largest_um)}` : "No lesion";
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
