/** DOM helpers. Text becomes text nodes, never HTML. */

type Value = string | number | boolean | null | undefined | ((event: never) => void);
export type Child = Node | string | number | null | undefined | false;

/** Characters that act on a page instead of being shown: controls, text direction. */
const CONTROLS =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const SHOWN = new Set(["title", "aria-label"]);

/** A text of a file as it can be shown: \u202e for a character that turns it around. */
export function printable(text: string): string {
  return text.replace(CONTROLS, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Create an element; false or missing attributes are skipped, functions become listeners. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, Value> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") {
      element.addEventListener(name, value as EventListener);
    } else if (value !== false && value !== null && value !== undefined) {
      const text = value === true ? "" : String(value);
      element.setAttribute(name, SHOWN.has(name) ? printable(text) : text);
    }
  }
  fill(element, ...children);
  return element;
}

/** Replace the children of an element. */
export function fill(element: Element, ...children: Child[]): void {
  const visible = children.filter(
    (child): child is Node | string | number =>
      child !== null && child !== undefined && child !== false,
  );
  element.replaceChildren(...visible.map((c) => (c instanceof Node ? c : printable(String(c)))));
}

/**
 * Update an element to match a fresh one with minimal changes, so that focus is kept.
 *
 * Listeners of the fresh one are lost, so its container must listen.
 */
export function patch(element: Element, fresh: Element): void {
  if (element.isEqualNode(fresh) || isSamePicture(element, fresh)) return;
  for (const { name } of [...element.attributes])
    if (!fresh.hasAttribute(name)) element.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  patchChildren(element, [...fresh.childNodes]);
}

/** Update the children of an element to match fresh ones. */
export function patchChildren(element: Element, fresh: readonly Node[]): void {
  const old = [...element.childNodes];
  for (const node of old.slice(fresh.length)) node.remove();
  fresh.forEach((node, i) => {
    const at = old[i];
    if (at === undefined) element.append(node);
    else if (at instanceof Element && node instanceof Element && at.tagName === node.tagName)
      patch(at, node);
    else if (!at.isEqualNode(node)) at.replaceWith(node);
  });
}

/** Whether both are the same lazily loaded image, which may have its src already. */
function isSamePicture(element: Element, fresh: Element): boolean {
  return (
    element instanceof HTMLImageElement &&
    fresh instanceof HTMLImageElement &&
    element.dataset.source === fresh.dataset.source
  );
}

/** Element of index.html with this id. */
export function find(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`element #${id} is missing`);
  return element;
}

/** Announce a text to screen readers. */
export function announce(text: string): void {
  find("announcer").textContent = printable(text);
}

/** Whether a key press goes to a text field. */
export function isTyping(event: KeyboardEvent): boolean {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  if (target.closest("dialog")) return true;
  if (target instanceof HTMLInputElement) return !/^(checkbox|radio|range)$/.test(target.type);
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}
