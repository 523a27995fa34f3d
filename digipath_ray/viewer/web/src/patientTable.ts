/** The table of patients: stage, nodes, what is missing. */

import type { Cohort, Patient, PatientNode } from "./api";
import { make } from "./dom";
import { hrefs } from "./route";
import { GRAVITY, natural, NONE, sayStage, TYPES } from "./words";

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
