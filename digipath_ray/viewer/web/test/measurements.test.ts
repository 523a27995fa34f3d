import assert from "node:assert/strict";
import { test } from "node:test";

import { Measurements } from "../src/slide/measurements";
import type { Point } from "../src/slide/placement";

const IMAGE = {
  version: "",
  width: 4000,
  height: 3000,
  tile_size: 512,
  overlap: 0,
  max_level: 12,
  mpp_x: 1,
  mpp_y: 1,
  objective: null,
};
const SQUARE: Point[] = [
  [0, 0],
  [1000, 0],
  [1000, 1000],
  [0, 1000],
];
const MM2 = "1 mm\u00b2";

function drawn(): Measurements {
  const measurements = new Measurements(IMAGE);
  measurements.choose("area");
  for (const corner of SQUARE) measurements.add(corner, 20);
  return measurements;
}

test("an area is closed near its first corner", () => {
  const measurements = drawn();
  assert.equal(measurements.last, "");
  measurements.add([12, 12], 20);
  assert.equal(measurements.last, MM2);
});

test("the tool's button again keeps what was drawn", () => {
  const measurements = drawn();
  measurements.choose("area");
  assert.equal(measurements.last, MM2);
  assert.equal(measurements.tool, "none");
});

test("the other tool keeps what was drawn", () => {
  const measurements = drawn();
  measurements.choose("distance");
  assert.equal(measurements.last, MM2);
  assert.equal(measurements.tool, "distance");
});

test("a double click sets one corner", () => {
  const measurements = drawn();
  measurements.add([2, 1001], 20);
  measurements.finish();
  assert.equal(measurements.last, MM2);
});

test("two corners are no area, and stay open", () => {
  const measurements = new Measurements(IMAGE);
  measurements.choose("area");
  measurements.add([0, 0], 20);
  measurements.add([1000, 0], 20);
  measurements.finish();
  assert.equal(measurements.last, "");
  measurements.add([1000, 1000], 20);
  measurements.finish();
  assert.equal(measurements.last, "0.5 mm\u00b2");
});

test("a distance is ended by its second point", () => {
  const measurements = new Measurements(IMAGE);
  measurements.choose("distance");
  measurements.add([0, 0], 20);
  measurements.add([3, 0], 20); // the same click once more
  measurements.add([300, 400], 20);
  assert.equal(measurements.last, "500 \u00b5m");
});
