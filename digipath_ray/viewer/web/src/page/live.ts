/** The cohort as it stands now: read once, then kept up by the server's events. */

import { ask, type Cohort, type Entry, type Patient, type Status } from "./api";

export type Part = "kind" | "status" | "slides" | "patients" | "connection";
type Listener = (part: Part, keys: ReadonlySet<string>) => void;

const RETRY_MS = 5000;

export class Live {
  connected = true;
  private readonly byKey = new Map<string, number>();
  private readonly listeners = new Set<Listener>();
  private source: EventSource | null = null;

  private constructor(readonly cohort: Cohort) {
    cohort.slides.forEach((entry, i) => this.byKey.set(entry.key, i));
  }

  static async open(): Promise<Live> {
    const live = new Live(await ask<Cohort>("cohort"));
    live.listen();
    // A browser has six connections to a server, for all its tabs together.
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) live.source?.close();
      else live.listen();
    });
    return live;
  }

  entry(key: string): Entry | undefined {
    const at = this.byKey.get(key);
    return at === undefined ? undefined : this.cohort.slides[at];
  }

  /** Call on every change until the signal aborts. */
  watch(listener: Listener, until: AbortSignal): void {
    this.listeners.add(listener);
    until.addEventListener("abort", () => this.listeners.delete(listener));
  }

  private listen(): void {
    this.source?.close();
    const source = (this.source = new EventSource("api/events"));
    source.addEventListener("open", () => this.setConnected(true));
    // The browser connects again by itself, unless it was refused; a slide that changed
    // meanwhile is sent then.
    source.addEventListener("error", () => {
      this.setConnected(false);
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.retry(source), RETRY_MS);
    });
    source.addEventListener("status", (event) => {
      this.cohort.status = parse<Status>(event);
      if (this.cohort.kind === "folder") void this.turnToRun();
      else this.tell("status");
    });
    source.addEventListener("slides", (event) => this.merge(parse<Entry[]>(event)));
    source.addEventListener("patients", (event) => {
      this.cohort.patients = parse<Patient[]>(event);
      this.tell("patients");
    });
  }

  /** A run was started on a folder of slides: what they end in is known only now. */
  private async turnToRun(): Promise<void> {
    const cohort = await ask<Cohort>("cohort");
    if (cohort.kind === "folder") return; // its run has not told enough yet
    Object.assign(this.cohort, cohort);
    this.byKey.clear();
    cohort.slides.forEach((entry, i) => this.byKey.set(entry.key, i));
    this.tell("kind");
  }

  private retry(refused: EventSource): void {
    if (this.source === refused && !document.hidden) this.listen();
  }

  private merge(entries: Entry[]): void {
    for (const entry of entries) {
      const at = this.byKey.get(entry.key) ?? this.cohort.slides.length;
      this.cohort.slides[at] = entry;
      this.byKey.set(entry.key, at);
    }
    this.tell("slides", new Set(entries.map((entry) => entry.key)));
  }

  private setConnected(connected: boolean): void {
    if (connected === this.connected) return;
    this.connected = connected;
    this.tell("connection");
  }

  private tell(part: Part, keys: ReadonlySet<string> = new Set()): void {
    for (const listener of [...this.listeners]) listener(part, keys);
  }
}

function parse<T>(event: Event): T {
  return JSON.parse((event as MessageEvent<string>).data) as T;
}
