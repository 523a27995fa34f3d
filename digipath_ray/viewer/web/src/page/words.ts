/** Numbers and states as the page says them. */

import type { Entry, Patient, Slide, SlideStatus } from "./api";

export const NONE = "\u2013";

export const TYPES: Record<string, string> = {
  negative: "negative",
  itc: "isolated tumor cells",
  micro: "micrometastasis",
  macro: "macrometastasis",
};
/** The graver the later. */
export const GRAVITY = ["negative", "itc", "micro", "macro"];

/** The graver the later, as well. */
const STAGES = ["pN0", "pN0(i+)", "pN1mi", "pN1", "pN2", "pN3a"];

export function stageGravity(stage: string | null): number | null {
  const at = STAGES.indexOf(stage ?? "");
  return at < 0 ? null : at;
}

export const STATUS_WORDS: Record<SlideStatus, string> = {
  waiting: "waiting",
  running: "running",
  done: "done",
  failed: "failed",
};

/** What a slide ended in, or how far it is. */
export function sayFinding(entry: Entry): string {
  if (entry.status !== "done") return STATUS_WORDS[entry.status];
  return TYPES[entry.metastasis ?? ""] ?? (entry.verdict_label || entry.verdict || NONE);
}

/** The color of what was found in a slide. */
export function toneOf(entry: Entry | Slide): string {
  if (entry.status === "failed") return "failed";
  if (entry.status !== "done") return "plain";
  if (entry.metastasis && entry.metastasis in TYPES) return entry.metastasis;
  const lesions = Array.isArray(entry.lesions) ? entry.lesions.length : entry.lesions;
  return lesions ? "tumor" : "negative";
}

/** The stage; "at least" when a node has no type. */
export function sayStage(patient: Patient): string {
  if (patient.pn_stage === null) return "no stage";
  return patient.complete ? patient.pn_stage : `at least ${patient.pn_stage}`;
}

export function sayLength(um: number | null): string {
  if (um === null) return NONE;
  if (um >= 1000) return `${digits(um / 1000)} mm`;
  return `${digits(um)} \u00b5m`;
}

export function sayArea(um2: number): string {
  return um2 >= 1e5 ? `${digits(um2 / 1e6)} mm\u00b2` : `${digits(um2)} \u00b5m\u00b2`;
}

export function sayMm(um: number | null): string {
  return um === null || um === 0 ? NONE : (um / 1000).toFixed(2);
}

/** Three digits that count, thousands whole. */
export function digits(value: number): string {
  if (value === 0) return "0";
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en-US");
  if (Math.abs(value) < 1e-4) return value > 0 ? "<0.0001" : ">-0.0001";
  return String(Number(value.toPrecision(3)));
}

/** A duration: `40 s`, `12 min`, `5 h 7 min`. */
export function sayDuration(seconds: number): string {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function count(number: number, noun: string): string {
  return `${number.toLocaleString("en-US")} ${noun}${number === 1 ? "" : "s"}`;
}

/** Names in the order people expect: node_2 before node_10. */
export const natural = new Intl.Collator("en", { numeric: true }).compare;
