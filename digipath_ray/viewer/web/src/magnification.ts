/** Magnification as a microscope has it. */

import type { SlideImage } from "./api";

export const STEPS = [1, 2.5, 5, 10, 20, 40] as const;

/** An objective of 10x shows about 1 um per screen px; most scanners agree. */
const UM_PER_PX_AT_1X = 10;

/** The magnification of level 0; null if the slide states neither objective nor mpp. */
export function fullMagnification(image: SlideImage): number | null {
  if (image.objective !== null) return image.objective;
  return image.mpp_x === null ? null : UM_PER_PX_AT_1X / image.mpp_x;
}

export function sayMagnification(magnification: number): string {
  const places = magnification < 10 ? 1 : 0;
  return `${Number(magnification.toFixed(places))}\u00d7`;
}
