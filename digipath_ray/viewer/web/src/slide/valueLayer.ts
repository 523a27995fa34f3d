/**
 * A value layer on a slide.
 *
 * Visible tiles are combined into one array of values, colored by a table of 256 colors.
 * A slider rebuilds the table and recolors the array, without requests or decoding. A
 * single image avoids seams between tiles when the slide is rotated.
 */

import type { Layer } from "../page/api";
import { colorAt, type Rgb } from "./colormaps";
import type { Look } from "./looks";
import type { Placement } from "./placement";
import { ValueTiles, type Address, type TileWatch } from "./valueTiles";

/** Visible tiles as one image. */
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

  /** Error of a visible tile; undefined if none failed. */
  get trouble(): string {
    return this.tiles.trouble;
  }

  /** Whether the server has a newer version. */
  get isOutdated(): boolean {
    return this.tiles.isOutdated;
  }

  /** Draw the visible part of the layer in a pane of this size, CSS px. */
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
    // No smoothing when zoomed in: only predicted values are shown.
    context.imageSmoothingEnabled = placement.scale * size.ratio * l0_x < 2;
    context.drawImage(this.canvas, range.col * side, range.row * side);
    context.restore();
  }

  /** Visible tiles at the level closest to the screen resolution. */
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

  /** Combine visible values; missing tiles are filled from coarser ones. */
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

  /** Copy a tile, or the values of a coarser one; returns whether it was available. */
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

/** RGBA color of each 8-bit value, transparent below the threshold. */
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

/** Color of a value at fraction `part` from low to high. */
export function colorOf(layer: Layer, look: Look, part: number): Rgb {
  if (layer.kind === "mask") return MASK_COLORS[layer.name] ?? [86, 180, 233];
  return colorAt(look.colormap, part);
}

/**
 * Opacity of a value at fraction `part` from low to high.
 *
 * Small variances fade, so that tissue stays visible where the networks agree: opacity is
 * proportional to the standard deviation.
 */
export function alphaOf(layer: Layer, part: number): number {
  return layer.unit === "variance" ? Math.sqrt(part) : 1;
}

/** From Okabe and Ito's palette, which is color-blind safe. */
const MASK_COLORS: Record<string, Rgb> = {
  tissue: [0, 114, 178],
  truth: [0, 158, 115],
  "artifact-blur": [86, 180, 233],
  "artifact-fold": [213, 94, 0],
  "artifact-bubble": [0, 158, 115],
  "artifact-pen": [204, 121, 167],
  "artifact-blot": [0, 0, 0],
};

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
