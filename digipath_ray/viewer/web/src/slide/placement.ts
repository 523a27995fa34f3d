/** Placement of a slide in a pane: level-0 px (l0) to CSS px and back. */

import type OpenSeadragon from "openseadragon";

export type Point = readonly [number, number];

/** Affine map x' = a x + c y + e, y' = b x + d y + f; no shear, uniform scale. */
export class Placement {
  constructor(
    readonly a: number,
    readonly b: number,
    readonly c: number,
    readonly d: number,
    readonly e: number,
    readonly f: number,
  ) {}

  /** Current placement of the viewport's only image, including rotation and mirroring. */
  static of(viewport: OpenSeadragon.Viewport, side: number): Placement {
    const on = (x: number, y: number) =>
      viewport.pixelFromPoint(viewport.imageToViewportCoordinates(x, y), true);
    const origin = on(0, 0);
    const right = on(side, 0);
    const down = on(0, side);
    const turned = new Placement(
      (right.x - origin.x) / side,
      (right.y - origin.y) / side,
      (down.x - origin.x) / side,
      (down.y - origin.y) / side,
      origin.x,
      origin.y,
    );
    // OpenSeadragon mirrors after drawing and ignores it in its coordinates.
    return viewport.getFlip() ? turned.mirrored(viewport.getContainerSize().x) : turned;
  }

  /** Mirrored horizontally in a pane of this width. */
  mirrored(width: number): Placement {
    const { a, b, c, d, e, f } = this;
    return new Placement(-a, b, -c, d, width - e, f);
  }

  /** CSS px per level-0 px. */
  get scale(): number {
    return Math.hypot(this.a, this.b);
  }

  toPane([x, y]: Point): Point {
    return [this.a * x + this.c * y + this.e, this.b * x + this.d * y + this.f];
  }

  toSlide([x, y]: Point): Point {
    const area = this.a * this.d - this.b * this.c;
    const dx = x - this.e;
    const dy = y - this.f;
    return [(this.d * dx - this.c * dy) / area, (this.a * dy - this.b * dx) / area];
  }

  /** Box of level-0 px visible in a pane of this size: x0, y0, x1, y1. */
  visible(width: number, height: number): [number, number, number, number] {
    const corners: Point[] = [
      [0, 0],
      [width, 0],
      [0, height],
      [width, height],
    ];
    const seen = corners.map((corner) => this.toSlide(corner));
    const xs = seen.map(([x]) => x);
    const ys = seen.map(([, y]) => y);
    return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  }

  /** Set a canvas transform to draw in level-0 px; `ratio` device px per CSS px. */
  apply(context: CanvasRenderingContext2D, ratio: number): void {
    const { a, b, c, d, e, f } = this;
    context.setTransform(a * ratio, b * ratio, c * ratio, d * ratio, e * ratio, f * ratio);
  }
}
