import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";

import { Looks } from "../src/slide/looks";
import { slideOf } from "./slides";

const kept = new Map<string, string>();
beforeEach(() => kept.clear());
Object.assign(globalThis, {
  localStorage: {
    getItem: (name: string) => kept.get(name) ?? null,
    setItem: (name: string, value: string) => kept.set(name, value),
  },
});

test("what was chosen holds on the next slide", () => {
  const looks = new Looks(slideOf(["a"]));
  looks.set("a/probability", { threshold: 0.7, opacity: 0.3, colormap: "cividis" });
  looks.showAlone("a/epistemic");
  looks.setLines("outlines", { shown: false });
  looks.compare({ mode: "swipe", left: "a/epistemic", right: "" });
  const next = new Looks(slideOf(["a"]));
  const expected = { shown: false, opacity: 0.3, threshold: 0.7, colormap: "cividis" };
  assert.deepEqual(next.of("a/probability"), expected);
  assert.equal(next.of("a/epistemic").shown, true);
  assert.equal(next.lines.outlines.shown, false);
  assert.deepEqual([next.mode, next.left, next.right], ["swipe", "a/epistemic", ""]);
});

test("the run's own threshold stays the run's, whichever run it is", () => {
  const looks = new Looks(slideOf(["a"]));
  looks.set("a/probability", { opacity: 0.3 });
  const next = new Looks(slideOf(["a"], { thresholds: { a: 0.6 } }));
  assert.equal(next.of("a/probability").threshold, 0.6);
});

test("each run's probability opens at its own threshold", () => {
  const looks = new Looks(slideOf(["a", "b"], { thresholds: { a: 0.46, b: 0.3 } }));
  assert.equal(looks.of("a/probability").threshold, 0.46);
  assert.equal(looks.of("b/probability").threshold, 0.3);
});

test("a class is a probability, and opens hidden and from one half on", () => {
  const slide = slideOf(["a"]);
  const [probability] = slide.layers;
  slide.layers.push({ ...probability, id: "a/class:fat", name: "class:fat", label: "fat" });
  const expected = { shown: false, opacity: 0.55, threshold: 0.5, colormap: "viridis" };
  assert.deepEqual(new Looks(slide).of("a/class:fat"), expected);
});

test("lesions are outlined by each run that did, in a comparison by the side's", () => {
  const looks = new Looks(slideOf(["a", "b"]));
  assert.deepEqual(looks.runsOn("left"), ["a", "b"]);
  looks.mode = "swipe";
  assert.deepEqual([looks.runsOn("left"), looks.runsOn("right")], [["a"], ["b"]]);
  looks.take(slideOf(["a", "b"], { outlines: ["b"] }));
  looks.mode = "swipe";
  assert.deepEqual([looks.runsOn("left"), looks.runsOn("right")], [[], ["b"]]);
});

test("a layer that lands has its first look, and nothing else changes", () => {
  const looks = new Looks(slideOf([], { threshold: null }));
  assert.equal(looks.mode, "one");
  looks.take(slideOf(["a"]));
  assert.equal(looks.of("a/probability").shown, true);
  assert.equal(looks.of("a/probability").threshold, 0.46);
  looks.of("a/probability").opacity = 0.2;
  looks.take(slideOf(["a", "b"]));
  assert.equal(looks.of("a/probability").opacity, 0.2);
  assert.deepEqual([looks.left, looks.right], ["a/probability", "b/probability"]);
});

test("a kept choice that is none any more is passed over", () => {
  kept.set("digipath:look:a/epistemic", JSON.stringify({ threshold: 9, colormap: "jet" }));
  kept.set("digipath:comparison", JSON.stringify({ mode: "both", left: "z/gone" }));
  const looks = new Looks(slideOf(["a"]));
  assert.equal(looks.of("a/epistemic").threshold, 0.25);
  assert.equal(looks.of("a/epistemic").colormap, "viridis");
  assert.deepEqual([looks.mode, looks.left], ["one", "a/probability"]);
});

test("stains are as the network saw them where a slide was normalized", () => {
  const image = { ...slideOf(["a"]).image, seen_version: "b3" };
  const looks = new Looks(slideOf(["a"], { image }));
  assert.deepEqual([looks.canBeSeen, looks.asSeen], [true, false]);
  looks.setSeen(true);
  assert.equal(looks.asSeen, true);
  assert.equal(new Looks(slideOf(["a"], { image })).asSeen, true, "kept for the next slide");
  assert.equal(new Looks(slideOf(["a"])).asSeen, false, "which is as scanned");
});
