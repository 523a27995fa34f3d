/** Formatting of numbers and states. */

import type { Entry, Patient, Slide, SlideStatus } from "./api";

export const NONE = "\u2013";

export const TYPES: Record<string, string> = {
  negative: "negative",
  itc: "isolated tumor cells",
  micro: "micrometastasis",
  macro: "macrometastasis",
};
/** By increasing severity. */
export const SEVERITY = ["negative", "itc", "micro", "macro"];

/** By increasing severity. */
const STAGES = ["pN0", "pN0(i+)", "pN1mi", "pN1", "pN2", "pN3a"];

export function stageSeverity(stage: string | null): number | null {
  const at = STAGES.indexOf(stage ?? "");
  return at < 0 ? null : at;
}

export const STATUS_WORDS: Record<SlideStatus, string> = {
  waiting: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
};

/** Result of a slide, or its status. */
export function formatFinding(entry: Entry): string {
  if (entry.status !== "done") return STATUS_WORDS[entry.status];
  return TYPES[entry.metastasis ?? ""] ?? (entry.verdict_label || entry.verdict || NONE);
}

/** Color class of a slide's result. */
export function toneOf(entry: Entry | Slide): string {
  if (entry.status === "failed") return "failed";
  if (entry.status !== "done") return "plain";
  if (entry.metastasis && entry.metastasis in TYPES) return entry.metastasis;
  const lesions = Array.isArray(entry.lesions) ? entry.lesions.length : entry.lesions;
  return lesions ? "tumor" : "negative";
}

/** Stage of a patient; "at least" if a node has no type. */
export function formatStage(patient: Patient): string {
  if (patient.pn_stage === null) return "no stage";
  return patient.complete ? patient.pn_stage : `at least ${patient.pn_stage}`;
}

export function formatLength(um: number | null): string {
  if (um === null) return NONE;
  if (um >= 1000) return `${digits(um / 1000)} mm`;
  return `${digits(um)} \u00b5m`;
}

export function formatArea(um2: number): string {
  return um2 >= 1e5 ? `${digits(um2 / 1e6)} mm\u00b2` : `${digits(um2)} \u00b5m\u00b2`;
}

export function formatMm(um: number | null): string {
  return um === null || um === 0 ? NONE : (um / 1000).toFixed(2);
}

/** Three significant digits, or a whole number from 100. */
export function digits(value: number): string {
  if (value === 0) return "0";
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en-US");
  if (Math.abs(value) < 1e-4) return value > 0 ? "<0.0001" : ">-0.0001";
  return String(Number(value.toPrecision(3)));
}

/** Format a duration: `40 s`, `12 min`, `5 h 7 min`. */
export function formatDuration(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function count(number: number, noun: string): string {
  return `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Natural sort order: node_2 before node_10. */
export const natural = new Intl.Collator("en", { numeric: true }).compare;
