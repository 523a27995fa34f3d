/** A slide of one or two runs, as the server tells of it. */

import type { Layer, ShownSlide } from "../src/page/api";

export function slideOf(runs: readonly string[], more: Partial<ShownSlide> = {}): ShownSlide {
  const layers = runs.flatMap((run) => [
    layerOf(run, "probability", "tumor probability", "probability", 1),
    layerOf(run, "epistemic", "epistemic uncertainty", "variance", 0.25),
  ]);
  return { ...BARE, layers, outlines: [...runs], done: [...runs], ...more };
}

function layerOf(run: string, name: string, label: string, unit: string, high: number): Layer {
  return {
    id: `${run}/${name}`,
    version: "",
    run,
    name,
    label,
    kind: "value",
    width: 1000,
    height: 750,
    tile_size: 256,
    levels: 3,
    l0_per_px_x: 4,
    l0_per_px_y: 4,
    low: 0,
    high,
    unit,
  };
}

const BARE: ShownSlide = {
  key: "k",
  slide_id: "s",
  patient_id: null,
  node: null,
  status: "done",
  progress: null,
  attention: 0,
  reasons: [],
  verdict: null,
  verdict_label: null,
  metastasis: null,
  votes: null,
  burden: null,
  largest_um: null,
  unsure: null,
  tumor_mm2: null,
  tissue_mm2: null,
  score: null,
  label: null,
  thumbnail: false,
  failure: null,
  image_error: null,
  threshold: 0.46,
  thresholds: { a: 0.46 },
  layers: [],
  lesions: [],
  facts: [],
  notes: [],
  outlines: [],
  done: [],
  truth_outlines: true,
  image: {
    version: "",
    width: 4000,
    height: 3000,
    tile_size: 512,
    overlap: 0,
    max_level: 12,
    mpp_x: 1,
    mpp_y: 1,
    objective: null,
    seen_version: "",
  },
};
