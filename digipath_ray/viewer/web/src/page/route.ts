/** URL fragment routes, so that pages can be linked. */

export type Route =
  | { page: "slides" }
  | { page: "patients" }
  | { page: "slide"; key: string }
  | { page: "patient"; id: string };

export const hrefs = {
  slides: "#/",
  patients: "#/patients",
  slide: (key: string) => `#/slide/${key}`,
  patient: (id: string) => `#/patient/${encodeURIComponent(id)}`,
};

export function readRoute(hash: string): Route {
  const [, page, name] = hash.replace(/^#/, "").split("/");
  if (page === "slide" && name) return { page, key: name };
  if (page === "patient" && name) return { page, id: decode(name) };
  return { page: page === "patients" ? "patients" : "slides" };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // malformed escape typed by hand
  }
}
