/** The bar on top of every page: the way back, the name, light or dark. */

import { fill, find, make, type Child } from "./dom";
import type { Live } from "./live";
import { hrefs } from "./route";
import { themeButton } from "./theme";

const RESEARCH = "Research use only";

/** @param parts what the page adds between the title and the switches */
export function drawBar(live: Live, ...parts: Child[]): void {
  const { title, research_use } = live.cohort;
  const notice = make("span", { class: "research", title: research_use }, RESEARCH);
  const home = make("a", { class: "home", href: hrefs.slides }, title);
  fill(find("bar"), home, ...parts, make("span", { class: "spacer" }), notice, themeButton());
}

/** The whole notice, at the end of a page that is read. */
export function researchNotice(live: Live): HTMLElement {
  return make("footer", { class: "foot" }, live.cohort.research_use);
}
