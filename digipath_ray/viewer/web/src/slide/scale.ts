/** Magnification and scale bar. */

import type { SlideImage } from "../page/api";
import { formatLength } from "../page/format";

export const STEPS = [1, 2.5, 5, 10, 20, 40] as const;

/** By convention 10x is about 1 um per screen px. */
const UM_PER_PX_AT_1X = 10;

/** Magnification of level 0; null without objective and mpp. */
export function fullMagnification(image: SlideImage): number | null {
  if (image.objective !== null) return image.objective;
  return image.mpp_x === null ? null : UM_PER_PX_AT_1X / image.mpp_x;
}

export function formatMagnification(magnification: number): string {
  const places = magnification < 10 ? 1 : 0;
  return `${Number(magnification.toFixed(places))}\u00d7`;
}

const LONGEST_PX = 160;

interface Bar {
  px: number;
  label: string;
}

/** Longest scale bar of 1, 2 or 5 times a power of ten um that fits. */
export function scaleBar(umPerPx: number): Bar {
  const most = LONGEST_PX * umPerPx;
  const power = 10 ** Math.floor(Math.log10(most));
  const um = power * ([5, 2].find((step) => step * power <= most) ?? 1);
  return { px: um / umPerPx, label: formatLength(um) };
}

/** Draw it on a canvas, left end at x, lower edge at y; `unit` px per CSS px. */
export function drawBar(
  context: CanvasRenderingContext2D,
  bar: Bar,
  { x, y, unit }: { x: number; y: number; unit: number },
): void {
  const width = bar.px * unit;
  context.fillStyle = "rgb(255 255 255 / 0.85)";
  context.fillRect(x - 8 * unit, y - 28 * unit, width + 16 * unit, 34 * unit);
  context.fillStyle = "#111";
  context.fillRect(x, y - 4 * unit, width, 4 * unit);
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.fillText(bar.label, x + width / 2, y - 11 * unit);
  context.textAlign = "left";
}
