/** What is shown of a slide and how: layers, their colors, the comparison. */

import type { Layer, Slide } from "../page/api";
import type { ColormapName } from "./colormaps";
import { recall, remember } from "../page/memory";

export interface Look {
  shown: boolean;
  opacity: number;
  /** In the layer's unit; below it nothing is shown. */
  threshold: number;
  colormap: ColormapName;
}

/** One view; one view parted by a line that is moved; two views that move as one. */
export type Mode = "one" | "swipe" | "side";
export type Side = "left" | "right";

interface Kept {
  opacity: number;
  colormap: ColormapName;
}

const FIRST_COLORMAPS: Record<string, ColormapName> = {
  probability: "viridis",
  aleatoric: "magma",
  epistemic: "magma",
};

export class Looks {
  mode: Mode = "one";
  /** Layers compared; an empty name: the slide alone. */
  left = "";
  right = "";
  /** Where the line of a swipe is, of the pane's width. */
  split = 0.5;
  outlines = true;
  truthOutlines = false;
  onChange: () => void = () => undefined;
  private readonly looks = new Map<string, Look>();

  constructor(readonly slide: Slide) {
    for (const layer of slide.layers) this.looks.set(layer.id, firstLook(layer, slide));
    const values = this.values;
    this.left = values[0]?.id ?? "";
    const other = values.find((v) => v.run !== values[0].run && v.name === values[0].name);
    this.right = (other ?? values[1])?.id ?? "";
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
    const look = Object.assign(this.of(id), change);
    const layer = this.slide.layers.find((l) => l.id === id)!;
    const { opacity, colormap } = look;
    remember(`look:${layer.name}`, { opacity, colormap } satisfies Kept);
    this.onChange();
  }

  compare(change: Partial<Pick<Looks, "mode" | "left" | "right" | "split">>): void {
    Object.assign(this, change);
    this.onChange();
  }

  /** Layers on one side of a comparison, or in the only view; masks are on both. */
  shownOn(side: Side): Layer[] {
    if (this.mode === "one") return this.slide.layers.filter((l) => this.of(l.id).shown);
    const chosen = side === "left" ? this.left : this.right;
    return this.slide.layers.filter((layer) =>
      layer.kind === "mask" ? this.of(layer.id).shown : layer.id === chosen,
    );
  }

  /** The run whose outlines are drawn on a side. */
  runOn(side: Side): string | null {
    const chosen = this.mode === "one" ? "" : side === "left" ? this.left : this.right;
    const layer = this.slide.layers.find((l) => l.id === chosen) ?? this.slide.layers[0];
    return layer?.run ?? null;
  }
}

function firstLook(layer: Layer, slide: Slide): Look {
  const kept = recall<Kept>(`look:${layer.name}`, {
    opacity: firstOpacity(layer),
    colormap: FIRST_COLORMAPS[layer.name] ?? "viridis",
  });
  return { ...kept, shown: layer === firstShown(slide), threshold: firstThreshold(layer, slide) };
}

/** Small variances are dark, as nuclei are: they need more. */
function firstOpacity(layer: Layer): number {
  if (layer.kind === "mask") return 0.35;
  return layer.name === "probability" ? 0.55 : 0.8;
}

function firstShown(slide: Slide): Layer | undefined {
  return slide.layers.find((layer) => layer.name === "probability");
}

/** Probability: what the run called tumor. Variances: all but the smallest tenth. */
export function firstThreshold(layer: Layer, slide: Slide): number {
  if (layer.name === "probability") return slide.threshold ?? 0.5;
  return layer.low + 0.1 * (layer.high - layer.low);
}
