import assert from "node:assert/strict";
import { test } from "node:test";

import { makeScene, readLines, takeSlide, type Scene } from "../src/slide/scene";
import { slideOf } from "./slides";

const UNTIL = new AbortController().signal;
const WATCH = { until: UNTIL, onChange: () => undefined, onOutdated: () => undefined };

/** Answers that are given when the test says so, by the address asked for. */
const asked = new Map<string, (response: Response) => void>();
Object.assign(globalThis, {
  fetch: (path: string) => new Promise<Response>((give) => asked.set(path, give)),
});

/** Begin to read the lines of a slide that these runs outlined. */
function read(scene: Scene, outlines: string[]): Promise<void> {
  takeSlide(scene, slideOf([], { outlines, truth_outlines: false }), WATCH);
  return readLines(scene, UNTIL, () => undefined);
}

async function response(run: string): Promise<void> {
  const path = `api/slides/k/outlines/${run}.geojson`;
  while (!asked.has(path)) await new Promise((resolve) => setTimeout(resolve, 1));
  asked.get(path)!(Response.json({ features: [] }));
  asked.delete(path);
}

test("outlines that a slide has no longer are not drawn", async () => {
  const scene = makeScene(slideOf([]), {});
  const reading = read(scene, ["a", "b"]);
  await response("a");
  await response("b");
  await reading;
  assert.deepEqual([...scene.outlines.keys()], ["a", "b"]);
  await read(scene, []);
  assert.equal(scene.outlines.size, 0);
});

test("of two readings the last one counts, whichever ends last", async () => {
  const scene = makeScene(slideOf([]), {});
  const early = read(scene, ["a"]);
  await read(scene, []);
  await response("a");
  await early;
  assert.equal(scene.outlines.size, 0);
});
