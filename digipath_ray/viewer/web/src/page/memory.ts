/** Choices that outlive the page, in this browser only; no slide's name is among them. */

const PREFIX = "digipath:";

export function recall<T>(name: string, otherwise: T): T {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? otherwise : (JSON.parse(kept) as T);
  } catch {
    return otherwise; // storage is forbidden, or holds something else
  }
}

export function remember(name: string, value: unknown): void {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage is forbidden or full: the choice lasts as long as the page.
  }
}
