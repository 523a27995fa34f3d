/** A layer of values on a slide.
 *
 * What is in sight is put together as one array of values, and colored by a table of 256
 * colors. Moving a slider makes another table and colors the same array: no request, no
 * decoding. One image and not one for each tile, so that no seams show between them when
 * the slide is turned.
 */

import type { Layer } from "../page/api";
import { colorAt, type Rgb } from "./colormaps";
import type { Look } from "./looks";
import type { Placement } from "./placement";
import { ValueTiles, type Address, type TileWatch } from "./valueTiles";

/** Tiles in sight, as one image. */
interface Range {
  level: number;
  col: number;
  row: number;
  cols: number;
  rows: number;
}

export class ValueLayer {
  private readonly tiles: ValueTiles;
  private range: Range | null = null;
  private values = new Uint8Array(0);
  private readonly canvas = document.createElement("canvas");
  private readonly context = this.canvas.getContext("2d")!;
  private painted = "";
  private stale = true;

  constructor(
    readonly layer: Layer,
    slide: string,
    watch: TileWatch,
  ) {
    const onChange = () => {
      this.stale = true;
      watch.onChange();
    };
    this.tiles = new ValueTiles(layer, slide, { ...watch, onChange });
  }

  /** Why part of what is in sight is missing; empty if nothing failed. */
  get trouble(): string {
    return this.tiles.trouble;
  }

  /** Whether the server has another version of it. */
  get isOutdated(): boolean {
    return this.tiles.isOutdated;
  }

  /** Draw what a pane of this size in CSS px shows of the layer. */
  draw(
    context: CanvasRenderingContext2D,
    placement: Placement,
    look: Look,
    size: { width: number; height: number; ratio: number },
  ): void {
    const seen = placement.visible(size.width, size.height);
    const range = this.rangeOf(seen, placement.scale * size.ratio);
    if (range === null) return;
    this.collect(range);
    this.paint(look);
    const l0_x = this.layer.l0_per_px_x * 2 ** range.level;
    const l0_y = this.layer.l0_per_px_y * 2 ** range.level;
    const side = this.layer.tile_size;
    context.save();
    placement.apply(context, size.ratio);
    context.scale(l0_x, l0_y);
    context.globalAlpha = look.opacity;
    // Seen from near, a pixel is a pixel: nothing is shown that was not predicted.
    context.imageSmoothingEnabled = placement.scale * size.ratio * l0_x < 2;
    context.drawImage(this.canvas, range.col * side, range.row * side);
    context.restore();
  }

  /** The tiles in sight at the level whose pixels are nearest to the screen's. */
  private rangeOf(seen: readonly number[], devicePerL0: number): Range | null {
    const { layer } = this;
    const wanted = Math.round(-Math.log2(devicePerL0 * layer.l0_per_px_x));
    const level = Math.min(Math.max(wanted, 0), layer.levels - 1);
    const tileX = layer.tile_size * layer.l0_per_px_x * 2 ** level;
    const tileY = layer.tile_size * layer.l0_per_px_y * 2 ** level;
    const allCols = Math.ceil(Math.ceil(layer.width / 2 ** level) / layer.tile_size);
    const allRows = Math.ceil(Math.ceil(layer.height / 2 ** level) / layer.tile_size);
    const col = Math.max(0, Math.floor(seen[0] / tileX));
    const row = Math.max(0, Math.floor(seen[1] / tileY));
    const cols = Math.min(allCols, Math.ceil(seen[2] / tileX)) - col;
    const rows = Math.min(allRows, Math.ceil(seen[3] / tileY)) - row;
    return cols > 0 && rows > 0 ? { level, col, row, cols, rows } : null;
  }

  /** Put the values in sight together; where a tile is missing, from a coarser one. */
  private collect(range: Range): void {
    const same = this.range !== null && sameRange(this.range, range);
    if (same && !this.stale) return;
    const side = this.layer.tile_size;
    const width = range.cols * side;
    this.values = new Uint8Array(width * range.rows * side);
    const missing: Address[] = [];
    for (const address of addresses(range)) {
      const at = (address.row - range.row) * side * width + (address.col - range.col) * side;
      if (!this.place(address, at, width)) missing.push(address);
    }
    this.range = range;
    this.stale = false;
    this.painted = "";
    const overview = { level: this.layer.levels - 1, col: 0, row: 0 };
    this.tiles.want(missing.length > 0 ? [overview, ...missing] : []);
  }

  /** Whether the tile is here; if not, its place holds a coarser one's values. */
  private place(address: Address, at: number, width: number): boolean {
    const tile = this.tiles.get(address);
    if (tile) {
      for (let y = 0; y < tile.height; y++) {
        const line = tile.values.subarray(y * tile.width, (y + 1) * tile.width);
        this.values.set(line, at + y * width);
      }
    }
    if (tile !== undefined) return true;
    this.placeCoarser(address, at, width);
    return false;
  }

  private placeCoarser(address: Address, at: number, width: number): void {
    const side = this.layer.tile_size;
    for (let up = 1; address.level + up < this.layer.levels; up++) {
      const col = address.col >> up;
      const row = address.row >> up;
      const tile = this.tiles.get({ level: address.level + up, col, row });
      if (!tile) continue;
      const left = address.col * side - ((col * side) << up);
      const top = address.row * side - ((row * side) << up);
      for (let y = 0; y < side; y++) {
        const tileY = (top + y) >> up;
        if (tileY >= tile.height) break;
        for (let x = 0; x < side; x++) {
          const tileX = (left + x) >> up;
          if (tileX >= tile.width) break;
          this.values[at + y * width + x] = tile.values[tileY * tile.width + tileX];
        }
      }
      return;
    }
  }

  private paint(look: Look): void {
    const name = `${look.colormap} ${look.threshold}`;
    if (this.range === null || name === this.painted) return;
    this.painted = name;
    const width = this.range.cols * this.layer.tile_size;
    const image = new ImageData(width, this.values.length / width);
    const pixels = new Uint32Array(image.data.buffer);
    const table = colorTable(this.layer, look);
    for (let i = 0; i < pixels.length; i++) pixels[i] = table[this.values[i]];
    this.canvas.width = image.width;
    this.canvas.height = image.height;
    this.context.putImageData(image, 0, 0);
  }
}

/** The color of each 8-bit value, transparent below the threshold, as R, G, B, A in memory. */
export function colorTable(layer: Layer, look: Look): Uint32Array {
  const table = new Uint8Array(4 * 256);
  for (let v = 1; v < 256; v++) {
    const part = (v - 1) / 254;
    const value = layer.low + part * (layer.high - layer.low);
    const shown = layer.kind === "mask" ? v >= 128 : value >= look.threshold;
    if (shown) table.set([...colorOf(layer, look, part), 255 * alphaOf(layer, part)], 4 * v);
  }
  return new Uint32Array(table.buffer);
}

/** The color of a value, `part` of the way from low to high. */
export function colorOf(layer: Layer, look: Look, part: number): Rgb {
  if (layer.kind === "mask") return MASK_COLORS[layer.name] ?? [86, 180, 233];
  return colorAt(look.colormap, part);
}

/** How much of a value's color covers the slide, `part` of the way from low to high.
 *
 * A variance fades where it is small, or it would hide the tissue wherever the networks
 * agree: it covers as much as its root does, the standard deviation.
 */
export function alphaOf(layer: Layer, part: number): number {
  return layer.unit === "variance" ? Math.sqrt(part) : 1;
}

/** Of Okabe and Ito's colors, which the color-blind tell apart. */
const MASK_COLORS: Record<string, Rgb> = { tissue: [0, 114, 178], truth: [0, 158, 115] };

function sameRange(a: Range, b: Range): boolean {
  return (
    a.level === b.level &&
    a.col === b.col &&
    a.row === b.row &&
    a.cols === b.cols &&
    a.rows === b.rows
  );
}

function* addresses(range: Range): Generator<Address> {
  for (let row = range.row; row < range.row + range.rows; row++) {
    for (let col = range.col; col < range.col + range.cols; col++) {
      yield { level: range.level, col, row };
    }
  }
}
