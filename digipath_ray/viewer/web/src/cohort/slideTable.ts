/** The table of slides: sorted by a click on a heading, kept up while a run goes on. */

import { url, type Cohort, type Entry } from "../page/api";
import { fill, make, say } from "../page/dom";
import { arrange, listing, type SortKey } from "./listing";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { columnsOf, type Column } from "./slideColumns";
import { count, toneOf } from "../page/words";

const ROWS_AT_ONCE = 200;

export class SlideTable {
  readonly element: HTMLElement;
  /** Slides chosen for a run. */
  readonly chosen = new Set<string>();
  onChosen: () => void = () => undefined;
  onSorted: () => void = () => undefined;
  private readonly head = make("thead");
  private readonly body = make("tbody");
  private readonly more = make("button", { class: "button" });
  private readonly empty = make("p", { class: "empty" });
  private readonly rows = new Map<string, HTMLTableRowElement>();
  private limit = ROWS_AT_ONCE;

  constructor(
    private readonly live: Live,
    until: AbortSignal,
  ) {
    const table = make("table", { class: "slides" }, this.head, this.body);
    const scroll = make("div", { class: "scroll" }, table);
    this.element = make("div", {}, scroll, this.empty, this.more);
    this.more.addEventListener("click", () => {
      this.limit += ROWS_AT_ONCE;
      this.draw();
    });
    live.watch((part, keys) => {
      for (const key of keys) this.rows.delete(key);
      if (part === "patients") this.rows.clear();
      if (part !== "status") this.draw();
    }, until);
    this.draw();
  }

  /** Draw heading and rows anew; rows whose slide did not change are kept. */
  draw(): void {
    const { cohort } = this.live;
    const columns = columnsOf(cohort);
    const shown = arrange(cohort.slides, cohort.patients, listing);
    const focused = document.activeElement;
    fill(this.head, this.headRow(columns));
    fill(this.body, ...shown.slice(0, this.limit).map((entry) => this.row(entry, columns)));
    if (focused instanceof HTMLElement && this.body.contains(focused)) focused.focus();
    const left = shown.length - this.limit;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(left, ROWS_AT_ONCE)} more of ${left}`;
    this.empty.hidden = shown.length > 0;
    this.empty.textContent =
      cohort.slides.length === 0 ? "No slides were found here." : "No slide matches.";
  }

  sortBy(sort: SortKey, descending: boolean): void {
    Object.assign(listing, { sort, descending });
    this.draw();
    this.onSorted();
    say(`Sorted by ${sort}, ${descending ? "highest" : "lowest"} first`);
  }

  private headRow(columns: Column[]): HTMLTableRowElement {
    const cells = columns.map((column) => this.heading(column));
    const choose = this.live.cohort.allow_run
      ? [make("th", { class: "choose" }, this.chooseAll())]
      : [];
    return make(
      "tr",
      {},
      ...choose,
      make("th", { class: "picture" }, make("span", { class: "unseen" }, "Thumbnail")),
      ...cells,
    );
  }

  private heading(column: Column): HTMLTableCellElement {
    const sorted = listing.sort === column.sort;
    const order = listing.descending ? "descending" : "ascending";
    const button = make("button", { class: "sort", title: column.title }, column.label);
    button.addEventListener("click", () => {
      // Names are read from A on; of numbers the highest matter.
      const first = column.kind === "number";
      this.sortBy(column.sort, sorted ? !listing.descending : first);
      this.head.querySelector<HTMLElement>("th[aria-sort] button")?.focus();
    });
    const sort = sorted ? order : null;
    return make(
      "th",
      { class: `${column.kind} of-${column.sort}`, scope: "col", "aria-sort": sort },
      button,
    );
  }

  private row(entry: Entry, columns: Column[]): HTMLTableRowElement {
    const kept = this.rows.get(entry.key);
    if (kept) return kept;
    const choose = this.live.cohort.allow_run
      ? [make("td", { class: "choose" }, this.chooseBox(entry))]
      : [];
    const row = make(
      "tr",
      { class: toneOf(entry), "data-key": entry.key },
      ...choose,
      make("td", { class: "picture" }, thumbnail(entry)),
      ...columns.map((c) => make("td", { class: `${c.kind} of-${c.sort}` }, c.cell(entry))),
    );
    row.addEventListener("click", (event) => {
      const control = (event.target as Element).closest("a, button, input, label");
      if (control === null && !window.getSelection()?.toString())
        location.hash = hrefs.slide(entry.key);
    });
    this.rows.set(entry.key, row);
    return row;
  }

  private chooseBox(entry: Entry): HTMLInputElement {
    const label = `Choose ${entry.slide_id}`;
    const box = make("input", { type: "checkbox", "aria-label": label });
    box.checked = this.chosen.has(entry.key);
    box.addEventListener("change", () => {
      if (box.checked) this.chosen.add(entry.key);
      else this.chosen.delete(entry.key);
      this.onChosen();
    });
    return box;
  }

  private chooseAll(): HTMLInputElement {
    const { cohort } = this.live;
    const shown = arrange(cohort.slides, cohort.patients, listing);
    const box = make("input", { type: "checkbox", "aria-label": "Choose all listed slides" });
    box.checked = shown.length > 0 && shown.every((entry) => this.chosen.has(entry.key));
    box.addEventListener("change", () => {
      for (const { key } of shown) {
        if (box.checked) this.chosen.add(key);
        else this.chosen.delete(key);
      }
      this.rows.clear();
      this.draw();
      this.onChosen();
    });
    return box;
  }
}

export function thumbnail(entry: { key: string; thumbnail: boolean }): HTMLElement {
  if (!entry.thumbnail) return make("span", { class: "no-picture", "aria-hidden": true });
  return make("img", {
    src: url.thumbnail(entry.key),
    alt: "",
    loading: "lazy",
    decoding: "async",
  });
}

export function sayShown(cohort: Cohort): string {
  const shown = arrange(cohort.slides, cohort.patients, listing).length;
  if (shown === cohort.slides.length) return count(shown, "slide");
  return `${shown} of ${count(cohort.slides.length, "slide")}`;
}
