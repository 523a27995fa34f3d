/** Filter and order of slides and patients, shared by tables and the slide page. */

import type { Entry, Patient } from "../page/api";
import { SEVERITY, natural, stageSeverity, TYPES } from "../page/format";

export type SortKey =
  | "attention"
  | "slide"
  | "status"
  | "finding"
  | "largest"
  | "tumor"
  | "lesions"
  | "unsure"
  | "stage";
export type PatientSortKey = "patient" | "stage" | "nodes";

export interface Listing<Key = SortKey> {
  search: string;
  filter: string;
  sort: Key;
  descending: boolean;
}

/** State of the tables, so that returning from a slide shows the same rows. */
export const listing: Listing = { search: "", filter: "all", sort: "slide", descending: false };
export const patientListing: Listing<PatientSortKey> = {
  search: "",
  filter: "all",
  sort: "patient",
  descending: false,
};

/** Slides selected for a run. */
export const chosen = new Set<string>();

/** Filters by name; "all" is the first of each. */
export type Filters<T> = Record<string, { label: string; holds: (item: T) => boolean }>;

export const FILTERS: Filters<Entry> = {
  all: { label: "All", holds: () => true },
  attention: { label: "Need review", holds: (e) => (e.attention ?? 0) > 0 },
  running: { label: "Not done", holds: (e) => e.status === "running" || e.status === "waiting" },
  failed: { label: "Failed", holds: (e) => e.status === "failed" },
  tumor: { label: "With tumor", holds: (e) => e.status === "done" && hasTumor(e) },
  negative: { label: "Without", holds: (e) => e.status === "done" && !hasTumor(e) },
};

export const PATIENT_FILTERS: Filters<Patient> = {
  all: { label: "All", holds: () => true },
  incomplete: { label: "Incomplete", holds: (p) => p.pn_stage !== null && !p.complete },
  positive: { label: "Node-positive", holds: isNodePositive },
  negative: { label: "Node-negative", holds: (p) => p.pn_stage !== null && !isNodePositive(p) },
  unstaged: { label: "Not staged", holds: (p) => p.pn_stage === null },
};

function hasTumor(entry: Entry): boolean {
  if (entry.metastasis !== null) return entry.metastasis !== "negative";
  return (entry.lesions ?? 0) > 0;
}

/** Isolated tumor cells alone are pN0(i+), not a positive node. */
function isNodePositive(patient: Patient): boolean {
  return patient.pn_stage !== null && !patient.pn_stage.startsWith("pN0");
}

/** Order of status, so that failed slides are first or last. */
const STATUS_ORDER = ["waiting", "done", "running", "failed"];

type Value = number | null;

/** Listed slides in order; unknown values are last in both directions. */
export function arrange(slides: Entry[], patients: Patient[], how: Listing): Entry[] {
  const names = ranksOf(slides);
  const rank = (entry: Entry) => names.get(entry.key) ?? 0;
  const stages = new Map(patients.map((p) => [p.patient_id, stageSeverity(p.pn_stage)]));
  const value = (entry: Entry) =>
    how.sort === "stage"
      ? (stages.get(entry.patient_id ?? "") ?? null)
      : valueOf(entry, how.sort, rank);
  // Most uncertain first, then by name.
  const even = (a: Entry, b: Entry) => (b.unsure ?? 0) - (a.unsure ?? 0) || rank(a) - rank(b);
  return inOrder(pick(slides, FILTERS, how, slideWords), value, even, how.descending);
}

export function arrangePatients(patients: Patient[], how: Listing<PatientSortKey>): Patient[] {
  const value = (patient: Patient): Value => {
    if (how.sort === "stage") return stageSeverity(patient.pn_stage);
    return how.sort === "nodes" ? patient.nodes.length : 0;
  };
  const turn = how.sort === "patient" && how.descending ? -1 : 1;
  const byName = (a: Patient, b: Patient) => turn * natural(a.patient_id, b.patient_id);
  const shown = pick(patients, PATIENT_FILTERS, how, patientWords);
  return inOrder(shown, value, byName, how.descending);
}

function valueOf(entry: Entry, sort: SortKey, rank: (entry: Entry) => number): Value {
  switch (sort) {
    case "attention":
      return entry.attention;
    case "slide":
      return rank(entry);
    case "status":
      return STATUS_ORDER.indexOf(entry.status) + (entry.progress ?? 0) / 2;
    case "finding":
      return entry.burden ?? (entry.metastasis ? SEVERITY.indexOf(entry.metastasis) : null);
    case "largest":
      return entry.largest_um;
    case "tumor":
      return entry.tumor_mm2;
    case "lesions":
      return entry.lesions;
    case "unsure":
      return entry.unsure;
    case "stage":
      return null;
  }
}

function inOrder<T>(
  items: T[],
  value: (item: T) => Value,
  even: (a: T, b: T) => number,
  descending: boolean,
): T[] {
  const turn = descending ? -1 : 1;
  const valued = items.map((item) => ({ item, value: value(item) }));
  valued.sort((a, b) => {
    if (a.value === b.value) return even(a.item, b.item);
    if (a.value === null || b.value === null) return a.value === null ? 1 : -1;
    return turn * (a.value - b.value);
  });
  return valued.map(({ item }) => item);
}

function pick<T extends object>(
  items: T[],
  filters: Filters<T>,
  how: Listing<unknown>,
  textOf: (item: T) => string,
): T[] {
  const words = how.search.toLowerCase().split(/\s+/).filter(Boolean);
  const holds = filters[how.filter]?.holds;
  return items.filter((item) => {
    if (holds && !holds(item)) return false;
    return words.length === 0 || words.every((word) => searchText(item, textOf).includes(word));
  });
}

/** Search text of an item, cached per object, as changed items are new objects. */
const SEARCH_TEXTS = new WeakMap<object, string>();

function searchText<T extends object>(item: T, textOf: (item: T) => string): string {
  let text = SEARCH_TEXTS.get(item);
  if (text === undefined) SEARCH_TEXTS.set(item, (text = textOf(item).toLowerCase()));
  return text;
}

function slideWords(entry: Entry): string {
  const { slide_id, patient_id, node, verdict, verdict_label, label, status, reasons } = entry;
  return [slide_id, patient_id, node, verdict, verdict_label, label, status, ...reasons].join(" ");
}

function patientWords({ patient_id, pn_stage, rule, missing, nodes }: Patient): string {
  const types = nodes.map(({ node, metastasis }) => `${node} ${TYPES[metastasis ?? ""] ?? ""}`);
  return [patient_id, pn_stage, rule, missing, ...types].join(" ");
}

/** Key -> rank by name. Comparing names is slow, and they never change. */
let ranks = new Map<string, number>();

function ranksOf(slides: Entry[]): ReadonlyMap<string, number> {
  if (ranks.size !== slides.length || slides.some(({ key }) => !ranks.has(key))) {
    const byName = [...slides].sort((a, b) => natural(a.slide_id, b.slide_id));
    ranks = new Map(byName.map(({ key }, i) => [key, i]));
  }
  return ranks;
}
