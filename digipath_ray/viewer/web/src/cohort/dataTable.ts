/**
 * Sortable table with persistent rows: rows are updated in place, so that focus, scroll
 * position and selection survive the events of a running run.
 */

import { make, patch, announce, type Child } from "../page/dom";

export interface Column<T, Key extends string> {
  /** Null if not sortable. */
  sort: Key | null;
  /** Column name, also in style.css. */
  name: string;
  label: string;
  title: string;
  kind: "text" | "number";
  cell: (item: T) => Child;
}

export interface Order<Key> {
  sort: Key;
  descending: boolean;
}

interface Options<T, Key extends string> {
  name: string;
  caption: string;
  order: Order<Key>;
  keyOf: (item: T) => string;
  /** Cells before the columns, and the row's class. */
  before?: { head: HTMLTableCellElement[]; cells: (item: T) => HTMLTableCellElement[] };
  tone?: (item: T) => string;
  onSort: (sort: Key, descending: boolean) => void;
}

/** More rows are drawn on scrolling: 10,000 rows at once would freeze the page. */
const ROWS_AT_ONCE = 100;

export class DataTable<T extends object, Key extends string> {
  readonly element: HTMLElement;
  private readonly head = make("tr");
  private readonly body = make("tbody");
  private readonly table: HTMLTableElement;
  private readonly more = make("button", { class: "button more" });
  private readonly rows = new Map<string, { row: HTMLTableRowElement; item: T }>();
  private items: readonly T[] = [];
  private limit = ROWS_AT_ONCE;

  constructor(
    private readonly columns: Column<T, Key>[],
    private readonly options: Options<T, Key>,
    until: AbortSignal,
  ) {
    this.head.append(...(options.before?.head ?? []), ...columns.map((c) => this.heading(c)));
    const caption = make("caption", { class: "unseen" }, options.caption);
    const head = make("thead", {}, this.head);
    this.table = make("table", { class: options.name }, caption, head, this.body);
    this.element = make("div", {}, make("div", { class: "scroll" }, this.table), this.more);
    this.more.addEventListener("click", () => this.grow());
    const end = new IntersectionObserver(
      (seen) => seen.some((s) => s.isIntersecting) && this.grow(),
      {
        rootMargin: "600px",
      },
    );
    end.observe(this.more);
    until.addEventListener("abort", () => end.disconnect());
  }

  /** Show these items from the first. */
  show(items: readonly T[]): void {
    this.limit = ROWS_AT_ONCE;
    this.update(items);
  }

  /** @param also rows to redraw although their item is unchanged */
  update(items: readonly T[], also: (item: T) => boolean = () => false): void {
    this.items = items;
    this.markSorted();
    const focused = document.activeElement;
    const focusedAt = [...this.body.rows].findIndex((row) => row.contains(focused));
    this.place(items.slice(0, this.limit).map((item) => this.row(item, also(item))));
    if (focusedAt >= 0 && document.activeElement !== focused) this.refocus(focused, focusedAt);
    const left = Math.max(0, items.length - this.limit);
    this.more.hidden = left === 0;
    this.more.textContent = `Show ${Math.min(left, ROWS_AT_ONCE)} more of ${left}`;
    this.element.hidden = items.length === 0;
    this.table.setAttribute("aria-rowcount", String(items.length + 1));
  }

  private grow(): void {
    if (this.limit >= this.items.length) return;
    this.limit += ROWS_AT_ONCE;
    this.update(this.items);
  }

  /** Rows in the right place are not touched: a moved row loses focus. */
  private place(rows: HTMLTableRowElement[]): void {
    const kept = new Set(rows);
    for (const row of [...this.body.rows]) if (!kept.has(row)) row.remove();
    let at = this.body.firstElementChild;
    for (const row of rows) {
      if (row === at) at = at.nextElementSibling;
      else this.body.insertBefore(row, at);
    }
  }

  /** Restore the focus; if its row is gone, to the row in its place. */
  private refocus(focused: Element | null, at: number): void {
    const { rows } = this.body;
    const there = rows[Math.min(at, rows.length - 1)]?.querySelector<HTMLElement>("a");
    const to = focused?.isConnected ? (focused as HTMLElement) : there;
    to?.focus({ preventScroll: true });
  }

  private row(item: T, forced: boolean): HTMLTableRowElement {
    const key = this.options.keyOf(item);
    const kept = this.rows.get(key);
    if (kept && kept.item === item && !forced) return kept.row;
    const row =
      kept?.row ?? make("tr", { "data-key": key }, ...(this.options.before?.cells(item) ?? []));
    const cells = this.columns.map((column, i) => this.cell(column, item, i === 0));
    if (kept) {
      const own = [...row.cells].slice(-cells.length);
      cells.forEach((cell, i) => own[i] && patch(own[i], cell));
    } else row.append(...cells);
    row.className = this.options.tone?.(item) ?? "";
    this.rows.set(key, { row, item });
    return row;
  }

  private cell(column: Column<T, Key>, item: T, names: boolean): HTMLTableCellElement {
    const kind = { class: `${column.kind} of-${column.name}` };
    const content = column.cell(item);
    return names ? make("th", { scope: "row", ...kind }, content) : make("td", kind, content);
  }

  private heading(column: Column<T, Key>): HTMLTableCellElement {
    const { sort, label, title, kind, name } = column;
    const head = make("th", {
      class: `${kind} of-${name}`,
      scope: "col",
      "data-sort": sort,
      title,
    });
    if (sort === null) {
      head.append(label);
      return head;
    }
    const button = make("button", { class: "sort" }, label);
    button.addEventListener("click", () => {
      const { order, onSort } = this.options;
      // Names sort ascending first, numbers descending.
      const descending = order.sort === sort ? !order.descending : kind === "number";
      onSort(sort, descending);
      announce(`Sorted by ${label}, ${descending ? "descending" : "ascending"}`);
    });
    head.append(button);
    return head;
  }

  private markSorted(): void {
    const { sort, descending } = this.options.order;
    for (const head of this.head.querySelectorAll<HTMLElement>("[data-sort]")) {
      if (head.dataset.sort === sort)
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }
}
