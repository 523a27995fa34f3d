/** What stands in place of a slide that cannot be shown. */

import { Refusal, type Slide } from "../page/api";
import { make } from "../page/dom";
import { hrefs } from "../page/route";

export function unreadable({ image_error, failure }: Slide): HTMLElement {
  const why = image_error ?? failure;
  return message(why?.error ?? "Its size is not known.", why?.hint ?? "");
}

export function refusal(reason: unknown): HTMLElement {
  const text = reason instanceof Error ? reason.message : String(reason);
  return message(text, reason instanceof Refusal ? reason.hint : "");
}

function message(text: string, hint: string): HTMLElement {
  return make(
    "div",
    { class: "page" },
    make(
      "section",
      { class: "card refusal", role: "alert" },
      make("h1", {}, "This slide cannot be shown"),
      make("p", {}, text),
      hint ? make("p", { class: "quiet" }, hint) : null,
      make("p", {}, make("a", { href: hrefs.slides }, "Back to the cohort")),
    ),
  );
}
