/** PNG image of the current view with scale bar and legend, for reports. */

import { legendEntries, strip, type LegendEntry } from "./legend";
import type { Side } from "./looks";
import { drawBar, formatMagnification, scaleBar } from "./scale";
import type { Pane } from "./pane";
import type { Scene } from "./scene";
import { digits } from "../page/format";

// CSS px
const HEAD = 54;
const ROW = 44;
const GAP = 24;
const MARGIN = 12;
const FONT = "11px system-ui, sans-serif";
const READ_MS = 60_000;

export async function saveImage(
  panes: readonly Pane[],
  scene: Scene,
  notice: string,
): Promise<void> {
  const canvas = drawPicture(panes, scene, notice);
  const png = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (png === null) throw new Error("The browser could not create the image.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(png);
  link.download = `${safeName(scene.slide.slide_id)}.png`;
  link.click();
  // Some browsers read the blob only after the click.
  window.setTimeout(() => URL.revokeObjectURL(link.href), READ_MS);
}

function drawPicture(panes: readonly Pane[], scene: Scene, notice: string): HTMLCanvasElement {
  const { ratio, height } = panes[0].size;
  const width = panes.reduce((sum, pane) => sum + pane.size.width, 0);
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d")!;
  context.font = FONT;
  const sides: Side[] = scene.looks.mode === "one" ? ["left"] : ["left", "right"];
  const rows = layOut(context, legendEntries(scene, sides), width - 2 * MARGIN);
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round((height + HEAD + rows.length * ROW) * ratio);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  let x = 0;
  for (const pane of panes) {
    drawPane(context, pane, x * ratio);
    if (x > 0) drawLine(context, x * ratio, panes[0].size);
    x += pane.size.width;
  }
  if (scene.looks.mode === "swipe") {
    drawLine(context, scene.looks.split * width * ratio, panes[0].size);
  }
  context.setTransform(ratio, 0, 0, ratio, 0, height * ratio);
  drawHead(context, panes[0], scene.slide.slide_id, notice, width);
  rows.forEach((row, i) => drawRow(context, row, HEAD + i * ROW));
  return canvas;
}

function drawPane(context: CanvasRenderingContext2D, pane: Pane, x: number): void {
  const { width, height, ratio } = pane.size;
  const slide = (pane.viewer.drawer as unknown as { canvas: HTMLCanvasElement }).canvas;
  for (const layer of [slide, pane.overlay]) {
    context.drawImage(layer, x, 0, width * ratio, height * ratio);
  }
  const { umPerPx } = pane;
  if (umPerPx === null) return;
  const bar = scaleBar(umPerPx);
  const left = x + (width - bar.px - 24) * ratio;
  drawBar(context, bar, { x: left, y: (height - 18) * ratio, unit: ratio });
}

/** Draw the line between the left and right side. */
function drawLine(
  context: CanvasRenderingContext2D,
  x: number,
  { height, ratio }: Pane["size"],
): void {
  for (const [color, width] of [
    ["#111", 4],
    ["#fff", 2],
  ] as const) {
    context.fillStyle = color;
    context.fillRect(x - (width / 2) * ratio, 0, width * ratio, height * ratio);
  }
}

/** Draw the header: slide, magnification, rotation. */
function drawHead(
  context: CanvasRenderingContext2D,
  pane: Pane,
  name: string,
  notice: string,
  width: number,
): void {
  const { magnification } = pane;
  const { mirrored, degrees } = pane.pose;
  const parts = [
    name,
    magnification === null ? "" : formatMagnification(magnification),
    mirrored ? "mirrored" : "",
    degrees === 0 ? "" : `rotated by ${degrees}\u00b0`,
  ];
  context.fillStyle = "#111";
  context.font = "600 13px system-ui, sans-serif";
  context.fillText(parts.filter(Boolean).join("  "), MARGIN, 21, width - 2 * MARGIN);
  context.fillStyle = "#555";
  context.font = FONT;
  context.fillText(notice, MARGIN, 41, width - 2 * MARGIN);
}

interface Placed {
  entry: LegendEntry;
  left: number;
  width: number;
}

/** Draw the legend entries from left to right, wrapping into rows. */
function layOut(
  context: CanvasRenderingContext2D,
  entries: readonly LegendEntry[],
  width: number,
): Placed[][] {
  const rows: Placed[][] = [];
  let right = Infinity;
  for (const entry of entries) {
    const text = context.measureText(entry.text).width;
    const own = { scale: Math.max(150, text), patch: text + 18, line: text + 28, text }[entry.kind];
    if (right + own > width) {
      rows.push([]);
      right = 0;
    }
    rows[rows.length - 1].push({ entry, left: MARGIN + right, width: Math.ceil(own) });
    right += own + GAP;
  }
  return rows;
}

function drawRow(context: CanvasRenderingContext2D, row: readonly Placed[], top: number): void {
  for (const { entry, left, width } of row) {
    const at = { left, top, width };
    if (entry.kind === "scale") drawScale(context, entry, at);
    else drawMark(context, entry, at);
  }
}

function drawScale(
  context: CanvasRenderingContext2D,
  { text, layer, look }: LegendEntry & { kind: "scale" },
  { left, top, width }: { left: number; top: number; width: number },
): void {
  context.drawImage(strip(layer, look, width, 10), left, top + 14);
  context.fillStyle = "#111";
  context.fillText(text, left, top + 9);
  context.fillText(digits(layer.low), left, top + 36);
  context.textAlign = "center";
  context.fillText(`from ${digits(look.threshold)}`, left + width / 2, top + 36);
  context.textAlign = "right";
  context.fillText(digits(layer.high), left + width, top + 36);
  context.textAlign = "left";
}

function drawMark(
  context: CanvasRenderingContext2D,
  entry: Exclude<LegendEntry, { kind: "scale" }>,
  { left, top }: { left: number; top: number },
): void {
  let indent = 0;
  if (entry.kind === "patch") {
    context.fillStyle = entry.color;
    context.fillRect(left, top + 13, 12, 11);
    indent = 18;
  } else if (entry.kind === "line") {
    context.fillStyle = entry.color;
    const parts: [number, number][] = entry.dashed
      ? [
          [0, 6],
          [8, 6],
          [16, 6],
        ]
      : [[0, 22]];
    for (const [from, long] of parts) context.fillRect(left + from, top + 17, long, 4);
    indent = 28;
  }
  context.fillStyle = "#111";
  context.fillText(entry.text, left + indent, top + 23);
}

/** File name valid on any system. */
function safeName(text: string): string {
  return text.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 100) || "slide";
}
