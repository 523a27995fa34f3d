import assert from "node:assert/strict";
import { test } from "node:test";

import { legendEntries } from "../src/slide/legend";
import type { Side } from "../src/slide/looks";
import type { Outline } from "../src/slide/outlines";
import { makeScene, type Scene } from "../src/slide/scene";
import { slideOf } from "./slides";

const BOTH: Side[] = ["left", "right"];
const LESION = { whole: false } as Outline;
const HULL = { whole: true } as Outline;

function sceneOf(runs: string[]): Scene {
  const scene = makeScene(slideOf(runs), { a: "nights/one", b: "nights/two" });
  for (const run of runs) scene.outlines.set(run, [LESION, HULL]);
  scene.truth = [LESION];
  return scene;
}

function said(scene: Scene, sides: Side[]): string[] {
  return legendEntries(scene, sides).map(({ text }) => text);
}

test("one view: the layer, at which probability lesions were outlined, hull, truth", () => {
  const scene = sceneOf(["a"]);
  scene.looks.lines.truthOutlines.shown = true;
  assert.deepEqual(said(scene, ["left"]), [
    "tumor probability",
    "lesions, outlined at 0.46",
    "whole tumor region",
    "ground truth outlines",
  ]);
});

test("a comparison says which side is which, and once what both have", () => {
  const scene = sceneOf(["a"]);
  scene.looks.mode = "swipe";
  assert.deepEqual(said(scene, BOTH), [
    "Left: tumor probability",
    "Right: epistemic uncertainty, variance",
    "lesions, outlined at 0.46",
    "whole tumor region",
  ]);
  scene.looks.right = "";
  assert.equal(said(scene, BOTH)[1], "Right: slide only");
});

test("of two runs each is named, and its lesions", () => {
  const scene = sceneOf(["a", "b"]);
  scene.looks.mode = "side";
  assert.deepEqual(said(scene, BOTH), [
    "Left: tumor probability",
    "Right: tumor probability",
    "lesions of a, outlined at 0.46",
    "whole tumor region of a",
    "lesions of b",
    "whole tumor region of b",
    "a: nights/one",
    "b: nights/two",
  ]);
});

test("what is not drawn is not named", () => {
  const scene = sceneOf(["a"]);
  scene.outlines.set("a", []);
  assert.deepEqual(said(scene, ["left"]), ["tumor probability"]);
  scene.looks.toggleBare();
  assert.deepEqual(said(scene, ["left"]), ["Layers off"]);
});
