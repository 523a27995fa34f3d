/** Cohort page: the run, and its slides or patients. */

import { url } from "../page/api";
import { fill, make, patchChildren, announce } from "../page/dom";
import { icon } from "../page/icons";
import type { Live, Part } from "../page/live";
import { hrefs } from "../page/route";
import { count } from "../page/format";
import { Chips, Emptiness, searchField } from "./controls";
import { announceLandings } from "./landings";
import { FILTERS, listing, PATIENT_FILTERS, patientListing, type SortKey } from "./listing";
import { runProgress } from "./runProgress";
import { PatientTable } from "./patientTable";
import { runControls } from "./runs";
import { SlideTable } from "./slideTable";

type Tab = "slides" | "patients";

export function showCohort(main: HTMLElement, live: Live, tab: Tab, until: AbortSignal): void {
  const head = make("div");
  const draw = () =>
    patchChildren(head, [
      make("h1", { class: "unseen" }, `${live.cohort.title}: ${tab}`),
      ...live.cohort.notes.map((note) => make("p", { class: "note" }, note)),
    ]);
  live.watch((part) => part === "about" && draw(), until);
  draw();
  const parts = tab === "patients" ? patients(live, until) : slides(live, until);
  fill(
    main,
    make(
      "div",
      { class: "page" },
      head,
      runProgress(live, until),
      tabs(live, tab, until),
      ...parts,
    ),
  );
  announceLandings(live, until);
}

function tabs(live: Live, tab: Tab, until: AbortSignal): HTMLElement {
  const nav = make("nav", { class: "tabs", "aria-label": "Slides or patients" });
  const link = (name: Tab, text: string) =>
    make("a", { href: hrefs[name], "aria-current": tab === name ? "page" : null }, text);
  const draw = () => {
    const { slides, patients } = live.cohort;
    nav.hidden = patients.length === 0 && tab === "slides";
    patchChildren(nav, [
      link("slides", `Slides ${slides.length}`),
      link("patients", `Patients ${patients.length}`),
    ]);
  };
  live.watch((part) => (part === "patients" || part === "slides") && draw(), until);
  draw();
  return nav;
}

function slides(live: Live, until: AbortSignal): HTMLElement[] {
  const isRun = live.cohort.kind === "run";
  const number = make("span", { class: "quiet", role: "status" });
  const orders = make("div", { class: "filters", role: "group", "aria-label": "Order" });
  const redraw = () => {
    table.show();
    drawRest();
  };
  const order = (sort: SortKey, descending: boolean) => {
    Object.assign(listing, { sort, descending });
    redraw();
  };
  const table = new SlideTable(live, order, until);
  const chips = new Chips(FILTERS, listing, redraw);
  const empty = new Emptiness(listing, redraw);
  const drawRest = () => {
    const all = live.cohort.slides;
    number.textContent = formatShown(table.shown.length, all.length, "slide");
    chips.draw(all);
    empty.draw(table.shown.length, all.length, "slide", formatNoSlides(live));
    patchChildren(orders, ORDERS.map(orderButton));
  };
  orders.addEventListener("click", (event) => {
    const sort = (event.target as HTMLElement).dataset.order as SortKey | undefined;
    if (sort === undefined) return;
    if (isFirst(sort)) order("slide", false);
    else order(sort, true);
    announce((event.target as HTMLElement).textContent ?? "");
  });
  const follow = together((parts, keys) => {
    table.update(keys, parts.has("patients"));
    drawRest();
  }, until);
  live.watch(
    (part, keys) => (part === "slides" || part === "patients") && follow(part, keys),
    until,
  );
  redraw();
  const find = searchField("slides, findings", listing, redraw, until);
  const end = make("div", { class: "end" }, number, isRun && exportLink());
  const controls = make(
    "div",
    { class: "controls" },
    find,
    isRun && orders,
    isRun && chips.element,
    end,
  );
  const runs = live.cohort.allow_run ? [runControls(table, until)] : [];
  return [controls, ...runs, table.element, empty.element];
}

function patients(live: Live, until: AbortSignal): HTMLElement[] {
  const number = make("span", { class: "quiet", role: "status" });
  const redraw = () => {
    table.show();
    drawRest();
  };
  const table = new PatientTable(
    live,
    (sort, descending) => {
      Object.assign(patientListing, { sort, descending });
      redraw();
    },
    until,
  );
  const chips = new Chips(PATIENT_FILTERS, patientListing, redraw);
  const empty = new Emptiness(patientListing, redraw);
  const drawRest = () => {
    const all = live.cohort.patients;
    number.textContent = formatShown(table.shown.length, all.length, "patient");
    chips.draw(all);
    empty.draw(table.shown.length, all.length, "patient", "No slide has a patient.");
  };
  const follow = together((_, keys) => {
    table.update(keys);
    drawRest();
  }, until);
  live.watch(
    (part, keys) => (part === "slides" || part === "patients") && follow(part, keys),
    until,
  );
  redraw();
  const find = searchField("patients, stages", patientListing, redraw, until);
  const end = make("div", { class: "end" }, number);
  const controls = make("div", { class: "controls" }, find, chips.element, end);
  return [controls, table.element, empty.element];
}

type Draw = (parts: ReadonlySet<Part>, keys: ReadonlySet<string>) => void;

/** Draw at most once per frame. */
function together(draw: Draw, until: AbortSignal): (part: Part, keys: ReadonlySet<string>) => void {
  let parts = new Set<Part>();
  let keys = new Set<string>();
  return (part, changed) => {
    if (parts.size === 0)
      requestAnimationFrame(() => {
        const [now, news] = [parts, keys];
        [parts, keys] = [new Set(), new Set()];
        if (!until.aborted) draw(now, news);
      });
    parts.add(part);
    for (const key of changed) keys.add(key);
  };
}

const ORDERS = [
  {
    sort: "attention",
    label: "Failures first",
    title: "Failed, then flagged and borderline slides",
  },
  {
    sort: "unsure",
    label: "Uncertain first",
    title: "Where the members of the ensemble disagree most",
  },
] as const;

function isFirst(sort: SortKey): boolean {
  return listing.sort === sort && listing.descending;
}

/** First click: this order; second click: by name. */
function orderButton({ sort, label, title }: (typeof ORDERS)[number]): HTMLElement {
  const pressed = String(isFirst(sort));
  return make(
    "button",
    { class: "button toggle", "aria-pressed": pressed, "data-order": sort, title },
    label,
  );
}

function formatShown(shown: number, all: number, noun: string): string {
  return shown === all ? count(all, noun) : `${shown} of ${count(all, noun)}`;
}

function formatNoSlides({ cohort }: Live): string {
  if (cohort.kind === "folder") return "No slides were found in this folder.";
  return "No slides yet: they appear as the run finds their tissue.";
}

function exportLink(): HTMLElement {
  const link = make("a", { class: "button", href: url.exportedCohort, download: true });
  link.append(icon("save"), "All slides (CSV)");
  return link;
}
