/** The page of a slide: opens it, follows what becomes of it, or says why it cannot. */

import { ask, Refusal, type ShownSlide, type Slide } from "../page/api";
import { fill, find, make } from "../page/dom";
import { keepFocus } from "./focus";
import type { Live } from "../page/live";
import { hrefs } from "../page/route";
import { drawSlideBar } from "./slideBar";
import { SlideView } from "./slideView";
import { natural } from "../page/words";

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
  /** When it is read again as a layer is outdated, by `performance.now`. */
  private dueAt = -Infinity;

  constructor(
    private readonly main: HTMLElement,
    private readonly live: Live,
    private readonly key: string,
    private readonly until: AbortSignal,
  ) {
    until.addEventListener("abort", () => this.view?.close());
  }

  /** Ask what is known of the slide, and show that. */
  async read(): Promise<void> {
    const turn = ++this.reads;
    const isLate = () => this.until.aborted || turn !== this.reads;
    try {
      const slide = await ask<Slide>(`slides/${this.key}`, this.until);
      if (!isLate()) this.show(slide);
    } catch (reason) {
      if (isLate()) return;
      if (reason instanceof Refusal && reason.status === 404) {
        this.leave(reason);
        return;
      }
      if (this.view === null) fill(this.main, refusal(reason));
      // The slide is on its way from a bucket, or the server has no time.
      window.setTimeout(() => isLate() || void this.read(), AGAIN_MS);
    }
  }

  /** No slide has this name: not any more, if it was shown. */
  private leave(reason: Refusal): void {
    const said = this.view === null ? refusal(reason) : message("It has left the cohort.", "");
    this.view?.close();
    this.view = null;
    fill(this.main, said);
  }

  /** Layers have changed: read once what they are now, however many of them say so.
   *
   * If they are outdated again at once, then after a while, not in a loop.
   */
  private readLayers(): void {
    const now = performance.now();
    if (this.dueAt > now) return;
    const wait = Math.max(0, this.dueAt + AGAIN_MS - now);
    this.dueAt = now + wait;
    const read = () => this.view?.isOutdated && !this.until.aborted && void this.read();
    window.setTimeout(read, wait);
  }

  /** Read the slide again when more than its progress has changed. */
  follow(): void {
    const { live, key, until } = this;
    const tell = () => JSON.stringify({ ...live.entry(key), progress: null });
    let told = tell();
    live.watch((part, keys) => {
      if (part !== "kind" && !(part === "slides" && keys.has(key))) return;
      keepFocus(find("bar"), () => drawSlideBar(live, key));
      if (part !== "kind" && tell() === told) return;
      told = tell();
      void this.read();
    }, until);
  }

  /** In the view that is open, if it is the same picture: it stays where it is. */
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

/** Of two runs, a layer's label says whose it is, and each run's layers stand together. */
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
  return message(why?.error ?? "Its size is not known.", why?.hint ?? "");
}

function refusal(reason: unknown): HTMLElement {
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
