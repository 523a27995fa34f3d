/** Announces finished slides to screen readers, batched into one line. */

import type { SlideStatus } from "../page/api";
import { announce } from "../page/dom";
import type { Live } from "../page/live";
import { count } from "../page/format";

const QUIET_MS = 8000;

export function announceLandings(live: Live, until: AbortSignal): void {
  const known = new Map(live.cohort.slides.map(({ key, status }) => [key, status]));
  const ended = { done: 0, failed: 0 };
  let waiting = 0;
  const speak = () => {
    waiting = 0;
    const failed = ended.failed ? `, ${ended.failed} failed` : "";
    announce(`${count(ended.done, "slide")} done${failed}`);
    ended.done = ended.failed = 0;
  };
  live.watch((part, keys) => {
    if (part !== "slides") return;
    for (const key of keys) {
      const status = live.entry(key)?.status;
      if (status !== known.get(key) && isEnd(status)) ended[status] += 1;
      if (status) known.set(key, status);
    }
    if (ended.done + ended.failed > 0 && !waiting) waiting = window.setTimeout(speak, QUIET_MS);
  }, until);
  until.addEventListener("abort", () => window.clearTimeout(waiting));
}

function isEnd(status: SlideStatus | undefined): status is "done" | "failed" {
  return status === "done" || status === "failed";
}
