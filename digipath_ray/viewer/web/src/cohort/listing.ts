/** Which slides are listed and in which order; the slide page steps through the same. */

import type { Entry, Patient } from "../page/api";
import { GRAVITY, natural } from "../page/words";

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
export type Filter = "all" | "attention" | "running" | "failed" | "tumor" | "negative";

export interface Listing {
  search: string;
  filter: Filter;
  sort: SortKey;
  descending: boolean;
}

/** As the table was left, so that the way back from a slide leads to the same rows. */
export const listing: Listing = { search: "", filter: "all", sort: "slide", descending: false };

export const FILTERS: Record<Filter, { label: string; holds: (entry: Entry) => boolean }> = {
  all: { label: "All", holds: () => true },
  attention: { label: "Need a look", holds: (e) => (e.attention ?? 0) > 0 },
  running: { label: "Not done", holds: (e) => e.status === "running" || e.status === "waiting" },
  failed: { label: "Failed", holds: (e) => e.status === "failed" },
  tumor: { label: "With tumor", holds: (e) => e.status === "done" && hasTumor(e) },
  negative: { label: "Without", holds: (e) => e.status === "done" && !hasTumor(e) },
};

function hasTumor(entry: Entry): boolean {
  if (entry.metastasis !== null) return entry.metastasis !== "negative";
  return (entry.lesions ?? 0) > 0;
}

const STATUS_ORDER = ["waiting", "done", "running", "failed"];

type Value = string | number | null;

function valueOf(entry: Entry, sort: SortKey, stages: Map<string, string>): Value {
  switch (sort) {
    case "attention":
      return entry.attention;
    case "slide":
      return entry.slide_id;
    case "status":
      return STATUS_ORDER.indexOf(entry.status) + (entry.progress ?? 0);
    case "finding":
      return entry.burden ?? (entry.metastasis ? GRAVITY.indexOf(entry.metastasis) : null);
    case "largest":
      return entry.largest_um;
    case "tumor":
      return entry.tumor_mm2;
    case "lesions":
      return entry.lesions;
    case "unsure":
      return entry.unsure;
    case "stage":
      return stages.get(entry.patient_id ?? "") ?? null;
  }
}

/** The listed slides in their order; what is not known stands last either way. */
export function arrange(slides: Entry[], patients: Patient[], how: Listing): Entry[] {
  const stages = new Map(patients.map((p) => [p.patient_id, p.pn_stage ?? ""]));
  const words = how.search.toLowerCase().split(/\s+/).filter(Boolean);
  const shown = slides.filter((entry) => FILTERS[how.filter].holds(entry) && matches(entry, words));
  const turn = how.descending ? -1 : 1;
  const valued = shown.map((entry) => ({ entry, value: valueOf(entry, how.sort, stages) }));
  valued.sort((a, b) => {
    if (a.value === null || b.value === null) {
      if (a.value !== b.value) return a.value === null ? 1 : -1;
    } else {
      const order = turn * compare(a.value, b.value);
      if (order !== 0) return order;
    }
    return tieBreak(a.entry, b.entry);
  });
  return valued.map(({ entry }) => entry);
}

function compare(a: string | number, b: string | number): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return natural(String(a), String(b));
}

/** The less certain first, then by name. */
function tieBreak(a: Entry, b: Entry): number {
  return (b.unsure ?? 0) - (a.unsure ?? 0) || natural(a.slide_id, b.slide_id);
}

function matches(entry: Entry, words: string[]): boolean {
  if (words.length === 0) return true;
  const said = [
    entry.slide_id,
    entry.patient_id,
    entry.node,
    entry.verdict,
    entry.verdict_label,
    entry.label,
    entry.status,
    ...entry.reasons,
  ]
    .join(" ")
    .toLowerCase();
  return words.every((word) => said.includes(word));
}
