/** One view of a slide: tiles, and a canvas overlay with the results. */

import OpenSeadragon from "openseadragon";

import { openViewer, showPixels } from "./deepZoom";
import { make } from "../page/dom";
import { drawLegend, legendEntries } from "./legend";
import type { Side } from "./looks";
import { drawOverlay } from "./overlay";
import { Placement, type Point } from "./placement";
import { fullMagnification, scaleBar } from "./scale";
import type { Scene, Size } from "./scene";

/** Hit radius of a pointer, CSS px: larger for fingers. */
const REACH = { touch: 22, other: 8 };

export class Pane {
  readonly element: HTMLElement;
  readonly viewer: OpenSeadragon.Viewer;
  readonly overlay = make("canvas", { class: "overlay", "aria-hidden": true });
  onMoved: () => void = () => undefined;
  /** Called with the point under the pointer; null when it leaves. */
  onPointer: (point: Point | null) => void = () => undefined;
  /** Called on click or tap; `reach` is the hit radius, level-0 px. */
  onClick: (point: Point, reach: number) => void = () => undefined;
  onDoubleClick: (point: Point) => void = () => undefined;
  onReady: () => void = () => undefined;
  private readonly bar = make("div", { class: "scale-bar" });
  private readonly key = make("div", { class: "legend" });
  private frame = 0;
  private isOpen = false;
  /** Whether the pixels shown are those that the network saw. */
  private seen: boolean;

  constructor(
    private readonly scene: Scene,
    readonly side: Side,
    parent: HTMLElement,
  ) {
    const holder = make("div", { class: "osd" });
    const corner = make("div", { class: "corner" }, this.key, this.bar);
    this.element = make("div", { class: "pane" }, holder, corner);
    parent.append(this.element); // attached first, so that the viewer can measure it
    this.viewer = openViewer(holder, scene.slide, side === "left", scene.looks.asSeen);
    this.seen = scene.looks.asSeen;
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

  /** Slide point at the center of the view. */
  get center(): Point {
    const { width, height } = this.size;
    return this.placement.toSlide([width / 2, height / 2]);
  }

  get magnification(): number | null {
    const full = fullMagnification(this.scene.slide.image);
    return full === null || !this.isOpen ? null : full * this.placement.scale;
  }

  /** Null before the slide is open, or without mpp. */
  get umPerPx(): number | null {
    const mpp = this.scene.slide.image.mpp_x;
    return mpp === null || !this.isOpen ? null : mpp / this.placement.scale;
  }

  /** Mirroring, and rotation in degrees, 0 to 359. */
  get pose(): { mirrored: boolean; degrees: number } {
    const { viewport } = this.viewer;
    const turned = Math.round(viewport.getRotation());
    const degrees = viewport.getFlip() ? -turned : turned;
    return { mirrored: viewport.getFlip(), degrees: ((degrees % 360) + 360) % 360 };
  }

  magnify(magnification: number): void {
    const full = fullMagnification(this.scene.slide.image);
    if (full === null) return;
    const { viewport } = this.viewer;
    viewport.zoomTo(viewport.imageToViewportZoom(magnification / full)).applyConstraints();
  }

  /** @param at fixed slide point; default: center */
  zoom(factor: number, at?: Point): void {
    const { viewport } = this.viewer;
    viewport.zoomBy(factor, at && viewport.imageToViewportCoordinates(at[0], at[1]));
    viewport.applyConstraints();
  }

  whole(): void {
    this.viewer.viewport.goHome();
  }

  /** Pan by fractions of the view, to the right and down on screen. */
  pan(right: number, down: number): void {
    const { width, height } = this.size;
    const to = this.placement.toSlide([width * (0.5 + right), height * (0.5 + down)]);
    const from = this.center;
    const { viewport } = this.viewer;
    const moved = viewport.imageToViewportCoordinates(to[0] - from[0], to[1] - from[1]);
    viewport.panBy(moved).applyConstraints();
  }

  /** Zoom to a box of level-0 px with a margin, at most 10x. */
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

  /** Rotate clockwise on screen; a mirrored view rotates the opposite way internally. */
  turn(degrees: number): void {
    const { viewport } = this.viewer;
    viewport.setRotation(viewport.getRotation() + (viewport.getFlip() ? -degrees : degrees));
  }

  mirror(): void {
    this.viewer.viewport.toggleFlip();
  }

  /** Synchronize with another view, without animation. */
  follow(other: Pane): void {
    const { viewport } = this.viewer;
    const from = other.viewer.viewport;
    viewport.setFlip(from.getFlip());
    viewport.setRotation(from.getRotation(true), true);
    viewport.zoomTo(from.getZoom(true), undefined, true);
    viewport.panTo(from.getCenter(true), true);
  }

  /** Redraw the overlay with the next frame. */
  redraw(): void {
    if (this.frame !== 0 || !this.isOpen) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  /** Update the pixels shown. */
  showPixels(): void {
    const { slide, looks } = this.scene;
    if (!this.isOpen || looks.asSeen === this.seen) return;
    this.seen = looks.asSeen;
    showPixels(this.viewer, slide, this.seen);
  }

  /** Update the legend; called when layers change, not on movement. */
  drawLegend(): void {
    const sides: Side[] = this.scene.looks.mode === "swipe" ? ["left", "right"] : [this.side];
    this.key.replaceChildren(...drawLegend(legendEntries(this.scene, sides)));
  }

  close(): void {
    this.isOpen = false; // pending updates are ignored
    cancelAnimationFrame(this.frame);
    this.viewer.destroy();
    this.element.remove();
  }

  private listen(): void {
    const { viewer } = this;
    viewer.addHandler("open", () => {
      this.isOpen = true;
      this.showPixels(); // what was chosen while it opened
      this.redraw();
      this.onReady();
    });
    // In the same frame as the tiles, so that the overlay does not lag.
    viewer.addHandler("update-viewport", () => this.draw());
    viewer.addHandler("viewport-change", () => this.onMoved());
    viewer.addHandler("flip", () => this.onMoved());
    viewer.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const pointer = event.originalEvent as PointerEvent;
      const reach = pointer.pointerType === "touch" ? REACH.touch : REACH.other;
      this.onClick(this.pointAt(pointer), reach / this.placement.scale);
    });
    viewer.addHandler("canvas-double-click", (event) => {
      event.preventDefaultAction = true; // OpenSeadragon's default ignores mirroring
      this.onDoubleClick(this.pointAt(event.originalEvent as PointerEvent));
    });
    viewer.addHandler("canvas-pinch", (event) => {
      if (!viewer.viewport.getFlip()) return;
      event.preventDefaultPanAction = event.preventDefaultZoomAction = true; // as above
      this.pinch(event);
    });
    // A finger has no hover: keep the values of the last tap.
    viewer.container.addEventListener("pointermove", (event) => {
      if (this.isOpen && event.pointerType !== "touch") this.onPointer(this.pointAt(event));
    });
    viewer.container.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.onPointer(null);
    });
  }

  /** Pinch: the point between two fingers stays fixed. */
  private pinch({
    center,
    lastCenter,
    distance,
    lastDistance,
  }: OpenSeadragon.CanvasPinchEvent): void {
    const { placement } = this;
    const { viewport } = this.viewer;
    const at = ({ x, y }: OpenSeadragon.Point) =>
      viewport.imageToViewportCoordinates(...placement.toSlide([x, y]));
    const held = at(lastCenter);
    viewport.panBy(held.minus(at(center)), true);
    viewport.zoomBy(distance / lastDistance, held, true);
    viewport.applyConstraints();
  }

  private pointAt({ clientX, clientY }: PointerEvent): Point {
    const box = this.viewer.container.getBoundingClientRect();
    return this.placement.toSlide([clientX - box.left, clientY - box.top]);
  }

  private draw(): void {
    if (!this.isOpen) return;
    const { size, placement, side } = this;
    drawOverlay(this.overlay, this.scene, { size, placement, side });
    const { umPerPx } = this;
    this.bar.hidden = umPerPx === null;
    if (umPerPx === null) return;
    const { px, label } = scaleBar(umPerPx);
    this.bar.style.width = `${px}px`;
    this.bar.textContent = label;
  }
}
