/** Runs started from the page, one after the other; only where the server allows it. */

import { ask, Refusal, send, type Job } from "../page/api";
import { fill, make, say } from "../page/dom";
import { icon } from "../page/icons";
import type { Live } from "../page/live";
import type { SlideTable } from "./slideTable";
import { count } from "../page/words";

const POLL_MS = 5000;

interface Jobs {
  jobs: Job[];
}

const PRESETS = ["camelyon16", "camelyon17", "paip2019", "digestpath2019", "glas", "demo"];

export function runControls(table: SlideTable, live: Live, until: AbortSignal): HTMLElement {
  const list = make("ul", { class: "jobs" });
  const button = make("button", { class: "button primary" });
  const draw = () => {
    const number = table.chosen.size;
    fill(
      button,
      icon("play"),
      number ? `Start a run of ${count(number, "slide")}` : "Start a run: choose slides first",
    );
    button.disabled = number === 0;
  };
  const poll = async () => {
    const { jobs } = await ask<Jobs>("jobs");
    if (until.aborted) return;
    fill(list, ...jobs.map((job) => jobRow(job, poll)));
    if (jobs.some(isOpen)) {
      window.setTimeout(() => !until.aborted && void poll(), POLL_MS);
    }
  };
  button.addEventListener("click", () => startDialog([...table.chosen], live, poll));
  table.onChosen = draw;
  draw();
  void poll();
  return make("section", { class: "run-controls", "aria-label": "Runs" }, button, list);
}

function jobRow(job: Job, poll: () => Promise<void>): HTMLElement {
  const text = `${job.preset}, ${count(job.slides, "slide")}, to ${job.out}`;
  const row = make("li", {}, make("b", {}, job.state), ` ${text} `);
  const last = job.said.at(-1);
  if (job.state === "failed" && last) row.append(make("span", { class: "error-text" }, last));
  if (isOpen(job)) {
    const cancel = make("button", { class: "button small" }, "Cancel");
    cancel.addEventListener("click", () => {
      cancel.disabled = true;
      void send(`jobs/${job.id}/cancel`, {}).then(poll);
    });
    row.append(cancel);
  }
  return row;
}

function isOpen(job: Job): boolean {
  return job.state === "queued" || job.state === "running";
}

function startDialog(slides: string[], live: Live, poll: () => Promise<void>): void {
  const preset = make("select", { name: "preset", required: true });
  fill(preset, ...PRESETS.map((name) => make("option", { value: name }, name)));
  const weights = make("input", { name: "weights", placeholder: "those of the preset" });
  const out = make("input", { name: "out", required: true, value: suggestName(live) });
  out.pattern = "[A-Za-z0-9][A-Za-z0-9_.\\-]*";
  out.title = "Letters, digits, dots, dashes and underscores";
  const wrong = make("p", { class: "error", role: "alert" });
  const start = make("button", { class: "button primary", type: "submit" }, "Start");
  const cancel = make("button", { class: "button", type: "button" }, "Not now");
  const form = make(
    "form",
    {},
    make("h2", {}, `Run on ${count(slides.length, "slide")}`),
    make("label", {}, "Preset", preset),
    make("label", {}, "Weights", weights, make("small", {}, "a folder or bucket with the members")),
    make("label", {}, "Name of the new run", out),
    make("p", { class: "quiet" }, "Runs wait for one another: one at a time on these GPUs."),
    wrong,
    make("div", { class: "actions" }, cancel, start),
  );
  const dialog = make("dialog", { "aria-label": "Start a run" }, form);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start.disabled = true;
    const asked = { slides, preset: preset.value, weights: weights.value, out: out.value };
    send<Job>("jobs", asked).then(
      () => {
        dialog.close();
        say("The run is queued");
        void poll();
      },
      (reason: unknown) => {
        start.disabled = false;
        wrong.textContent =
          reason instanceof Refusal ? `${reason.message} ${reason.hint}` : "No answer.";
      },
    );
  });
  document.body.append(dialog);
  dialog.showModal();
}

function suggestName(live: Live): string {
  const day = new Date().toISOString().slice(0, 10);
  const title = live.cohort.title.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "");
  return `${title || "run"}-${day}`;
}
