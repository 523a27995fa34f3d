/** Tiles of 8-bit values of a layer: fetched on demand, decoded and cached. */

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
const OUTDATED = 409;
const KEPT = 400; // tiles of 64 KiB: 25 MiB per layer

/** Callbacks of the tile consumer. */
export interface TileWatch {
  until: AbortSignal;
  /** A tile has arrived or failed; failed tiles are retried later. */
  onChange: () => void;
  /** The server has a newer version of the layer; called once. */
  onOutdated: () => void;
}

export class ValueTiles {
  /** This version is outdated. */
  isOutdated = false;
  /** Null: empty tile. In LRU order. */
  private readonly tiles = new Map<string, Tile | null>();
  private readonly fetching = new Set<string>();
  /** Errors of requested tiles, by tile name. */
  private readonly failed = new Map<string, string>();
  private queue: Address[] = [];

  constructor(
    private readonly layer: Layer,
    private readonly slide: string,
    private readonly watch: TileWatch,
  ) {}

  get trouble(): string {
    return [...this.failed.values()].at(-1) ?? "";
  }

  /** A tile; undefined while loading. */
  get(address: Address): Tile | null | undefined {
    const name = nameOf(address);
    const tile = this.tiles.get(name);
    if (tile !== undefined) {
      this.tiles.delete(name);
      this.tiles.set(name, tile);
    }
    return tile;
  }

  /** Request these tiles and drop earlier requests, now out of view. */
  want(addresses: Address[]): void {
    const wanted = new Set(addresses.map(nameOf));
    for (const name of this.failed.keys()) if (!wanted.has(name)) this.failed.delete(name);
    this.queue = addresses.filter((address) => {
      const name = nameOf(address);
      return !this.tiles.has(name) && !this.fetching.has(name);
    });
    this.pump();
  }

  private pump(): void {
    while (this.fetching.size < AT_ONCE && !this.isOver) {
      const next = this.queue.shift();
      if (next === undefined) return;
      void this.load(next);
    }
  }

  private get isOver(): boolean {
    return this.isOutdated || this.watch.until.aborted;
  }

  private async load(address: Address): Promise<void> {
    const name = nameOf(address);
    this.fetching.add(name);
    try {
      const tile = await this.read(address);
      if (this.isOver) return;
      this.keep(name, tile);
      this.failed.delete(name);
    } catch (reason) {
      if (this.isOver) return;
      this.failed.set(name, reason instanceof Error ? reason.message : String(reason));
      this.watch.onChange();
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    } finally {
      this.fetching.delete(name);
      this.pump();
    }
    if (!this.isOver) this.watch.onChange();
  }

  private async read(address: Address): Promise<Tile | null> {
    const { level, col, row } = address;
    const path = url.map(this.slide, this.layer, level, col, row);
    const response = await requestTile(path, this.watch.until);
    if (response.ok) return decode(await response.blob());
    if (response.status === 404) return null;
    if (response.status === OUTDATED) this.end();
    throw new Error(`${this.layer.label}: ${response.status}`);
  }

  /** Drop everything: the layer has changed. */
  private end(): void {
    if (this.isOver) return;
    this.isOutdated = true;
    this.tiles.clear();
    this.failed.clear();
    this.queue = [];
    this.watch.onChange();
    this.watch.onOutdated();
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

/** Gray values of a PNG, exactly as stored. */
async function decode(png: Blob): Promise<Tile> {
  // Color management would change the values.
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
