/** Table of slides. */

import type { Entry } from "../page/api";
import { make } from "../page/dom";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { toneOf } from "../page/format";
import { DataTable } from "./dataTable";
import { arrange, chosen, listing, type SortKey } from "./listing";
import { columnsOf } from "./slideColumns";
import { thumbnail } from "./thumbnails";

export class SlideTable {
  readonly element: HTMLElement;
  onChosen: () => void = () => undefined;
  /** Listed slides, in order. */
  shown: Entry[] = [];
  private readonly table: DataTable<Entry, SortKey>;
  private readonly all = make("input", {
    type: "checkbox",
    "aria-label": "Select all listed slides",
  });

  constructor(
    private readonly live: Live,
    onSort: (sort: SortKey, descending: boolean) => void,
    until: AbortSignal,
  ) {
    const before = { head: this.firstHeads(), cells: (entry: Entry) => this.firstCells(entry) };
    const caption = "Slides. Buttons in the header sort.";
    const keyOf = (entry: Entry) => entry.key;
    this.table = new DataTable(
      columnsOf(live),
      { name: "slides", caption, order: listing, keyOf, before, tone: toneOf, onSort },
      until,
    );
    this.element = this.table.element;
    this.element.addEventListener("click", openRow);
    this.all.addEventListener("change", () => this.chooseAll());
  }

  /** Show the listing from its first row. */
  show(): void {
    this.table.show(this.arrange());
    this.markChosen();
  }

  /** Update to the run; visible rows stay in place. */
  update(keys: ReadonlySet<string>, patientsChanged: boolean): void {
    this.table.update(this.arrange(), ({ key }) => patientsChanged || keys.has(key));
    this.markChosen();
  }

  private arrange(): Entry[] {
    const { slides, patients } = this.live.cohort;
    return (this.shown = arrange(slides, patients, listing));
  }

  private firstHeads(): HTMLTableCellElement[] {
    const picture = make("th", { class: "picture", scope: "col" });
    picture.append(make("span", { class: "unseen" }, "Thumbnail"));
    if (!this.live.cohort.allow_run) return [picture];
    return [make("th", { class: "choose", scope: "col" }, this.all), picture];
  }

  private firstCells(entry: Entry): HTMLTableCellElement[] {
    const picture = make("td", { class: "picture" }, thumbnail(entry));
    if (!this.live.cohort.allow_run) return [picture];
    return [make("td", { class: "choose" }, this.chooseBox(entry)), picture];
  }

  private chooseBox({ key, slide_id }: Entry): HTMLInputElement {
    const box = make("input", { type: "checkbox", "aria-label": `Select ${slide_id}` });
    box.dataset.choose = key;
    box.checked = chosen.has(key);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(key);
      else chosen.delete(key);
      this.markChosen();
    });
    return box;
  }

  private chooseAll(): void {
    for (const { key } of this.shown) {
      if (this.all.checked) chosen.add(key);
      else chosen.delete(key);
    }
    this.markChosen();
  }

  markChosen(): void {
    if (!this.live.cohort.allow_run) return;
    for (const box of this.element.querySelectorAll<HTMLInputElement>("[data-choose]"))
      box.checked = chosen.has(box.dataset.choose ?? "");
    const some = this.shown.some(({ key }) => chosen.has(key));
    this.all.checked = some && this.shown.every(({ key }) => chosen.has(key));
    this.all.indeterminate = some && !this.all.checked;
    this.onChosen();
  }
}

/** A click in a row opens its slide, unless on a control or while selecting text. */
function openRow(event: MouseEvent): void {
  const target = event.target as Element;
  const key = target.closest<HTMLElement>("tbody tr")?.dataset.key;
  if (!key || target.closest("a, button, input, .choose")) return;
  if (!window.getSelection()?.toString()) location.hash = hrefs.slide(key);
}
