/** Top bar of every page: home link, title, theme switch. */

import { fill, find, make, type Child } from "./dom";
import type { Live } from "./live";
import { hrefs } from "./route";
import { themeButton } from "./theme";

const RESEARCH = "Research use only";

/** @param parts page-specific elements between title and switches */
export function drawBar(live: Live, ...parts: Child[]): void {
  const { title, research_use } = live.cohort;
  const notice = make("span", { class: "research", title: research_use }, RESEARCH);
  const home = make("a", { class: "home", href: hrefs.slides }, title);
  fill(find("bar"), home, ...parts, make("span", { class: "spacer" }), notice, themeButton());
}

/** Footer with the full research-use notice. */
export function researchNotice(live: Live): HTMLElement {
  return make("footer", { class: "foot" }, live.cohort.research_use);
}
