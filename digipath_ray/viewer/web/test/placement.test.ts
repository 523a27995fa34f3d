import assert from "node:assert/strict";
import { test } from "node:test";

import { Placement, type Point } from "../src/slide/placement";

/** Twice as large, turned to the right, the slide's origin at (500, 10). */
const TURNED = new Placement(0, 2, -2, 0, 500, 10);

test("a turned slide goes down where its x grows", () => {
  assert.deepEqual(TURNED.toPane([100, 0]), [500, 210]);
  assert.deepEqual(TURNED.toPane([0, 100]), [300, 10]);
  assert.equal(TURNED.scale, 2);
});

test("a pane's points are found again on the slide", () => {
  const point: Point = [123, 456];
  const mirrored = TURNED.mirrored(800);
  assert.deepEqual(TURNED.toSlide(TURNED.toPane(point)), point);
  assert.deepEqual(mirrored.toSlide(mirrored.toPane(point)), point);
});

test("mirrored, left and right of the pane are changed over", () => {
  const [x, y] = TURNED.toPane([100, 50]);
  assert.deepEqual(TURNED.mirrored(800).toPane([100, 50]), [800 - x, y]);
});

test("what is visible is the box around the pane's corners", () => {
  assert.deepEqual(TURNED.visible(400, 210), [-5, 50, 100, 250]);
});
