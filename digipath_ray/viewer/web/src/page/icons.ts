/** Small line drawings for buttons, on a grid of 24. */

const PATHS = {
  back: "M15 5l-7 7 7 7",
  next: "M9 5l7 7-7 7",
  home: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  left: "M4 5v5h5M5 10a8 8 0 1 1-1 5",
  right: "M20 5v5h-5M19 10a8 8 0 1 0 1 5",
  ruler: "M3 16L16 3l5 5L8 21zM7 12l2 2M10 9l2 2M13 6l2 2",
  area: "M5 7l8-3 7 6-3 9-10 1z",
  swipe: "M12 3v18M8 8l-4 4 4 4M16 8l4 4-4 4",
  mirror: "M12 3v18M9 7L3 17h6zM15 7l6 10h-6z",
  side: "M3 5h8v14H3zM13 5h8v14h-8z",
  single: "M3 5h18v14H3z",
  save: "M12 4v11M7 10l5 5 5-5M5 20h14",
  camera: "M4 8h4l2-3h4l2 3h4v11H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7",
  help: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5",
  theme: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  close: "M6 6l12 12M18 6L6 18",
  play: "M7 4l12 8-12 8z",
} as const;
export type IconName = keyof typeof PATHS;

const SVG = "http://www.w3.org/2000/svg";

export function icon(name: IconName): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
