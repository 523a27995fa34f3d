/** Runs started from the page, one after the other; only where the server allows it. */

import { ask, send, type Job, type Jobs } from "../page/api";
import { fill, make, patchChildren, say } from "../page/dom";
import { icon } from "../page/icons";
import { count } from "../page/words";
import { chosen } from "./listing";
import type { SlideTable } from "./slideTable";
import { startDialog } from "./startDialog";

const POLL_MS = 5000;

export function runControls(table: SlideTable, until: AbortSignal): HTMLElement {
  const list = make("ul", { class: "jobs", "aria-label": "Runs started here" });
  const button = make("button", { class: "button primary" });
  let known: Jobs = { jobs: [], presets: [], out: "" };
  let timer = 0;
  const poll = async () => {
    window.clearTimeout(timer);
    const told = await ask<Jobs>("jobs").catch(() => null); // the bar says that it is silent
    if (until.aborted) return;
    if (told) {
      known = told;
      patchChildren(list, told.jobs.map(jobRow));
    }
    if (!told || told.jobs.some(isOpen)) timer = window.setTimeout(() => void poll(), POLL_MS);
  };
  table.onChosen = () => {
    const number = chosen.size;
    const text = number
      ? `Start a run of ${count(number, "slide")}`
      : "To start a run, choose slides";
    fill(button, icon("play"), text);
    button.disabled = number === 0;
  };
  button.addEventListener("click", () =>
    startDialog(known, () => {
      chosen.clear();
      table.markChosen();
      say("The run is queued");
      void poll();
    }),
  );
  list.addEventListener("click", ({ target }) => {
    const id = (target as HTMLElement).dataset.cancel;
    if (id !== undefined) void send(`jobs/${id}/cancel`, {}).then(poll, poll);
  });
  table.onChosen();
  void poll();
  return make("section", { class: "run-controls", "aria-label": "Runs" }, button, list);
}

function jobRow(job: Job): HTMLElement {
  const text = `${job.preset}, ${count(job.slides, "slide")}, to ${job.out}`;
  const row = make("li", {}, make("b", {}, job.state), ` ${text} `);
  const last = job.output.at(-1);
  if (job.state === "failed" && last) row.append(make("span", { class: "error-text" }, last));
  if (job.open) row.append("To see its results: ", make("code", {}, job.open));
  if (isOpen(job)) {
    const label = `Cancel the run to ${job.out}`;
    row.append(
      make(
        "button",
        { class: "button small", "data-cancel": job.id, "aria-label": label },
        "Cancel",
      ),
    );
  }
  return row;
}

function isOpen(job: Job): boolean {
  return job.state === "queued" || job.state === "running";
}
