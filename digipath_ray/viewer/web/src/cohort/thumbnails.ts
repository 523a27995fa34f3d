/**
 * Thumbnails, loaded when they scroll into view and few at once: each may require reading
 * the slide, and browsers allow six connections per server.
 */

import { url, type Entry } from "../page/api";
import { make } from "../page/dom";

const AT_ONCE = 4;

const wanted = new Set<HTMLImageElement>();
let loading = 0;

const sight = new IntersectionObserver(
  (seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) wanted.add(target as HTMLImageElement);
      else wanted.delete(target as HTMLImageElement);
    }
    load();
  },
  { rootMargin: "200px" },
);

export function thumbnail({ key, thumbnail }: Pick<Entry, "key" | "thumbnail">): HTMLElement {
  if (!thumbnail) return make("span", { class: "no-picture", "aria-hidden": true });
  const picture = make("img", { alt: "", decoding: "async", "data-source": url.thumbnail(key) });
  sight.observe(picture);
  return picture;
}

function load(): void {
  for (const picture of wanted) {
    if (loading >= AT_ONCE) return;
    wanted.delete(picture);
    sight.unobserve(picture);
    loading += 1;
    const ended = () => {
      loading -= 1;
      load();
    };
    picture.addEventListener("load", ended, { once: true });
    picture.addEventListener("error", ended, { once: true });
    picture.src = picture.dataset.source ?? "";
  }
}
