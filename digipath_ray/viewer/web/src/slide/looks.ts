/**
 * Display settings of a slide: layers, colors, outlines, comparison.
 *
 * Settings persist across slides and visits.
 */

import type { Layer, Slide } from "../page/api";
import { COLORMAPS, type ColormapName } from "./colormaps";
import { recall, remember } from "../page/memory";

export interface Look {
  shown: boolean;
  opacity: number;
  /** In the layer's unit; values below are hidden. */
  threshold: number;
  colormap: ColormapName;
}

/** One view; one view split by a movable line; two synchronized views. */
export type Mode = "one" | "swipe" | "side";
export type Side = "left" | "right";
export type LinesName = "outlines" | "truthOutlines";

interface LinesLook {
  shown: boolean;
  opacity: number;
}

interface Comparison {
  mode: Mode;
  /** Compared layers; empty id: slide only. */
  left: string;
  right: string;
}

const FIRST_LINES: Record<LinesName, LinesLook> = {
  outlines: { shown: true, opacity: 1 },
  truthOutlines: { shown: false, opacity: 1 },
};

export class Looks implements Comparison {
  mode: Mode = "one";
  left = "";
  right = "";
  /** Position of the swipe line, as a fraction of the pane's width. */
  split = 0.5;
  /** All layers are hidden until something is changed. */
  isBare = false;
  readonly lines: Record<LinesName, LinesLook>;
  /** Stains as the network saw them, wherever a slide was normalized. */
  private wantsSeen = recall("asSeen", false);
  onChange: () => void = () => undefined;
  private readonly looks = new Map<string, Look>();
  /** Restore the last settings, of this or an earlier slide. */
  private compared = recall<Partial<Comparison>>("comparison", {});

  constructor(public slide: Slide) {
    this.lines = {
      outlines: { ...FIRST_LINES.outlines, ...recall("lines:outlines", {}) },
      truthOutlines: { ...FIRST_LINES.truthOutlines, ...recall("lines:truthOutlines", {}) },
    };
    this.take(slide);
  }

  /** Update the slide. */
  take(slide: Slide): void {
    this.slide = slide;
    for (const layer of slide.layers) {
      if (!this.looks.has(layer.id)) this.looks.set(layer.id, firstLook(layer, slide));
    }
    const { values } = this;
    if (values.length === 0) {
      this.mode = "one";
      return;
    }
    const other = values.find((v) => v.run !== values[0].run && v.name === values[0].name);
    const first = { left: values[0].id, right: (other ?? values[1])?.id ?? "" };
    const kept = this.compared;
    const known = (id: string | undefined) => id === "" || values.some((v) => v.id === id);
    this.mode = (["swipe", "side"] as const).find((mode) => mode === kept.mode) ?? "one";
    this.left = known(kept.left) ? kept.left! : first.left;
    this.right = known(kept.right) ? kept.right! : first.right;
  }

  get values(): Layer[] {
    return this.slide.layers.filter((layer) => layer.kind === "value");
  }

  of(id: string): Look {
    const look = this.looks.get(id);
    if (look === undefined) throw new Error(`no layer ${id}`);
    return look;
  }

  set(id: string, change: Partial<Look>): void {
    Object.assign(this.of(id), change);
    this.keep(id);
    this.change();
  }

  /** Show only this value layer. */
  showAlone(id: string): void {
    for (const layer of this.values) {
      this.of(layer.id).shown = layer.id === id;
      this.keep(layer.id);
    }
    this.change();
  }

  setLines(name: LinesName, change: Partial<LinesLook>): void {
    remember(`lines:${name}`, Object.assign(this.lines[name], change));
    this.change();
  }

  compare(change: Partial<Comparison & { split: number }>): void {
    Object.assign(this, change);
    const { mode, left, right } = this;
    this.compared = { mode, left, right };
    remember("comparison", this.compared);
    this.change();
  }

  /** Whether this slide is shown in the stains that the network saw. */
  get asSeen(): boolean {
    return this.wantsSeen && this.canBeSeen;
  }

  get canBeSeen(): boolean {
    return Boolean(this.slide.image?.seen_version);
  }

  setSeen(seen: boolean): void {
    this.wantsSeen = seen;
    remember("asSeen", seen);
    this.change();
  }

  /** Toggle all layers and outlines, to see the tissue. */
  toggleBare(): void {
    this.isBare = !this.isBare;
    this.onChange();
  }

  /** Layers on a side of a comparison, or in the only view; masks are on both sides. */
  shownOn(side: Side): Layer[] {
    if (this.isBare) return [];
    if (this.mode === "one") return this.slide.layers.filter((l) => this.of(l.id).shown);
    const chosen = side === "left" ? this.left : this.right;
    return this.slide.layers.filter((layer) =>
      layer.kind === "mask" ? this.of(layer.id).shown : layer.id === chosen,
    );
  }

  shows(name: LinesName): boolean {
    return this.lines[name].shown && !this.isBare;
  }

  /** Runs with outlines on a side of a comparison, or in the only view. */
  runsOn(side: Side): string[] {
    const { layers, outlines } = this.slide;
    if (this.mode === "one") return outlines;
    const chosen = side === "left" ? this.left : this.right;
    const layer = layers.find(({ id }) => id === chosen) ?? layers.at(0);
    return outlines.filter((run) => run === layer?.run);
  }

  private keep(id: string): void {
    const look = this.of(id);
    const layer = this.slide.layers.find((l) => l.id === id)!;
    const isFirst = look.threshold === firstThreshold(layer, this.slide);
    // Do not store the run's own threshold, which may differ next time.
    remember(`look:${id}`, { ...look, threshold: isFirst ? undefined : look.threshold });
  }

  private change(): void {
    this.isBare = false;
    this.onChange();
  }
}

function firstLook(layer: Layer, slide: Slide): Look {
  const isVariance = layer.unit === "variance";
  const look: Look = {
    shown: layer === slide.layers.find(({ name }) => name === "probability"),
    opacity: layer.kind === "mask" ? 0.35 : isVariance ? 0.9 : 0.55,
    threshold: firstThreshold(layer, slide),
    colormap: isVariance ? "YlOrBr" : "viridis",
    ...recall<Partial<Look>>(`look:${layer.id}`, {}),
  };
  look.threshold = Math.min(Math.max(look.threshold, layer.low), layer.high);
  if (!COLORMAPS.some(({ name }) => name === look.colormap)) look.colormap = "viridis";
  return look;
}

/** Probability: the run's threshold. Classes: half. Variances: all but the lowest tenth. */
export function firstThreshold(layer: Layer, slide: Slide): number {
  const { thresholds, threshold } = slide;
  if (layer.name === "probability") return thresholds[layer.run] ?? threshold ?? 0.5;
  if (layer.unit === "probability") return 0.5;
  return layer.low + 0.1 * (layer.high - layer.low);
}
