/** The table of patients: the stage of each, its nodes and the rule. */

import type { Patient, PatientNode } from "../page/api";
import { make } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { GRAVITY, natural, NONE, sayFinding, sayStage, toneOf } from "../page/words";
import { DataTable, type Column } from "./dataTable";
import { arrangePatients, patientListing, type PatientSortKey } from "./listing";

export class PatientTable {
  readonly element: HTMLElement;
  shown: Patient[] = [];
  private readonly table: DataTable<Patient, PatientSortKey>;

  constructor(
    private readonly live: Live,
    onSort: (sort: PatientSortKey, descending: boolean) => void,
    until: AbortSignal,
  ) {
    const caption = "Patients. Buttons in the heads sort.";
    const keyOf = (patient: Patient) => patient.patient_id;
    this.table = new DataTable(
      columnsOf(live),
      { name: "patients", caption, order: patientListing, keyOf, onSort },
      until,
    );
    this.element = this.table.element;
  }

  show(): void {
    this.table.show(this.arrange());
  }

  /** @param keys of the slides that changed */
  update(keys: ReadonlySet<string>): void {
    this.table.update(this.arrange(), ({ nodes }) => nodes.some(({ key }) => keys.has(key)));
  }

  private arrange(): Patient[] {
    return (this.shown = arrangePatients(this.live.cohort.patients, patientListing));
  }
}

function columnsOf(live: Live): Column<Patient, PatientSortKey>[] {
  const name: Column<Patient, PatientSortKey> = {
    sort: "patient",
    name: "patient",
    label: "Patient",
    title: "Name of the patient",
    kind: "text",
    cell: ({ patient_id: id }) => make("a", { href: hrefs.patient(id), class: "name" }, id),
  };
  const nodes: Column<Patient, PatientSortKey> = {
    sort: "nodes",
    name: "nodes",
    label: "Nodes",
    title: "Lymph nodes, the gravest first; sorts by their number",
    kind: "number",
    cell: (patient) =>
      make("div", { class: "chips" }, ...graver(patient.nodes).map((node) => nodeChip(node, live))),
  };
  if (live.cohort.ending !== "stage") return [name, nodes];
  const stage: Column<Patient, PatientSortKey> = {
    sort: "stage",
    name: "pn",
    label: "pN stage",
    title: "Pathologic stage of the lymph nodes",
    kind: "number",
    cell: sayStage,
  };
  const rule: Column<Patient, PatientSortKey> = {
    sort: null,
    name: "rule",
    label: "Rule",
    title: "The rule that gave the stage",
    kind: "text",
    cell: (patient) => make("div", {}, patient.rule, missing(patient)),
  };
  return [name, stage, nodes, rule];
}

function missing({ missing }: Patient): HTMLElement | null {
  return missing ? make("div", { class: "lacking" }, missing) : null;
}

/** The gravest node first. */
export function graver(nodes: PatientNode[]): PatientNode[] {
  const gravity = (node: PatientNode) => GRAVITY.indexOf(node.metastasis ?? "");
  return [...nodes].sort((a, b) => gravity(b) - gravity(a) || natural(a.node ?? "", b.node ?? ""));
}

/** The type in a word where there is one, else what its slide ended in or how far it is. */
function nodeChip(node: PatientNode, live: Live): HTMLElement {
  const entry = live.entry(node.key);
  const title = entry ? sayFinding(entry) : "not analyzed";
  const text = `${node.node ?? NONE}: ${node.metastasis ?? title}`;
  const tone = entry ? toneOf(entry) : "plain";
  return make("a", { class: `chip ${tone}`, href: hrefs.slide(node.key), title }, text);
}
