/** The first page: the night, and its slides or patients. */

import { url } from "../page/api";
import { fill, isTyping, make } from "../page/dom";
import { icon } from "../page/icons";
import { FILTERS, listing, type Filter } from "./listing";
import type { Live } from "../page/live";
import { nightBar } from "./night";
import { patientTable } from "./patients";
import { hrefs } from "../page/route";
import { runControls } from "./runs";
import { sayShown, SlideTable } from "./slideTable";

export function showCohort(
  main: HTMLElement,
  live: Live,
  tab: "slides" | "patients",
  until: AbortSignal,
): void {
  const notes = live.cohort.notes.map((note) => make("p", { class: "note" }, note));
  const parts: HTMLElement[] = [...notes, nightBar(live, until)];
  if (live.cohort.patients.length > 0) parts.push(tabs(live, tab));
  if (tab === "patients") parts.push(patients(live, until));
  else parts.push(...slides(live, until));
  fill(main, make("div", { class: "page" }, ...parts));
}

function tabs(live: Live, tab: "slides" | "patients"): HTMLElement {
  const { slides, patients } = live.cohort;
  const link = (name: "slides" | "patients", text: string) =>
    make("a", { href: hrefs[name], "aria-current": tab === name ? "page" : null }, text);
  return make(
    "nav",
    { class: "tabs", "aria-label": "Slides or patients" },
    link("slides", `Slides ${slides.length}`),
    link("patients", `Patients ${patients.length}`),
  );
}

function patients(live: Live, until: AbortSignal): HTMLElement {
  const holder = make("div");
  const draw = () => fill(holder, patientTable(live.cohort));
  live.watch((part) => part === "patients" && draw(), until);
  draw();
  return holder;
}

function slides(live: Live, until: AbortSignal): HTMLElement[] {
  const table = new SlideTable(live, until);
  const controls = make("div", { class: "controls" });
  const number = make("span", { class: "quiet", role: "status" });
  const chips = make("div", { class: "filters", role: "group", "aria-label": "Show" });
  const drawControls = () => {
    number.textContent = sayShown(live.cohort);
    fill(chips, ...filterChips(live, redraw));
  };
  const redraw = () => {
    table.draw();
    drawControls();
  };
  const first = attentionButton(table);
  const isRun = live.cohort.kind === "run";
  fill(
    controls,
    searchField(redraw, until),
    isRun && first,
    isRun && chips,
    make("div", { class: "end" }, number, isRun && exportLink()),
  );
  live.watch((part) => part === "slides" && drawControls(), until);
  drawControls();
  const runs = live.cohort.allow_run ? [runControls(table, live, until)] : [];
  return [controls, ...runs, table.element];
}

function searchField(redraw: () => void, until: AbortSignal): HTMLElement {
  const field = make("input", {
    type: "search",
    placeholder: "Search slides, findings",
    "aria-label": "Search slides, findings",
    "aria-keyshortcuts": "/",
  });
  field.value = listing.search;
  field.addEventListener("input", () => {
    listing.search = field.value;
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

/** Failed and uncertain slides first, in one click; a second click: by name. */
function attentionButton(table: SlideTable): HTMLButtonElement {
  const button = make("button", { class: "button toggle" }, "Needs attention first");
  const draw = () => {
    const on = listing.sort === "attention" && listing.descending;
    button.setAttribute("aria-pressed", String(on));
  };
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") === "true";
    table.sortBy(on ? "slide" : "attention", !on);
  });
  table.onSorted = draw;
  draw();
  return button;
}

function filterChips(live: Live, redraw: () => void): HTMLElement[] {
  const names = Object.keys(FILTERS) as Filter[];
  const counted = names.map((name) => ({
    name,
    number: live.cohort.slides.filter(FILTERS[name].holds).length,
  }));
  return counted
    .filter(({ name, number }) => name === "all" || number > 0 || listing.filter === name)
    .map(({ name, number }) => {
      const pressed = String(listing.filter === name);
      const chip = make(
        "button",
        { class: "filter", "aria-pressed": pressed, "data-filter": name },
        FILTERS[name].label,
        make("span", { class: "number" }, number),
      );
      chip.addEventListener("click", () => {
        listing.filter = name;
        redraw();
        document.querySelector<HTMLElement>(`[data-filter=${name}]`)?.focus();
      });
      return chip;
    });
}

function exportLink(): HTMLElement {
  const link = make("a", { class: "button", href: url.exportedCohort, download: true });
  link.append(icon("save"), "CSV");
  link.title = "Outcomes of all slides as a table";
  return link;
}
