/** Table of a slide's lesions, largest first; a click zooms to one. */

import type { Lesion } from "../page/api";
import { make } from "../page/dom";
import { formatArea, formatLength, TYPES } from "../page/format";

export class LesionList {
  readonly element: HTMLElement;
  onChoose: (lesion: Lesion | null) => void = () => undefined;
  private readonly rows: HTMLTableRowElement[];
  private at = -1;

  constructor(private readonly lesions: readonly Lesion[]) {
    this.rows = lesions.map((lesion, i) => this.row(lesion, i));
    this.element = lesions.length > 0 ? this.table() : make("p", { class: "quiet" }, "No lesions.");
  }

  /** Go to the next lesion or, with -1, the previous one; wraps around. */
  step(by: 1 | -1): void {
    const { length } = this.lesions;
    if (length === 0) return;
    const from = this.at < 0 && by < 0 ? 0 : this.at;
    this.choose((from + by + length) % length);
  }

  /** Select the smallest lesion whose box contains a point, if any. */
  chooseAt([x, y]: readonly [number, number]): void {
    const holding = this.lesions
      .map((lesion, i) => ({ lesion, i }))
      .filter(
        ({ lesion: { box } }) => box && x >= box[0] && y >= box[1] && x <= box[2] && y <= box[3],
      )
      .sort((a, b) => a.lesion.area_mm2 - b.lesion.area_mm2);
    this.mark(holding[0]?.i ?? -1);
  }

  private choose(index: number): void {
    this.mark(index);
    this.onChoose(this.lesions[index]);
  }

  private mark(index: number): void {
    this.at = index;
    this.rows.forEach((row, i) => row.classList.toggle("chosen", i === index));
    this.rows[index]?.scrollIntoView({ block: "nearest" });
    this.onMark(this.lesions[index] ?? null);
  }

  onMark: (lesion: Lesion | null) => void = () => undefined;

  private table(): HTMLElement {
    const heads = [
      ["#", ""],
      ["Area", ""],
      ["Axis", "Major axis"],
      ["Size", "Largest diameter, used by the size rule"],
      ["Mean p", "Mean probability"],
    ].map(([text, title]) => make("th", { scope: "col", title }, text));
    return make(
      "table",
      { class: "lesions" },
      make("thead", {}, make("tr", {}, ...heads)),
      make("tbody", {}, ...this.rows),
    );
  }

  private row(lesion: Lesion, index: number): HTMLTableRowElement {
    const type = lesion.type ? (TYPES[lesion.type] ?? lesion.type) : "";
    const text = lesion.counted ? type : "too small or uncertain: not counted";
    const button = make("button", { class: "link", title: text }, lesion.number);
    button.setAttribute("aria-label", `Go to lesion ${lesion.number}, ${text}`);
    const cells = [
      formatArea(1e6 * lesion.area_mm2),
      formatLength(lesion.longest_um),
      formatLength(lesion.feret_um),
      lesion.mean_p.toFixed(2),
    ].map((text) => make("td", {}, text));
    const kind = lesion.counted ? null : "passed-over";
    const row = make(
      "tr",
      { "data-lesion": lesion.number, class: kind },
      make("th", { scope: "row" }, button),
      ...cells,
    );
    row.addEventListener("click", () => this.choose(index));
    return row;
  }
}
