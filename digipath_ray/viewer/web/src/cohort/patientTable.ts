/** Table of patients: stage, nodes and rule. */

import type { Patient, PatientNode } from "../page/api";
import { make } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { SEVERITY, natural, NONE, formatFinding, formatStage, toneOf } from "../page/format";
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
    const caption = "Patients. Buttons in the header sort.";
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

  /** @param keys keys of changed slides */
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
    title: "Lymph nodes, most severe first; sorts by number",
    kind: "number",
    cell: (patient) =>
      make(
        "div",
        { class: "chips" },
        ...bySeverity(patient.nodes).map((node) => nodeChip(node, live)),
      ),
  };
  if (live.cohort.ending !== "stage") return [name, nodes];
  const stage: Column<Patient, PatientSortKey> = {
    sort: "stage",
    name: "pn",
    label: "pN stage",
    title: "Pathologic stage of the lymph nodes",
    kind: "number",
    cell: formatStage,
  };
  const rule: Column<Patient, PatientSortKey> = {
    sort: null,
    name: "rule",
    label: "Rule",
    title: "Rule of the stage",
    kind: "text",
    cell: (patient) => make("div", {}, patient.rule, missing(patient)),
  };
  return [name, stage, nodes, rule];
}

function missing({ missing }: Patient): HTMLElement | null {
  return missing ? make("div", { class: "lacking" }, missing) : null;
}

/** Sort nodes, most severe first. */
export function bySeverity(nodes: PatientNode[]): PatientNode[] {
  const severity = (node: PatientNode) => SEVERITY.indexOf(node.metastasis ?? "");
  return [...nodes].sort(
    (a, b) => severity(b) - severity(a) || natural(a.node ?? "", b.node ?? ""),
  );
}

/** Chip of a node: its type, else the result or status of its slide. */
function nodeChip(node: PatientNode, live: Live): HTMLElement {
  const entry = live.entry(node.key);
  const title = entry ? formatFinding(entry) : "not analyzed";
  const text = `${node.node ?? NONE}: ${node.metastasis ?? title}`;
  const tone = entry ? toneOf(entry) : "plain";
  return make("a", { class: `chip ${tone}`, href: hrefs.slide(node.key), title }, text);
}
