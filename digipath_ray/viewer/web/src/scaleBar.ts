/** A scale bar of a round length. */

import { sayLength } from "./words";

const LONGEST_PX = 160;

export interface Bar {
  px: number;
  label: string;
}

/** The longest bar of 1, 2 or 5 times a power of ten um that fits. */
export function scaleBar(umPerPx: number): Bar {
  const most = LONGEST_PX * umPerPx;
  const power = 10 ** Math.floor(Math.log10(most));
  const um = power * ([5, 2].find((step) => step * power <= most) ?? 1);
  return { px: um / umPerPx, label: sayLength(um) };
}

/** Draw it on a picture, its left end at x, its lower edge at y; `unit` px per CSS px. */
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
