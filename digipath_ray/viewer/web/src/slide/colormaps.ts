/** Colormaps; all but turbo are color-blind safe. */

export type ColormapName = "viridis" | "cividis" | "magma" | "YlOrBr" | "turbo";
export type Rgb = readonly [number, number, number];

/** Evenly spaced colors: viridis, cividis and magma are in the public domain
 * (CC0); YlOrBr is ColorBrewer's, by Cynthia Brewer, and turbo Google's (both Apache-2.0). */
const ANCHORS: Record<ColormapName, string> = {
  viridis:
    "440154470d6048186a482374472d7b4537814240863e49893b528b375b8d33638d" +
    "2f6b8e2c728e297a8e26828e23898e21918c1f988b1fa08822a78528ae8032b67a" +
    "3fbc734ec36b5ec96270cf5784d44b98d83eaddc30c2df23d8e219ece51bfde725",
  cividis:
    "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d" +
    "5a5f6e61656f686a716f70737676767d7c788482798c8878938e789b9476a39a74" +
    "aba072b4a76fbcae6cc4b468cdbb63d5c25edec958e7d150f0d846f9e03afee838",
  magma:
    "0000040303120a0822130d341d114729115a36106b440f7651127c5d177f6a1c81" +
    "762181832681902a819c2e7faa337db73779c43c75d0416fdc4869e75263ef5d5e" +
    "f56b5cf9795dfc8961fd9869fea772feb67cfec488fed395fde2a3fcf0b2fcfdbf",
  YlOrBr: "ffffe5fff7bcfee391fec44ffe9929ec7014cc4c02993404662506",
  turbo:
    "30123b392a734040a24456c7466be34680f64294ff37a8fa28bceb1ccdd818ddc2" +
    "1fe9af32f2984ef97d6dfe628bff4ba4fc3cb9f635cdec34dfdf37eecf3af8be39" +
    "fdac34fe962bfb7e21f46617eb500edf3f08d02f05be2102a91601920b017a0403",
};

export const COLORMAPS: readonly { name: ColormapName; label: string }[] = [
  { name: "viridis", label: "viridis" },
  { name: "cividis", label: "cividis" },
  { name: "magma", label: "magma" },
  { name: "YlOrBr", label: "yellow to brown" },
  { name: "turbo", label: "turbo (not for the color-blind)" },
];

/** Color of a value between 0 and 1. */
export function colorAt(name: ColormapName, value: number): Rgb {
  const anchors = ANCHORS[name];
  const last = anchors.length / 6 - 1;
  const at = Math.min(Math.max(value, 0), 1) * last;
  const left = Math.min(Math.floor(at), last - 1);
  const low = readColor(anchors, left);
  const high = readColor(anchors, left + 1);
  const mix = (i: number) => Math.round(low[i] + (high[i] - low[i]) * (at - left));
  return [mix(0), mix(1), mix(2)];
}

function readColor(anchors: string, index: number): Rgb {
  const number = parseInt(anchors.slice(6 * index, 6 * index + 6), 16);
  return [number >> 16, (number >> 8) & 255, number & 255];
}

/** Color bar from left to right, on white, for a legend. */
export function drawStrip(
  name: ColormapName,
  width: number,
  height: number,
  alpha: (value: number) => number,
): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d")!;
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  for (let x = 0; x < width; x++) {
    const value = x / (width - 1);
    context.fillStyle = `rgb(${colorAt(name, value).join(" ")} / ${alpha(value)})`;
    context.fillRect(x, 0, 1, height);
  }
  return canvas;
}
