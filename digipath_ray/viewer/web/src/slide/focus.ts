/** Keeps the keyboard focus when part of the page is redrawn. */

const FOCUSABLE = "a[href], button, input, select, summary, [tabindex]";

/** Redraw a holder; the focused element, or its replacement of the same name, keeps focus. */
export function keepFocus(holder: Element, draw: () => void): void {
  const held = document.activeElement;
  const name = held !== null && holder.contains(held) ? nameOf(held) : null;
  const { scrollTop } = holder;
  draw();
  holder.scrollTop = scrollTop;
  if (name === null || holder.contains(document.activeElement)) return;
  const all = [...holder.querySelectorAll<HTMLElement>(FOCUSABLE)];
  all.find((element) => nameOf(element) === name)?.focus({ preventScroll: true });
}

function nameOf(element: Element): string {
  const { role, side, mode } = (element as HTMLElement).dataset;
  const layer = element.closest<HTMLElement>("[data-layer]")?.dataset.layer;
  const label = element.getAttribute("aria-label");
  const text = element instanceof HTMLSelectElement ? "" : element.textContent;
  return [element.tagName, layer, role, side, mode, label ?? text].join("|");
}
