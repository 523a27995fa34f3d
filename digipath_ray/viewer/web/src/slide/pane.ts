/** One view of a slide: its own tiles, and on a canvas above them what was found. */

import OpenSeadragon from "openseadragon";

import type { Lesion, ShownSlide } from "../page/api";
import { openViewer } from "./deepZoom";
import { make } from "../page/dom";
import { legend } from "./legend";
import type { Looks, Side } from "./looks";
import { fullMagnification, scaleBar } from "./scale";
import type { Measurements } from "./measurements";
import { PENS, stroke, within, type Outline, type Pen } from "./outlines";
import { Placement, type Point } from "./placement";
import type { ValueLayer } from "./valueLayer";

/** What the views of a slide have in common. */
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
}

interface Size {
  width: number;
  height: number;
  ratio: number;
}

export class Pane {
  readonly element: HTMLElement;
  readonly viewer: OpenSeadragon.Viewer;
  readonly overlay = make("canvas", { class: "overlay", "aria-hidden": true });
  onMoved: () => void = () => undefined;
  /** The pointer is over this point of the slide; null when it left. */
  onPointer: (point: Point | null) => void = () => undefined;
  onClick: (point: Point, event: OpenSeadragon.CanvasClickEvent) => void = () => undefined;
  onReady: () => void = () => undefined;
  private readonly bar = make("div", { class: "scale-bar" });
  private readonly key = make("div", { class: "legend" });
  private frame = 0;
  private isOpen = false;

  constructor(
    private readonly scene: Scene,
    readonly side: Side,
    parent: HTMLElement,
  ) {
    const holder = make("div", { class: "osd" });
    const corner = make("div", { class: "corner" }, this.key, this.bar);
    this.element = make("div", { class: "pane" }, holder, corner);
    parent.append(this.element); // the viewer measures the room that it has
    this.viewer = openViewer(holder, scene.slide, side === "left");
    this.viewer.canvas.append(this.overlay);
    const name = `${scene.slide.slide_id}: arrows move, plus and minus zoom`;
    this.viewer.canvas.setAttribute("aria-label", name);
    this.viewer.canvas.setAttribute("role", "application");
    this.listen();
  }

  get size(): Size {
    const { clientWidth: width, clientHeight: height } = this.viewer.container;
    return { width, height, ratio: window.devicePixelRatio || 1 };
  }

  get placement(): Placement {
    return Placement.of(this.viewer.viewport, this.scene.slide.image.width);
  }

  /** The point of the slide in the middle of the view. */
  get center(): Point {
    const { width, height } = this.size;
    return this.placement.toSlide([width / 2, height / 2]);
  }

  get magnification(): number | null {
    const full = fullMagnification(this.scene.slide.image);
    return full === null || !this.isOpen ? null : full * this.placement.scale;
  }

  /** Null before the slide is open or if it states no mpp. */
  get umPerPx(): number | null {
    const mpp = this.scene.slide.image.mpp_x;
    return mpp === null || !this.isOpen ? null : mpp / this.placement.scale;
  }

  magnify(magnification: number): void {
    const full = fullMagnification(this.scene.slide.image);
    if (full === null) return;
    const { viewport } = this.viewer;
    viewport.zoomTo(viewport.imageToViewportZoom(magnification / full)).applyConstraints();
  }

  /** Show a box of level-0 px with room around it, at most at 10x. */
  goTo(box: readonly number[]): void {
    const [x0, y0, x1, y1] = box;
    const { image } = this.scene.slide;
    const { width, height } = this.size;
    const nearest = (fullMagnification(image) ?? 10) / 10;
    const scale = Math.max((1.6 * (x1 - x0)) / width, (1.6 * (y1 - y0)) / height, nearest);
    const { viewport } = this.viewer;
    const center = viewport.imageToViewportCoordinates((x0 + x1) / 2, (y0 + y1) / 2);
    viewport.panTo(center);
    viewport.zoomTo(viewport.imageToViewportZoom(1 / scale), undefined);
  }

  turn(degrees: number): void {
    this.viewer.viewport.setRotation(this.viewer.viewport.getRotation() + degrees);
  }

  /** Show what another view shows, at once. */
  follow(other: Pane): void {
    const { viewport } = this.viewer;
    const from = other.viewer.viewport;
    viewport.setRotation(from.getRotation(true), true);
    viewport.zoomTo(from.getZoom(true), undefined, true);
    viewport.panTo(from.getCenter(true), true);
  }

  /** Draw what is above the slide anew with the next frame of the screen. */
  redraw(): void {
    if (this.frame !== 0 || !this.isOpen) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  close(): void {
    this.isOpen = false; // what is still on its way draws no more
    cancelAnimationFrame(this.frame);
    this.viewer.destroy();
    this.element.remove();
  }

  private listen(): void {
    const { viewer } = this;
    viewer.addHandler("open", () => {
      this.isOpen = true;
      this.redraw();
      this.onReady();
    });
    // In the same frame as the tiles, so that nothing lags behind the slide.
    viewer.addHandler("update-viewport", () => this.draw());
    viewer.addHandler("viewport-change", () => this.onMoved());
    viewer.addHandler("canvas-click", (event) => {
      if (event.quick) this.onClick(this.pointAt(event.position), event);
    });
    viewer.container.addEventListener("pointermove", (event) => {
      if (!this.isOpen) return;
      const box = viewer.container.getBoundingClientRect();
      const at = new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top);
      this.onPointer(this.pointAt(at));
    });
    viewer.container.addEventListener("pointerleave", () => this.onPointer(null));
  }

  private pointAt(pixel: OpenSeadragon.Point): Point {
    return this.placement.toSlide([pixel.x, pixel.y]);
  }

  private draw(): void {
    if (!this.isOpen) return;
    const { size, placement } = this;
    const context = fitCanvas(this.overlay, size);
    this.drawFound(context, placement, size);
    this.scene.measurements.draw(context, placement, size.ratio);
    if (this.scene.crosshair) drawCrosshair(context, size);
    this.drawBar();
  }

  /** Layers and outlines; of a swipe each side's up to the line. */
  private drawFound(context: CanvasRenderingContext2D, placement: Placement, size: Size): void {
    if (this.scene.looks.mode !== "swipe") {
      this.drawSide(context, placement, size, this.side);
      return;
    }
    const line = this.scene.looks.split * size.width;
    const right = size.width - line;
    for (const [side, x, width] of [
      ["left", 0, line],
      ["right", line, right],
    ] as const) {
      context.save();
      context.setTransform(size.ratio, 0, 0, size.ratio, 0, 0);
      context.beginPath();
      context.rect(x, 0, width, size.height);
      context.clip();
      this.drawSide(context, placement, size, side);
      context.restore();
    }
  }

  private drawSide(
    context: CanvasRenderingContext2D,
    placement: Placement,
    size: Size,
    side: Side,
  ): void {
    const { looks, layers, outlines, truth, slide, chosen } = this.scene;
    for (const layer of looks.shownOn(side)) {
      layers.get(layer.id)!.draw(context, placement, looks.of(layer.id), size);
    }
    context.save();
    placement.apply(context, size.ratio);
    const how = { scale: placement.scale * size.ratio, ratio: size.ratio };
    const draw = (lines: readonly Outline[], pen: Pen) =>
      stroke(
        context,
        lines.map((line) => line.path),
        pen,
        how,
      );
    const run = looks.runOn(side);
    const lines = (run !== null && outlines.get(run)) || [];
    if (looks.outlines) {
      const pen = run === slide.layers[0]?.run ? PENS.lesion : PENS.other;
      draw(
        lines.filter((line) => !line.whole),
        pen,
      );
      draw(
        lines.filter((line) => line.whole),
        { ...pen, dashed: true },
      );
    }
    if (looks.truthOutlines) draw(truth, PENS.truth);
    if (chosen !== null) {
      stroke(context, pathsOf(chosen, lines), PENS.chosen, how);
    }
    context.restore();
  }

  private drawBar(): void {
    const { umPerPx } = this;
    this.bar.hidden = umPerPx === null;
    if (umPerPx === null) return;
    const { px, label } = scaleBar(umPerPx);
    this.bar.style.width = `${px}px`;
    this.bar.textContent = label;
  }

  /** Name the layers shown; called when these change, not when the view moves. */
  drawLegend(): void {
    this.key.replaceChildren(...legend(this.scene, this.side));
  }
}

/** The canvas at the size of the pane, cleared. */
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

/** A lesion's outlines; its box where the run wrote none. */
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
