/** Tiles of 8-bit values of a layer: fetched when seen, decoded, kept in memory. */

import { url, type Layer } from "../page/api";
import { requestTile } from "../page/tileRequest";

interface Tile {
  width: number;
  height: number;
  values: Uint8Array;
}

export interface Address {
  level: number;
  col: number;
  row: number;
}

const AT_ONCE = 6;
const AGAIN_MS = 4000;
const KEPT = 400; // of 64 KiB: 25 MiB a layer

export class ValueTiles {
  onArrived: () => void = () => undefined;
  /** Told why a tile cannot be read; it is asked for again after a while. */
  onFailed: (why: string) => void = () => undefined;
  /** Null: nothing is there. In the order of their last use. */
  private readonly tiles = new Map<string, Tile | null>();
  private readonly fetching = new Set<string>();
  private queue: Address[] = [];

  constructor(
    private readonly layer: Layer,
    private readonly slide: string,
    private readonly until: AbortSignal,
  ) {}

  /** The tile; undefined while it is not here yet. */
  get(address: Address): Tile | null | undefined {
    const name = nameOf(address);
    const tile = this.tiles.get(name);
    if (tile !== undefined) {
      this.tiles.delete(name);
      this.tiles.set(name, tile);
    }
    return tile;
  }

  /** Fetch these and forget what was wanted before: it is out of sight. */
  want(addresses: Address[]): void {
    this.queue = addresses.filter((address) => {
      const name = nameOf(address);
      return !this.tiles.has(name) && !this.fetching.has(name);
    });
    this.pump();
  }

  private pump(): void {
    while (this.fetching.size < AT_ONCE && !this.until.aborted) {
      const next = this.queue.shift();
      if (next === undefined) return;
      void this.load(next);
    }
  }

  private async load(address: Address): Promise<void> {
    const name = nameOf(address);
    this.fetching.add(name);
    try {
      const tile = await this.read(address);
      this.keep(name, tile);
    } catch (reason) {
      if (this.until.aborted) return;
      this.onFailed(reason instanceof Error ? reason.message : String(reason));
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    } finally {
      this.fetching.delete(name);
      this.pump();
    }
    if (!this.until.aborted) this.onArrived();
  }

  private async read(address: Address): Promise<Tile | null> {
    const { level, col, row } = address;
    const path = url.map(this.slide, this.layer, level, col, row);
    const answer = await requestTile(path, this.until);
    if (answer.ok) return decode(await answer.blob());
    if (answer.status === 404) return null;
    throw new Error(`${this.layer.label}: ${answer.status}`);
  }

  private keep(name: string, tile: Tile | null): void {
    this.tiles.set(name, tile);
    for (const oldest of this.tiles.keys()) {
      if (this.tiles.size <= KEPT) break;
      this.tiles.delete(oldest);
    }
  }
}

function nameOf({ level, col, row }: Address): string {
  return `${level}/${col}_${row}`;
}

/** The gray values of a PNG exactly as they are stored. */
async function decode(png: Blob): Promise<Tile> {
  // A screen's color profile would change the values.
  const image = await createImageBitmap(png, { colorSpaceConversion: "none" });
  const { width, height } = image;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true })!;
  context.drawImage(image, 0, 0);
  image.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i];
  return { width, height, values };
}
