/** Shared state of the views of a slide. */

import { ServerError, url, type Lesion, type ShownSlide } from "../page/api";
import { Looks } from "./looks";
import { Measurements } from "./measurements";
import { readOutlines, type Outline } from "./outlines";
import { ValueLayer } from "./valueLayer";
import type { TileWatch } from "./valueTiles";

export interface Scene {
  slide: ShownSlide;
  looks: Looks;
  layers: ReadonlyMap<string, ValueLayer>;
  /** By run. */
  outlines: Map<string, Outline[]>;
  truth: Outline[];
  chosen: Lesion | null;
  measurements: Measurements;
  crosshair: boolean;
  /** Titles of the opened runs, by letter. */
  titles: Record<string, string>;
}

/** Size of a view: CSS px, and device px per CSS px. */
export interface Size {
  width: number;
  height: number;
  ratio: number;
}

export function makeScene(slide: ShownSlide, titles: Record<string, string>): Scene {
  return {
    slide,
    looks: new Looks(slide),
    layers: new Map(),
    outlines: new Map(),
    truth: [],
    chosen: null,
    measurements: new Measurements(slide.image),
    crosshair: false,
    titles,
  };
}

/** Update the slide; unchanged layers keep their tiles. */
export function takeSlide(scene: Scene, slide: ShownSlide, watch: TileWatch): void {
  const layers = slide.layers.map((layer) => {
    const before = scene.layers.get(layer.id);
    const same = before?.layer.version === layer.version && !before.isOutdated;
    return same ? before : new ValueLayer(layer, slide.key, watch);
  });
  scene.slide = slide;
  scene.looks.take(slide);
  scene.layers = new Map(layers.map((layer) => [layer.layer.id, layer]));
  scene.chosen = null;
}

/** Fetch the outlines of each run and the ground truth, unless outdated meanwhile. */
export async function readLines(
  scene: Scene,
  until: AbortSignal,
  onFailed: (why: string) => void,
): Promise<void> {
  const { slide } = scene;
  const isLate = () => until.aborted || scene.slide !== slide;
  const read = (what: string, path: string): Promise<Outline[]> =>
    readOutlines(path, until).catch((reason: unknown) => {
      const isNone = reason instanceof ServerError && reason.status === 404;
      if (!isLate() && !isNone) onFailed(`${what} could not be read: ${String(reason)}`);
      return [];
    });
  const outlines = new Map<string, Outline[]>();
  for (const run of slide.outlines) {
    outlines.set(run, await read("Lesion outlines", url.outlines(slide.key, run)));
  }
  const truth = slide.truth_outlines
    ? await read("Ground truth outlines", url.truth(slide.key))
    : [];
  if (isLate()) return;
  scene.outlines = outlines;
  scene.truth = truth;
}

/** Runs of a slide's layers, the first run first. */
export function runsOf({ layers }: Pick<ShownSlide, "layers">): string[] {
  return [...new Set(layers.map((layer) => layer.run))];
}

/** Letter and title of a run. */
export function formatRun(run: string, titles: Record<string, string>): string {
  const title = titles[run];
  return title ? `${run}: ${title}` : run;
}
