/** Elements of the page. Text becomes text nodes, never HTML. */

type Value = string | number | boolean | null | undefined | ((event: never) => void);
export type Child = Node | string | number | null | undefined | false;

/** An element; attributes that are false or absent are left out, functions listen. */
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
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  fill(element, ...children);
  return element;
}

/** Replace what an element holds. */
export function fill(element: Element, ...children: Child[]): void {
  const kept = children.filter(
    (child): child is Node | string | number =>
      child !== null && child !== undefined && child !== false,
  );
  element.replaceChildren(...kept.map((c) => (typeof c === "number" ? String(c) : c)));
}

/**
 * Make an element like a fresh one, by the fewest changes: what stays keeps its focus.
 * What the fresh one listens to is lost, so this is for contents whose container listens.
 */
export function patch(element: Element, fresh: Element): void {
  if (element.isEqualNode(fresh) || isSamePicture(element, fresh)) return;
  for (const { name } of [...element.attributes])
    if (!fresh.hasAttribute(name)) element.removeAttribute(name);
  for (const { name, value } of fresh.attributes)
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  patchChildren(element, [...fresh.childNodes]);
}

/** The same for what an element holds. */
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

/** A picture whose turn has come has an address that a fresh one has not yet. */
function isSamePicture(element: Element, fresh: Element): boolean {
  return (
    element instanceof HTMLImageElement &&
    fresh instanceof HTMLImageElement &&
    element.dataset.source === fresh.dataset.source
  );
}

/** The element of index.html with this id. */
export function find(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`the page has no #${id}`);
  return element;
}

/** Tell those who hear the page, not see it. */
export function say(text: string): void {
  find("said").textContent = text;
}

/** Whether a key press is meant for a field that takes text. */
export function isTyping(event: KeyboardEvent): boolean {
  const target = event.target;
  if (!(target instanceof HTMLElement)) return false;
  if (target.closest("dialog")) return true;
  if (target instanceof HTMLInputElement) return !/^(checkbox|radio|range)$/.test(target.type);
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}
