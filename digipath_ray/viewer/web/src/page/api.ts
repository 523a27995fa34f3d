/** What the server says, and how it is asked. */

export type SlideStatus = "waiting" | "running" | "done" | "failed";

export interface Failure {
  step: string;
  error: string;
  hint: string;
}

export interface Entry {
  key: string;
  slide_id: string;
  patient_id: string | null;
  node: string | null;
  status: SlideStatus;
  progress: number | null;
  attention: number | null;
  reasons: string[];
  verdict: string | null;
  verdict_label: string | null;
  metastasis: string | null;
  votes: string[] | null;
  burden: number | null;
  largest_um: number | null;
  unsure: number | null;
  tumor_mm2: number | null;
  tissue_mm2: number | null;
  lesions: number | null;
  score: number | null;
  label: string | null;
  thumbnail: boolean;
  failure: Failure | null;
}

export interface PatientNode {
  key: string;
  node: string | null;
  metastasis: string | null;
  votes: { forest: string; type: string }[];
}

export interface Patient {
  patient_id: string;
  pn_stage: string | null;
  complete: boolean;
  rule: string;
  missing: string;
  notes: string[];
  nodes: PatientNode[];
}

export interface Status {
  state: "running" | "done" | "stopped" | "dead";
  phase: string;
  updated: string;
  slides: number;
  skipped: number;
  prepared: number;
  done: number;
  failed: number;
  open_slides: number;
  patches: number;
  patches_done: number;
  patches_per_s: number | null;
  slides_per_h: number | null;
  eta_s: number | null;
  bottleneck: string | null;
  why: string | null;
  /** Failed slides of which nobody knows the names any more. */
  unnamed?: number;
}

/** All that is said of a cohort as a whole. */
export interface About {
  title: string;
  kind: "run" | "folder";
  research_use: string;
  ending: string;
  notes: string[];
  allow_run: boolean;
  runs: string[];
  run_titles: Record<string, string>;
}

export interface Cohort extends About {
  status: Status | null;
  slides: Entry[];
  patients: Patient[];
  /** Its state, so that the events begin where it ends. */
  state?: string;
}

export interface Layer {
  id: string;
  version: string;
  run: string;
  name: string;
  label: string;
  kind: "value" | "mask";
  width: number;
  height: number;
  tile_size: number;
  levels: number;
  l0_per_px_x: number;
  l0_per_px_y: number;
  low: number;
  high: number;
  unit: string;
}

export interface Lesion {
  number: number;
  area_mm2: number;
  /** Major axis of the lesion. */
  longest_um: number;
  /** Largest diameter, by which the size rule goes. */
  feret_um: number;
  counted: boolean;
  mean_p: number;
  max_p: number;
  type: string | null;
  center: [number, number];
  box: [number, number, number, number] | null;
}

export interface SlideImage {
  version: string;
  width: number;
  height: number;
  tile_size: number;
  overlap: number;
  max_level: number;
  mpp_x: number | null;
  mpp_y: number | null;
  objective: number | null;
}

/** An entry with all that its own page shows; lesions are listed, not counted. */
export interface Slide extends Omit<Entry, "lesions"> {
  /** Null if nobody knows its size, as the file cannot be read. */
  image: SlideImage | null;
  image_error: { error: string; hint: string } | null;
  /** By run, the probability at which it outlined lesions. */
  thresholds: Record<string, number>;
  threshold: number | null;
  layers: Layer[];
  lesions: Lesion[];
  facts: [string, string][];
  notes: string[];
  /** Runs that outlined lesions on it. */
  outlines: string[];
  /** Runs whose results of it stand. */
  done: string[];
  truth_outlines: boolean;
}

/** A slide whose size is known, so that it can be shown. */
export type ShownSlide = Slide & { image: SlideImage };

export interface Values {
  x_um: number | null;
  y_um: number | null;
  values: Record<string, number | null>;
}

export interface Job {
  id: string;
  state: "queued" | "running" | "done" | "failed" | "canceled";
  out: string;
  preset: string;
  slides: number;
  /** The last lines that the run printed. */
  output: string[];
  /** The command that opens its results, once they stand. */
  open?: string | null;
}

export interface Jobs {
  jobs: Job[];
  /** What a run can be started with. */
  presets: string[];
  /** A name that no run has, for the next one. */
  out: string;
}

/** An answer that is none: what went wrong and what to do. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

export function needsToken(reason: unknown): boolean {
  return reason instanceof Refusal && [401, 403].includes(reason.status);
}

/** Paths are relative, so that the viewer may lie under any path of a host. */
export async function ask<T>(path: string, signal?: AbortSignal): Promise<T> {
  return read<T>(await fetch(`api/${path}`, { signal: signal ?? null }));
}

export async function send<T>(path: string, body: unknown): Promise<T> {
  const answer = await fetch(`api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Digipath": "1" },
    body: JSON.stringify(body),
  });
  return read<T>(answer);
}

async function read<T>(answer: Response): Promise<T> {
  if (answer.ok) return (await answer.json()) as T;
  const said = (await answer.json().catch(() => ({}))) as { error?: string; hint?: string };
  const error = said.error ?? `The server answered ${answer.status}.`;
  throw new Refusal(answer.status, error, said.hint ?? "");
}

/** A version in an address makes its answer one that never changes: kept for good. */
export const url = {
  tile: (key: string, version: string, level: number, col: number, row: number) =>
    `api/slides/${key}/tiles/${level}/${col}_${row}.jpg?v=${version}`,
  thumbnail: (key: string) => `api/slides/${key}/thumbnail.jpg`,
  map: (key: string, { id, version }: Layer, level: number, col: number, row: number) =>
    `api/slides/${key}/maps/${id}/${level}/${col}_${row}.png?v=${version}`,
  outlines: (key: string, run: string) => `slides/${key}/outlines/${run}.geojson`,
  truth: (key: string) => `slides/${key}/truth.geojson`,
  exported: (key: string, what: "geojson" | "heatmap" | "csv", run: string) =>
    `api/slides/${key}/export/${what}?run=${run}`,
  exportedCohort: "api/export/csv",
};
