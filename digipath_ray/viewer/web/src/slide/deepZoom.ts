/** OpenSeadragon viewer of a slide, without its buttons. */

import OpenSeadragon from "openseadragon";

import { url, type ShownSlide } from "../page/api";
import { requestTile } from "../page/tileRequest";

/** Tile download context of OpenSeadragon. */
interface TileJob {
  src: string;
  userData: { stop?: AbortController };
  finish: (data: Blob, request: null, kind: "rasterBlob") => void;
  fail: (why: string, request: null) => void;
}

/** Tile source of a slide; downloads honor the server's Retry-After. */
class SlideTiles extends OpenSeadragon.TileSource {
  constructor(
    private readonly slide: ShownSlide,
    private readonly seen: boolean,
  ) {
    const { width, height, tile_size, overlap, max_level } = slide.image;
    super({
      width,
      height,
      tileSize: tile_size,
      tileOverlap: overlap,
      minLevel: 0,
      maxLevel: max_level,
    });
  }

  override getTileUrl(level: number, col: number, row: number): string {
    const { key, image } = this.slide;
    if (this.seen) return url.seenTile(key, image, level, col, row);
    return url.tile(key, image.version, level, col, row);
  }

  downloadTileStart(job: TileJob): void {
    const stop = new AbortController();
    job.userData.stop = stop;
    readImage(job.src, stop.signal).then(
      (image) => job.finish(image, null, "rasterBlob"),
      (reason: unknown) => job.fail(String(reason), null),
    );
  }

  downloadTileAbort(job: TileJob): void {
    job.userData.stop?.abort();
  }
}

/** Fetch a tile; an unreadable slide returns an image with the error. */
async function readImage(path: string, signal: AbortSignal): Promise<Blob> {
  const response = await requestTile(path, signal);
  const image = await response.blob();
  if (!image.type.startsWith("image/")) throw new Error(`${path}: ${response.status}`);
  return image;
}

/**
 * Placeholder of OpenSeadragon's style element.
 *
 * OpenSeadragon inserts a style element unless it finds its own, which style-src 'self'
 * forbids. This placeholder is found instead; the rule is in style.css.
 */
function standInForStyle(): void {
  if (document.querySelector("style[data-openseadragon-mobile-css]")) return;
  const element = document.createElementNS("urn:digipath", "style");
  element.setAttribute("data-openseadragon-mobile-css", "");
  document.head.append(element);
}

/** Show the slide as scanned, or as the network saw it, at the same place. */
export function showPixels(viewer: OpenSeadragon.Viewer, slide: ShownSlide, seen: boolean): void {
  viewer.addTiledImage({
    tileSource: new SlideTiles(slide, seen) as never, // as below
    index: 0,
    replace: true,
  });
}

export function openViewer(
  element: HTMLElement,
  slide: ShownSlide,
  showNavigator: boolean,
  seen: boolean,
): OpenSeadragon.Viewer {
  standInForStyle();
  return new OpenSeadragon.Viewer({
    element,
    tileSources: new SlideTiles(slide, seen) as never, // the types exclude instances
    drawer: "canvas", // many hospital PCs have no usable GPU
    showNavigationControl: false,
    showNavigator,
    navigatorPosition: "TOP_RIGHT",
    navigatorSizeRatio: 0.17,
    navigatorAutoFade: false,
    navigatorOpacity: 1,
    navigatorBackground: "#fff",
    navigatorBorderColor: "#888",
    navigatorDisplayRegionColor: "#d0006f",
    keyboardNavEnabled: false, // handled by keys.ts, independent of the focus
    gestureSettingsMouse: { clickToZoom: false },
    gestureSettingsPen: { clickToZoom: false },
    gestureSettingsTouch: { pinchRotate: false },
    animationTime: 0.5,
    springStiffness: 12,
    maxZoomPixelRatio: 8,
    minZoomImageRatio: 0.7,
    visibilityRatio: 0.4,
    imageLoaderLimit: 8,
    maxImageCacheCount: 400,
    timeout: 600_000, // a slide in a bucket is downloaded first
    tileRetryMax: 5,
    tileRetryDelay: 3000,
    placeholderFillStyle: "#f4f4f4",
  });
}
