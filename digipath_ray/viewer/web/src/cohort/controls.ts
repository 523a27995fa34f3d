/** Controls above a table: search field, filters with counts, orders. */

import { isTyping, make, patchChildren } from "../page/dom";
import type { Filters, Listing } from "./listing";

export function searchField(
  what: string,
  how: Listing<unknown>,
  redraw: () => void,
  until: AbortSignal,
): HTMLElement {
  const label = `Search ${what}`;
  const field = make("input", {
    type: "search",
    placeholder: "Search",
    "aria-label": label,
    "aria-keyshortcuts": "/",
  });
  field.value = how.search;
  field.addEventListener("input", () => {
    how.search = field.value;
    redraw();
  });
  const jump = (event: KeyboardEvent) => {
    if (event.key !== "/" || isTyping(event)) return;
    event.preventDefault();
    field.focus();
  };
  document.addEventListener("keydown", jump, { signal: until });
  return make("div", { class: "search" }, field);
}

/** Filters without matches are hidden, unless active. */
export class Chips<T> {
  readonly element = make("div", { class: "filters", role: "group", "aria-label": "Show" });

  constructor(
    private readonly filters: Filters<T>,
    private readonly how: Listing<unknown>,
    redraw: () => void,
  ) {
    this.element.addEventListener("click", ({ target }) => {
      const name = (target as Element).closest<HTMLElement>("[data-filter]")?.dataset.filter;
      if (name === undefined) return;
      how.filter = name;
      redraw();
    });
  }

  draw(items: readonly T[]): void {
    const chips: HTMLElement[] = [];
    for (const [name, { label, holds }] of Object.entries(this.filters)) {
      const number = items.filter(holds).length;
      if (number === 0 && name !== "all" && this.how.filter !== name) continue;
      const on = String(this.how.filter === name);
      const badge = make("span", { class: "number" }, ` ${number}`);
      chips.push(
        make("button", { class: "filter", "aria-pressed": on, "data-filter": name }, label, badge),
      );
    }
    patchChildren(this.element, chips);
    this.element.hidden = chips.length < 2;
  }
}

/** Placeholder of an empty table, with a button to reset search and filter. */
export class Emptiness {
  private readonly text = make("p");
  private readonly clear = make("button", { class: "button" }, "Show all");
  readonly element = make("div", { class: "empty" }, this.text, this.clear);

  constructor(
    private readonly how: Listing<unknown>,
    redraw: () => void,
  ) {
    this.clear.addEventListener("click", () => {
      Object.assign(how, { search: "", filter: "all" });
      const field = document.querySelector<HTMLInputElement>("input[type=search]");
      if (field) field.value = "";
      redraw();
      field?.focus();
    });
  }

  /** @param nothing text if there are no items at all */
  draw(shown: number, all: number, noun: string, nothing: string): void {
    this.element.hidden = shown > 0;
    this.clear.hidden = all === 0;
    const search = this.how.search.trim();
    const found = search
      ? `No ${noun} matches \u201c${search}\u201d here.`
      : `No ${noun} matches this filter.`;
    this.text.textContent = all === 0 ? nothing : found;
  }
}
