/** Types and requests of the server's API. */

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
  /** Number of failed slides whose names are no longer known. */
  unnamed?: number;
}

/** Cohort-level data. */
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
  /** State id from which to continue the event stream. */
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
  /** Largest diameter, used by the size rule. */
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
  /** Of the pixels as the network saw them; empty if as scanned. */
  seen_version: string;
}

/** Data of the slide page; lesions are listed, not counted. */
export interface Slide extends Omit<Entry, "lesions"> {
  /** Null if its size is unknown because the file cannot be read. */
  image: SlideImage | null;
  image_error: { error: string; hint: string } | null;
  /** Probability threshold of the lesion outlines, by run. */
  thresholds: Record<string, number>;
  threshold: number | null;
  layers: Layer[];
  lesions: Lesion[];
  facts: [string, string][];
  notes: string[];
  /** Runs with lesion outlines. */
  outlines: string[];
  /** Runs with finished results. */
  done: string[];
  truth_outlines: boolean;
}

/** A slide of known size, which can be shown. */
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
  /** Last lines of the run's output. */
  output: string[];
  /** Command that opens its results, once they exist. */
  open?: string | null;
}

export interface Jobs {
  jobs: Job[];
  /** Presets to choose from. */
  presets: string[];
  /** Unused name, suggested for the next run. */
  out: string;
}

/** Error response of the server, with a hint how to fix it. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly hint: string,
  ) {
    super(message);
  }
}

export function needsToken(reason: unknown): boolean {
  return reason instanceof ServerError && [401, 403].includes(reason.status);
}

/** Fetch JSON. Paths are relative, so that the viewer can be mounted anywhere. */
export async function fetchJson<T>(path: string, signal?: AbortSignal): Promise<T> {
  return read<T>(await fetch(`api/${path}`, { signal: signal ?? null }));
}

export async function send<T>(path: string, body: unknown): Promise<T> {
  const response = await fetch(`api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Digipath": "1" },
    body: JSON.stringify(body),
  });
  return read<T>(response);
}

async function read<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  const body = (await response.json().catch(() => ({}))) as { error?: string; hint?: string };
  const error = body.error ?? `The server responded with status ${response.status}.`;
  throw new ServerError(response.status, error, body.hint ?? "");
}

/** A URL with a version is immutable and cached forever. */
export const url = {
  tile: (key: string, version: string, level: number, col: number, row: number) =>
    `api/slides/${key}/tiles/${level}/${col}_${row}.jpg?v=${version}`,
  seenTile: (key: string, image: SlideImage, level: number, col: number, row: number) =>
    `api/slides/${key}/tiles/${level}/${col}_${row}.jpg?v=${image.version}` +
    `&seen=${image.seen_version}`,
  thumbnail: (key: string) => `api/slides/${key}/thumbnail.jpg`,
  map: (key: string, { id, version }: Layer, level: number, col: number, row: number) =>
    `api/slides/${key}/maps/${id}/${level}/${col}_${row}.png?v=${version}`,
  outlines: (key: string, run: string) => `slides/${key}/outlines/${run}.geojson`,
  truth: (key: string) => `slides/${key}/truth.geojson`,
  exported: (key: string, what: "geojson" | "heatmap" | "csv", run: string) =>
    `api/slides/${key}/export/${what}?run=${run}`,
  exportedCohort: "api/export/csv",
};
