/** A PNG of the current view, with scale bar and legend, to be put into a letter. */

import type { Layer } from "../page/api";
import { strip } from "./legend";
import type { Looks } from "./looks";
import { drawBar, sayMagnification, scaleBar } from "./scale";
import { PENS } from "./outlines";
import type { Pane, Scene } from "./pane";
import { colorOf } from "./valueLayer";
import { digits } from "../page/words";

const FOOT = 58; // CSS px
const MARGIN = 12;

export async function savePicture(
  panes: readonly Pane[],
  scene: Scene,
  notice: string,
): Promise<void> {
  const canvas = drawPicture(panes, scene, notice);
  const png = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, "image/png"));
  if (png === null) throw new Error("The browser could not write the picture.");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(png);
  link.download = `${safeName(scene.slide.slide_id)}.png`;
  link.click();
  URL.revokeObjectURL(link.href);
}

function drawPicture(panes: readonly Pane[], scene: Scene, notice: string): HTMLCanvasElement {
  const { ratio, height } = panes[0].size;
  const width = panes.reduce((sum, pane) => sum + pane.size.width, 0);
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round((height + FOOT) * ratio);
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  let x = 0;
  for (const pane of panes) {
    drawPane(context, pane, x * ratio);
    x += pane.size.width;
  }
  context.setTransform(ratio, 0, 0, ratio, 0, height * ratio);
  drawFoot(context, panes[0], scene, { width, notice });
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

function drawFoot(
  context: CanvasRenderingContext2D,
  pane: Pane,
  { slide, looks }: Scene,
  { width, notice }: { width: number; notice: string },
): void {
  const magnification = pane.magnification;
  const name = [slide.slide_id, magnification === null ? "" : sayMagnification(magnification)];
  context.fillStyle = "#111";
  context.font = "600 13px system-ui, sans-serif";
  context.fillText(name.filter(Boolean).join("  "), MARGIN, 21);
  context.fillStyle = "#555";
  context.font = "11px system-ui, sans-serif";
  context.fillText(notice, MARGIN, 43, width / 2);
  drawKeys(context, { slide, looks }, width);
}

/** The legend, from the right edge to the left. */
function drawKeys(
  context: CanvasRenderingContext2D,
  { slide, looks }: Pick<Scene, "slide" | "looks">,
  width: number,
): void {
  context.font = "11px system-ui, sans-serif";
  const both = [...looks.shownOn("left"), ...(looks.mode === "one" ? [] : looks.shownOn("right"))];
  const layers = both.filter((layer, i) => both.indexOf(layer) === i);
  let x = width - MARGIN;
  for (const layer of layers.reverse()) {
    x -=
      layer.kind === "mask"
        ? drawSwatch(context, layer, looks, x)
        : drawScale(context, layer, looks, x);
  }
  if (!looks.outlines || !slide.outlines) return;
  const first = slide.layers[0]?.run;
  for (const run of new Set([looks.runOn("right"), looks.runOn("left")])) {
    const { color } = run === first ? PENS.lesion : PENS.other;
    x -= drawLine(context, looks.mode === "one" ? "lesions" : `lesions of ${run}`, color, x);
  }
}

function drawLine(
  context: CanvasRenderingContext2D,
  text: string,
  color: string,
  x: number,
): number {
  const width = context.measureText(text).width + 28;
  context.fillStyle = color;
  context.fillRect(x - width, 26, 22, 4);
  context.fillStyle = "#111";
  context.fillText(text, x - width + 28, 32);
  return width + 24;
}

/** A colormap with its ends, right-aligned at x; says how wide it was. */
function drawScale(
  context: CanvasRenderingContext2D,
  layer: Layer,
  looks: Looks,
  x: number,
): number {
  const look = looks.of(layer.id);
  const title = `${layer.label} from ${digits(look.threshold)}`;
  const width = Math.ceil(Math.max(130, context.measureText(title).width));
  const left = x - width;
  context.drawImage(strip(layer, look, width, 10), left, 22);
  context.fillStyle = "#111";
  context.fillText(title, left, 15);
  context.fillText(digits(layer.low), left, 45);
  context.textAlign = "right";
  context.fillText(digits(layer.high), x, 45);
  context.textAlign = "left";
  return width + 24;
}

function drawSwatch(
  context: CanvasRenderingContext2D,
  layer: Layer,
  looks: Looks,
  x: number,
): number {
  const width = context.measureText(layer.label).width + 18;
  context.fillStyle = `rgb(${colorOf(layer, looks.of(layer.id), 1).join(" ")})`;
  context.fillRect(x - width, 22, 12, 10);
  context.fillStyle = "#111";
  context.fillText(layer.label, x - width + 18, 31);
  return width + 24;
}

/** A file name on any system. */
function safeName(text: string): string {
  return text.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 100) || "slide";
}
