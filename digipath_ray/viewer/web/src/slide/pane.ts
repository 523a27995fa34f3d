/** One view of a slide: its own tiles, and on a canvas above them what was found. */

import OpenSeadragon from "openseadragon";

import { openViewer } from "./deepZoom";
import { make } from "../page/dom";
import { drawLegend, legendEntries } from "./legend";
import type { Side } from "./looks";
import { drawOverlay } from "./overlay";
import { Placement, type Point } from "./placement";
import { fullMagnification, scaleBar } from "./scale";
import type { Scene, Size } from "./scene";

/** How near a pointer meets a point, CSS px: a finger is broader than a mouse's tip. */
const REACH = { touch: 22, other: 8 };

export class Pane {
  readonly element: HTMLElement;
  readonly viewer: OpenSeadragon.Viewer;
  readonly overlay = make("canvas", { class: "overlay", "aria-hidden": true });
  onMoved: () => void = () => undefined;
  /** The pointer is over this point of the slide; null when it left. */
  onPointer: (point: Point | null) => void = () => undefined;
  /** A click or tap; `reach`, in level-0 px, is how far off it may be meant. */
  onClick: (point: Point, reach: number) => void = () => undefined;
  onDoubleClick: (point: Point) => void = () => undefined;
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

  /** Whether left and right are changed over, and by how much it is turned, 0 to 359. */
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

  /** @param at a point of the slide that stays where it is; else the middle does */
  zoom(factor: number, at?: Point): void {
    const { viewport } = this.viewer;
    viewport.zoomBy(factor, at && viewport.imageToViewportCoordinates(at[0], at[1]));
    viewport.applyConstraints();
  }

  whole(): void {
    this.viewer.viewport.goHome();
  }

  /** Move by parts of the view, to the right and downward as it is seen. */
  pan(right: number, down: number): void {
    const { width, height } = this.size;
    const to = this.placement.toSlide([width * (0.5 + right), height * (0.5 + down)]);
    const from = this.center;
    const { viewport } = this.viewer;
    const moved = viewport.imageToViewportCoordinates(to[0] - from[0], to[1] - from[1]);
    viewport.panBy(moved).applyConstraints();
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

  /** Turn clockwise as it is seen; a mirrored view turns the other way within itself. */
  turn(degrees: number): void {
    const { viewport } = this.viewer;
    viewport.setRotation(viewport.getRotation() + (viewport.getFlip() ? -degrees : degrees));
  }

  mirror(): void {
    this.viewer.viewport.toggleFlip();
  }

  /** Show what another view shows, at once. */
  follow(other: Pane): void {
    const { viewport } = this.viewer;
    const from = other.viewer.viewport;
    viewport.setFlip(from.getFlip());
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

  /** Name the layers shown; called when these change, not when the view moves. */
  drawLegend(): void {
    const sides: Side[] = this.scene.looks.mode === "swipe" ? ["left", "right"] : [this.side];
    this.key.replaceChildren(...drawLegend(legendEntries(this.scene, sides)));
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
    viewer.addHandler("flip", () => this.onMoved());
    viewer.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const pointer = event.originalEvent as PointerEvent;
      const reach = pointer.pointerType === "touch" ? REACH.touch : REACH.other;
      this.onClick(this.pointAt(pointer), reach / this.placement.scale);
    });
    viewer.addHandler("canvas-double-click", (event) => {
      event.preventDefaultAction = true; // it forgets that a view may be mirrored
      this.onDoubleClick(this.pointAt(event.originalEvent as PointerEvent));
    });
    viewer.addHandler("canvas-pinch", (event) => {
      if (!viewer.viewport.getFlip()) return;
      event.preventDefaultPanAction = event.preventDefaultZoomAction = true; // as above
      this.pinch(event);
    });
    // A finger points only where it taps: what it told then stays.
    viewer.container.addEventListener("pointermove", (event) => {
      if (this.isOpen && event.pointerType !== "touch") this.onPointer(this.pointAt(event));
    });
    viewer.container.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.onPointer(null);
    });
  }

  /** Two fingers move and spread: what is between them stays there. */
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
