/** Outlines of lesions and ground truth, level-0 px. */

import { fetchJson, type Slide } from "../page/api";

export interface Outline {
  path: Path2D;
  /** The whole tumor region of the burden, not a lesion. */
  whole: boolean;
  box: readonly [number, number, number, number];
}

/** QuPath class of the whole tumor region. */
const WHOLE = "Whole tumor";

type Ring = [number, number][];
interface Feature {
  properties?: { classification?: { name?: string } };
  geometry:
    { type: "Polygon"; coordinates: Ring[] } | { type: "MultiPolygon"; coordinates: Ring[][] };
}

export async function readOutlines(path: string, signal: AbortSignal): Promise<Outline[]> {
  const { features } = await fetchJson<{ features: Feature[] }>(path, signal);
  return features.map(trace);
}

function trace({ geometry, properties }: Feature): Outline {
  const rings = geometry.type === "Polygon" ? geometry.coordinates : geometry.coordinates.flat();
  const path = new Path2D();
  const box: [number, number, number, number] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const ring of rings) {
    ring.forEach(([x, y], i) => {
      if (i === 0) path.moveTo(x, y);
      else path.lineTo(x, y);
      box[0] = Math.min(box[0], x);
      box[1] = Math.min(box[1], y);
      box[2] = Math.max(box[2], x);
      box[3] = Math.max(box[3], y);
    });
    path.closePath();
  }
  return { path, box, whole: properties?.classification?.name === WHOLE };
}

/** Outlines inside the box of a lesion. */
export function within(outlines: readonly Outline[], box: readonly number[]): Outline[] {
  const slack = 1; // corners are rounded to whole px
  return outlines.filter(
    ({ whole, box: [x0, y0, x1, y1] }) =>
      !whole &&
      x0 >= box[0] - slack &&
      y0 >= box[1] - slack &&
      x1 <= box[2] + slack &&
      y1 <= box[3] + slack,
  );
}

export interface Pen {
  color: string;
  width: number;
  dashed: boolean;
}

export const PENS = {
  lesion: { color: "#00e5ff", width: 1.75, dashed: false },
  other: { color: "#ffb000", width: 1.75, dashed: false },
  truth: { color: "#7dff6b", width: 1.75, dashed: true },
  chosen: { color: "#ffe600", width: 3, dashed: false },
} satisfies Record<string, Pen>;

/** Pen of a run's lesions; a second run has another color. */
export function penOf(run: string, { layers }: Pick<Slide, "layers">): Pen {
  return run === layers[0]?.run ? PENS.lesion : PENS.other;
}

/** Stroke paths in level-0 px with a dark edge, visible on any stain.
 *
 * @param scale device px per level-0 px
 * @param ratio device px per CSS px, the unit of a pen's width
 */
export function stroke(
  context: CanvasRenderingContext2D,
  paths: readonly Path2D[],
  pen: Pen,
  { scale, ratio }: { scale: number; ratio: number },
): void {
  const unit = ratio / scale;
  context.lineJoin = "round";
  context.setLineDash(pen.dashed ? [6 * unit, 4 * unit] : []);
  for (const [color, width] of [
    ["rgb(0 0 0 / 0.55)", pen.width + 1.75],
    [pen.color, pen.width],
  ] as const) {
    context.strokeStyle = color;
    context.lineWidth = width * unit;
    for (const path of paths) context.stroke(path);
  }
  context.setLineDash([]);
}
