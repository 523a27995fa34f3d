/** Queue of runs started from the page, if the server allows it. */

import { fetchJson, send, type Job, type Jobs } from "../page/api";
import { fill, make, patchChildren, announce } from "../page/dom";
import { icon } from "../page/icons";
import { count } from "../page/format";
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
    // On failure the progress bar shows the lost connection.
    const response = await fetchJson<Jobs>("jobs").catch(() => null);
    if (until.aborted) return;
    if (response) {
      known = response;
      patchChildren(list, response.jobs.map(jobRow));
    }
    if (!response || response.jobs.some(isOpen))
      timer = window.setTimeout(() => void poll(), POLL_MS);
  };
  table.onChosen = () => {
    const number = chosen.size;
    const text = number
      ? `Start a run of ${count(number, "slide")}`
      : "Select slides to start a run";
    fill(button, icon("play"), text);
    button.disabled = number === 0;
  };
  button.addEventListener("click", () =>
    startDialog(known, () => {
      chosen.clear();
      table.markChosen();
      announce("The run is queued");
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
  if (job.open) row.append("Open its results: ", make("code", {}, job.open));
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
