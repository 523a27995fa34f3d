import assert from "node:assert/strict";
import { test } from "node:test";

import type { Layer } from "../src/page/api";
import { colorAt } from "../src/slide/colormaps";
import { colorTable } from "../src/slide/valueLayer";

const LAYER: Layer = {
  id: "a/probability",
  version: "",
  run: "a",
  name: "probability",
  label: "",
  kind: "value",
  width: 1,
  height: 1,
  tile_size: 256,
  levels: 1,
  l0_per_px_x: 1,
  l0_per_px_y: 1,
  low: 0,
  high: 1,
  unit: "probability",
};
const LOOK = { shown: true, opacity: 1, threshold: 0.5, colormap: "viridis" } as const;

/** Red, green, blue, alpha of an 8-bit value. */
function colorOf(layer: Layer, value: number, look = LOOK): number[] {
  return [...new Uint8Array(colorTable(layer, look).buffer, 4 * value, 4)];
}

test("nothing is drawn where nothing was predicted, nor below the threshold", () => {
  assert.equal(colorOf(LAYER, 0)[3], 0);
  assert.equal(colorOf(LAYER, 127)[3], 0); // 0.496
  assert.deepEqual(colorOf(LAYER, 128), [...colorAt("viridis", 0.5), 255]);
  assert.deepEqual(colorOf(LAYER, 255), [...colorAt("viridis", 1), 255]);
});

test("a variance covers as much as its root", () => {
  const variance = { ...LAYER, name: "epistemic", unit: "variance", high: 0.25 };
  const look = { ...LOOK, threshold: 0 } as unknown as typeof LOOK;
  assert.equal(colorOf(variance, 1, look)[3], 0);
  assert.equal(colorOf(variance, 255, look)[3], 255);
  const quarter = colorOf(variance, 1 + Math.round(254 / 4), look)[3];
  assert.ok(Math.abs(quarter - 128) <= 2);
});
