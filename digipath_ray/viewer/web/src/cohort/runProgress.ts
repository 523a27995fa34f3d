/** Progress of a run: fraction, speed, bottleneck, failures. */

import type { Cohort, Status } from "../page/api";
import { make, patchChildren } from "../page/dom";
import type { Live } from "../page/live";
import { count, digits, formatDuration } from "../page/format";

const STATES: Record<Status["state"], string> = {
  running: "Running",
  done: "Finished",
  stopped: "Stopped",
  dead: "Not responding",
};
const PHASES: Record<string, string> = {
  prepare: "finding tissue",
  measure: "remeasuring",
  segment: "segmenting",
};

/** Section that follows the run; empty for a folder of slides. */
export function runProgress(live: Live, until: AbortSignal): HTMLElement {
  const section = make("section", { class: "run-progress", "aria-label": "The run" });
  const draw = () => patchChildren(section, describe(live.cohort, live.connected));
  live.watch((part) => part !== "patients" && draw(), until);
  draw();
  return section;
}

function describe(cohort: Cohort, connected: boolean): HTMLElement[] {
  const status = cohort.status;
  const lost = connected
    ? []
    : [make("p", { class: "error", role: "alert" }, "The server does not respond. Retrying.")];
  if (status === null) return lost;
  const bar = make(
    "div",
    { class: `run-progress-bar ${status.state}` },
    heading(status),
    progress(cohort, status),
    numbers(status),
  );
  return [...lost, bar, ...firstLanding(cohort, status)];
}

function heading(status: Status): HTMLElement {
  const running = status.state === "running";
  const doing = running ? PHASES[status.phase] : undefined;
  const why = status.state === "dead" ? `since ${formatTime(status.updated)}` : status.why;
  const more = doing ?? why;
  return make(
    "p",
    { class: "run-progress-state" },
    make("span", { class: "dot", "aria-hidden": true }),
    make("b", {}, STATES[status.state]),
    more ? make("span", { class: "quiet" }, more) : null,
  );
}

function progress(cohort: Cohort, status: Status): HTMLElement {
  const failed = formatFailed(cohort, status);
  const ended = cohort.slides.filter((entry) => entry.status === "done").length;
  const part = status.patches > 0 ? status.patches_done / status.patches : 0;
  const share = status.state === "done" ? 1 : part;
  const meter = make("progress", { max: 1, value: share, "aria-label": "Patches predicted" });
  const text = `${ended} of ${count(status.slides, "slide")}`;
  return make(
    "div",
    { class: "run-progress-done" },
    meter,
    make(
      "span",
      {},
      text,
      failed ? make("b", { class: "failed-text" }, ` \u00b7 ${failed}`) : null,
    ),
  );
}

/** With very many failures, the names of the first are dropped. */
function formatFailed({ slides }: Cohort, status: Status): string {
  const listed = slides.filter((entry) => entry.status === "failed").length;
  const more = status.unnamed ?? Math.max(0, status.failed - listed);
  if (listed === 0) return more ? `${more} failed` : "";
  return more ? `${listed} failed and ${more} more failed` : `${listed} failed`;
}

function numbers(status: Status): HTMLElement {
  const running = status.state === "running";
  const pairs: [string, string | null][] = [
    ["slides/h", status.slides_per_h === null ? null : digits(status.slides_per_h)],
    ["patches/s", status.patches_per_s === null ? null : digits(status.patches_per_s)],
    ["left", running && status.eta_s !== null ? formatDuration(status.eta_s) : null],
    ["bottleneck", running ? status.bottleneck : null],
  ];
  const shown = pairs.filter((pair): pair is [string, string] => pair[1] !== null);
  return make(
    "dl",
    { class: "run-progress-numbers" },
    ...shown.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
}

/** Explains the lack of findings until a slide is done. */
function firstLanding({ slides }: Cohort, status: Status): HTMLElement[] {
  if (slides.length === 0 || slides.some((entry) => entry.status === "done")) return [];
  const text =
    status.state === "running"
      ? "No slide is done yet. Findings appear as slides are finished."
      : "The run ended before any slide was done.";
  return [make("p", { class: "quiet first-landing" }, text)];
}

function formatTime(iso: string): string {
  return new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
