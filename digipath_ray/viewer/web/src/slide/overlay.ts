/** Canvas overlay of a slide: layers, outlines, measurements, crosshair. */

import type { Lesion } from "../page/api";
import type { Side } from "./looks";
import { penOf, PENS, stroke, within, type Outline, type Pen } from "./outlines";
import type { Placement } from "./placement";
import type { Scene, Size } from "./scene";

interface View {
  side: Side;
  placement: Placement;
  size: Size;
}

export function drawOverlay(canvas: HTMLCanvasElement, scene: Scene, view: View): void {
  const { size, placement } = view;
  const context = fitCanvas(canvas, size);
  if (scene.looks.mode === "swipe") drawSwipe(context, scene, view);
  else drawSide(context, scene, view);
  scene.measurements.draw(context, placement, size.ratio);
  if (scene.crosshair) drawCrosshair(context, size);
}

/** Resize the canvas to the view and clear it. */
function fitCanvas(
  canvas: HTMLCanvasElement,
  { width, height, ratio }: Size,
): CanvasRenderingContext2D {
  const context = canvas.getContext("2d")!;
  const across = Math.round(width * ratio);
  const down = Math.round(height * ratio);
  if (canvas.width !== across || canvas.height !== down) {
    canvas.width = across;
    canvas.height = down;
  }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, across, down);
  return context;
}

/** Draw each side of a swipe up to the line. */
function drawSwipe(
  context: CanvasRenderingContext2D,
  scene: Scene,
  { placement, size }: View,
): void {
  const line = scene.looks.split * size.width;
  for (const [side, x, width] of [
    ["left", 0, line],
    ["right", line, size.width - line],
  ] as const) {
    context.save();
    context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
    context.beginPath();
    context.rect(x, 0, width, size.height);
    context.clip();
    drawSide(context, scene, { side, placement, size });
    context.restore();
  }
}

function drawSide(
  context: CanvasRenderingContext2D,
  scene: Scene,
  { side, placement, size }: View,
): void {
  const { looks, layers, chosen } = scene;
  for (const layer of looks.shownOn(side)) {
    layers.get(layer.id)!.draw(context, placement, looks.of(layer.id), size);
  }
  context.save();
  placement.apply(context, size.ratio);
  drawLines(context, scene, { side, placement, size });
  if (chosen !== null && !looks.isBare) {
    const how = { scale: placement.scale * size.ratio, ratio: size.ratio };
    const lines = looks.runsOn(side).flatMap((run) => scene.outlines.get(run) ?? []);
    stroke(context, pathsOf(chosen, lines), PENS.chosen, how);
  }
  context.restore();
}

/** Draw the visible outlines of lesions and ground truth. */
function drawLines(
  context: CanvasRenderingContext2D,
  { looks, slide, outlines, truth }: Scene,
  { side, placement, size }: View,
): void {
  const how = { scale: placement.scale * size.ratio, ratio: size.ratio };
  const seen = placement.visible(size.width, size.height);
  const draw = (lines: readonly Outline[], pen: Pen) =>
    stroke(
      context,
      lines.filter(({ box }) => meet(box, seen)).map(({ path }) => path),
      pen,
      how,
    );
  for (const run of looks.shows("outlines") ? looks.runsOn(side) : []) {
    const lines = outlines.get(run) ?? [];
    const pen = penOf(run, slide);
    const [hulls, lesions] = [true, false].map((whole) => lines.filter((l) => l.whole === whole));
    context.globalAlpha = looks.lines.outlines.opacity;
    draw(lesions, pen);
    draw(hulls, { ...pen, dashed: true });
  }
  if (looks.shows("truthOutlines")) {
    context.globalAlpha = looks.lines.truthOutlines.opacity;
    draw(truth, PENS.truth);
  }
  context.globalAlpha = 1;
}

function meet(a: readonly number[], b: readonly number[]): boolean {
  return a[0] <= b[2] && b[0] <= a[2] && a[1] <= b[3] && b[1] <= a[3];
}

/** Outlines of a lesion; its box if the run has none. */
function pathsOf({ box }: Lesion, lines: readonly Outline[]): Path2D[] {
  if (box === null) return [];
  const its = within(lines, box);
  if (its.length > 0) return its.map(({ path }) => path);
  const path = new Path2D();
  path.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]);
  return [path];
}

function drawCrosshair(context: CanvasRenderingContext2D, { width, height, ratio }: Size): void {
  context.save();
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const path = new Path2D();
  path.moveTo(width / 2 - 12, height / 2);
  path.lineTo(width / 2 + 12, height / 2);
  path.moveTo(width / 2, height / 2 - 12);
  path.lineTo(width / 2, height / 2 + 12);
  for (const [color, line] of [
    ["#fff", 3],
    ["#d0006f", 1],
  ] as const) {
    context.strokeStyle = color;
    context.lineWidth = line;
    context.stroke(path);
  }
  context.restore();
}
