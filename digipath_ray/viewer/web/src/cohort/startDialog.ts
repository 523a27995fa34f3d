/** Dialog that starts a run; server errors are shown at their field. */

import { ServerError, send, type Job, type Jobs } from "../page/api";
import { fill, make } from "../page/dom";
import { count } from "../page/format";
import { chosen } from "./listing";

type Field = HTMLInputElement | HTMLSelectElement;

export function startDialog({ presets, out: free }: Jobs, onQueued: () => void): void {
  const preset = make("select", { name: "preset" });
  fill(preset, ...presets.map((name) => make("option", { value: name }, name)));
  const weights = make("input", { name: "weights", placeholder: "weights of the preset" });
  const out = make("input", { name: "out", required: true, value: free });
  const start = make("button", { class: "button primary", type: "submit" }, "Start");
  const cancel = make("button", { class: "button", type: "button" }, "Cancel");
  const wrong = make("p", { class: "error", role: "alert" });
  const form = make(
    "form",
    { novalidate: true },
    make("h2", {}, `Run on ${count(chosen.size, "slide")}`),
    labeled("Preset", preset),
    labeled("Weights", weights, "Folder or bucket of the members, or random"),
    labeled("Name of the new run", out),
    make("p", { class: "quiet" }, "Runs are queued: one at a time on these GPUs."),
    wrong,
    make("div", { class: "actions" }, cancel, start),
  );
  const dialog = make("dialog", { "aria-label": "Start a run" }, form);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    start.disabled = true;
    forget([preset, weights, out], wrong);
    const asked = { preset: preset.value, weights: weights.value.trim(), out: out.value.trim() };
    send<Job>("jobs", { slides: [...chosen], ...asked }).then(
      () => {
        dialog.close();
        onQueued();
      },
      (reason: unknown) => {
        start.disabled = false;
        refuse(reason, [preset, weights, out], wrong);
      },
    );
  });
  document.body.append(dialog);
  dialog.showModal();
}

function labeled(name: string, field: Field, hint?: string): HTMLElement {
  const error = make("span", { class: "error", id: `wrong-${field.name}`, role: "alert" });
  field.setAttribute("aria-describedby", error.id);
  const label = make("label", {}, name, field, hint ? make("small", {}, hint) : null);
  return make("div", { class: "field" }, label, error);
}

function errorOf(field: Field): HTMLElement | null {
  return document.getElementById(`wrong-${field.name}`);
}

function forget(fields: Field[], wrong: HTMLElement): void {
  wrong.textContent = "";
  for (const field of fields) {
    field.removeAttribute("aria-invalid");
    errorOf(field)?.replaceChildren();
  }
}

/** An error begins with the name of its field: `out: name the run with ...` */
function refuse(reason: unknown, fields: Field[], wrong: HTMLElement): void {
  const text = reason instanceof ServerError ? reason.message : "No response from the server.";
  const field = fields.find(({ name }) => text.startsWith(`${name}: `));
  if (field === undefined) {
    wrong.textContent = text;
    return;
  }
  field.setAttribute("aria-invalid", "true");
  const error = errorOf(field);
  if (error) error.textContent = text.slice(field.name.length + 2);
  field.focus();
}
