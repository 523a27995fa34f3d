/** Distances and areas measured by the user. */

import type { SlideImage } from "../page/api";
import type { Placement, Point } from "./placement";
import { digits, formatArea, formatLength } from "../page/format";

export type Tool = "none" | "distance" | "area";

interface Figure {
  tool: Exclude<Tool, "none">;
  points: Point[];
}

const COLOR = "#ffe600";
const ENOUGH = { distance: 2, area: 3 };

export class Measurements {
  tool: Tool = "none";
  onChange: () => void = () => undefined;
  private finished: Figure[] = [];
  private points: Point[] = [];
  private pointer: Point | null = null;

  constructor(private readonly image: SlideImage) {}

  get isEmpty(): boolean {
    return this.finished.length === 0 && this.points.length === 0;
  }

  /** Select a tool; selecting it again deselects it. Measurements are kept. */
  choose(tool: Tool): void {
    this.finish();
    this.tool = tool === this.tool ? "none" : tool;
    this.points = [];
    this.onChange();
  }

  /**
   * Add a corner; one within `reach` level-0 px of the first closes an area.
   *
   * The second click of a double-click is ignored.
   */
  add(point: Point, reach: number): void {
    if (this.tool === "none") return;
    const near = (other: Point | undefined) =>
      other !== undefined && lengthOf([other, point]) <= reach;
    if (near(this.points.at(-1))) return;
    if (this.tool === "area" && near(this.points[0])) {
      this.finish();
      return;
    }
    this.points.push(point);
    if (this.tool === "distance" && this.points.length === ENOUGH.distance) this.finish();
    this.onChange();
  }

  move(point: Point | null): void {
    this.pointer = point;
    if (this.points.length > 0) this.onChange();
  }

  /** Finish the figure if it has enough points. */
  finish(): void {
    if (this.tool === "none" || this.points.length < ENOUGH[this.tool]) return;
    this.finished.push({ tool: this.tool, points: this.points });
    this.points = [];
    this.onChange();
  }

  /** Remove the last point; without points, deselect the tool. */
  back(): void {
    if (this.points.pop() === undefined) this.tool = "none";
    this.onChange();
  }

  clear(): void {
    this.finished = [];
    this.points = [];
    this.onChange();
  }

  /** Formatted measurement of the last figure; empty if none. */
  get last(): string {
    const figure = this.finished.at(-1);
    return figure ? this.describe(figure) : "";
  }

  draw(context: CanvasRenderingContext2D, placement: Placement, ratio: number): void {
    const tool = this.tool;
    const drawn = [...this.finished];
    if (tool !== "none" && this.points.length > 0) {
      const open = this.pointer ? [...this.points, this.pointer] : this.points;
      drawn.push({ tool, points: open });
    }
    context.save();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    for (const figure of drawn) this.drawFigure(context, figure, placement);
    context.restore();
  }

  private drawFigure(
    context: CanvasRenderingContext2D,
    figure: Figure,
    placement: Placement,
  ): void {
    const corners = figure.points.map((point) => placement.toPane(point));
    const path = new Path2D();
    corners.forEach(([x, y], i) => (i === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
    if (figure.tool === "area") path.closePath();
    strokeTwice(context, path);
    for (const [x, y] of corners) {
      const dot = new Path2D();
      dot.arc(x, y, 2.5, 0, 2 * Math.PI);
      strokeTwice(context, dot);
    }
    if (corners.length > 1) writeLabel(context, this.describe(figure), corners[corners.length - 1]);
  }

  private describe({ tool, points }: Figure): string {
    const { mpp_x, mpp_y } = this.image;
    const known = mpp_x !== null && mpp_y !== null;
    const um = points.map(([x, y]): Point => [x * (mpp_x ?? 1), y * (mpp_y ?? 1)]);
    if (tool === "distance") {
      const length = lengthOf(um);
      return known ? formatLength(length) : `${digits(length)} px`;
    }
    const area = areaOf(um);
    return known ? formatArea(area) : `${digits(area)} px\u00b2`;
  }
}

function lengthOf(points: readonly Point[]): number {
  let length = 0;
  for (let i = 1; i < points.length; i++) {
    length += Math.hypot(points[i][0] - points[i - 1][0], points[i][1] - points[i - 1][1]);
  }
  return length;
}

/** Area of a simple polygon (shoelace formula). */
function areaOf(points: readonly Point[]): number {
  let twice = 0;
  points.forEach(([x, y], i) => {
    const [nextX, nextY] = points[(i + 1) % points.length];
    twice += x * nextY - nextX * y;
  });
  return Math.abs(twice) / 2;
}

function strokeTwice(context: CanvasRenderingContext2D, path: Path2D): void {
  for (const [color, width] of [
    ["rgb(0 0 0 / 0.6)", 4],
    [COLOR, 2],
  ] as const) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke(path);
  }
}

function writeLabel(context: CanvasRenderingContext2D, text: string, [x, y]: Point): void {
  context.font = "600 13px system-ui, sans-serif";
  const width = context.measureText(text).width;
  context.fillStyle = "rgb(0 0 0 / 0.75)";
  context.fillRect(x + 8, y - 24, width + 12, 20);
  context.fillStyle = COLOR;
  context.fillText(text, x + 14, y - 9.5);
}
