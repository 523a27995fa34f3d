/** Slide page: opens a slide, follows its changes, or shows the error. */

import { fetchJson, ServerError, type ShownSlide, type Slide } from "../page/api";
import { fill, find, make } from "../page/dom";
import { keepFocus } from "./focus";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { drawSlideBar } from "./slideBar";
import { SlideView } from "./slideView";
import { natural } from "../page/format";

const AGAIN_MS = 4000;

export async function showSlide(
  main: HTMLElement,
  live: Live,
  key: string,
  until: AbortSignal,
): Promise<void> {
  drawSlideBar(live, key);
  fill(main, make("p", { class: "empty" }, "Opening the slide\u2026"));
  const page = new SlidePage(main, live, key, until);
  page.follow();
  await page.read();
}

class SlidePage {
  private view: SlideView | null = null;
  private reads = 0;
  /** Time of the next reload of outdated layers, by `performance.now`. */
  private dueAt = -Infinity;

  constructor(
    private readonly main: HTMLElement,
    private readonly live: Live,
    private readonly key: string,
    private readonly until: AbortSignal,
  ) {
    until.addEventListener("abort", () => this.view?.close());
  }

  /** Fetch and show the slide. */
  async read(): Promise<void> {
    const turn = ++this.reads;
    const isLate = () => this.until.aborted || turn !== this.reads;
    try {
      const slide = await fetchJson<Slide>(`slides/${this.key}`, this.until);
      if (!isLate()) this.show(slide);
    } catch (reason) {
      if (isLate()) return;
      if (reason instanceof ServerError && reason.status === 404) {
        this.leave(reason);
        return;
      }
      if (this.view === null) fill(this.main, errorCard(reason));
      // The slide is being downloaded, or the server is busy.
      window.setTimeout(() => isLate() || void this.read(), AGAIN_MS);
    }
  }

  /** The slide does not exist, or no longer exists. */
  private leave(reason: ServerError): void {
    const card =
      this.view === null ? errorCard(reason) : message("It was removed from the cohort.", "");
    this.view?.close();
    this.view = null;
    fill(this.main, card);
  }

  /**
   * Reload changed layers, once for any number of notifications.
   *
   * Repeated changes are throttled to avoid a loop.
   */
  private readLayers(): void {
    const now = performance.now();
    if (this.dueAt > now) return;
    const wait = Math.max(0, this.dueAt + AGAIN_MS - now);
    this.dueAt = now + wait;
    const read = () => this.view?.isOutdated && !this.until.aborted && void this.read();
    window.setTimeout(read, wait);
  }

  /** Reload the slide when more than its progress has changed. */
  follow(): void {
    const { live, key, until } = this;
    const summarize = () => JSON.stringify({ ...live.entry(key), progress: null });
    let previous = summarize();
    live.watch((part, keys) => {
      if (part !== "kind" && !(part === "slides" && keys.has(key))) return;
      keepFocus(find("bar"), () => drawSlideBar(live, key));
      if (part !== "kind" && summarize() === previous) return;
      previous = summarize();
      void this.read();
    }, until);
  }

  /** Update the open view if the image is the same, keeping its position. */
  private show(slide: Slide): void {
    nameRuns(slide);
    if (!isShown(slide)) {
      this.view?.close();
      this.view = null;
      fill(this.main, unreadable(slide));
    } else if (this.view?.shows(slide.image)) {
      this.view.take(slide);
    } else {
      this.view?.close();
      this.view = new SlideView(this.main, this.live, slide, () => this.readLayers());
    }
  }
}

/** With two runs, label each layer with its run and group layers by run. */
function nameRuns({ layers }: Slide): void {
  const twice = layers.filter(({ run, name }) =>
    layers.some((other) => other.name === name && other.run !== run),
  );
  for (const layer of twice) layer.label += ` (${layer.run})`;
  layers.sort((a, b) => natural(a.run, b.run));
}

function isShown(slide: Slide): slide is ShownSlide {
  return slide.image !== null;
}

function unreadable({ image_error, failure }: Slide): HTMLElement {
  const why = image_error ?? failure;
  return message(why?.error ?? "Its size is unknown.", why?.hint ?? "");
}

function errorCard(reason: unknown): HTMLElement {
  const text = reason instanceof Error ? reason.message : String(reason);
  return message(text, reason instanceof ServerError ? reason.hint : "");
}

function message(text: string, hint: string): HTMLElement {
  return make(
    "div",
    { class: "page" },
    make(
      "section",
      { class: "card error-card", role: "alert" },
      make("h1", {}, "This slide cannot be shown"),
      make("p", {}, text),
      hint ? make("p", { class: "quiet" }, hint) : null,
      make("p", {}, make("a", { href: hrefs.slides }, "Back to the cohort")),
    ),
  );
}
