/** The cohort as it stands now: read once, then kept up by the server's events. */

import {
  ask,
  needsToken,
  type About,
  type Cohort,
  type Entry,
  type Patient,
  type Status,
} from "./api";

/** "kind": it is another cohort now; "about": its title or notes are others. */
export type Part = "kind" | "about" | "status" | "slides" | "patients" | "connection";
type Listener = (part: Part, keys: ReadonlySet<string>) => void;

type News = About & Pick<Cohort, "status"> & { whole: boolean };

const RETRY_MS = 5000;

export class Live {
  connected = true;
  /** The server wants a token that this page has not: it was started anew, say. */
  onRefused: () => void = () => undefined;
  private readonly byKey = new Map<string, number>();
  private readonly listeners = new Set<Listener>();
  private source: EventSource | null = null;
  /** The next slides told are all that there are. */
  private whole = false;

  private constructor(readonly cohort: Cohort) {
    this.number();
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

  private get address(): string {
    const { state } = this.cohort;
    return state ? `api/events?since=${encodeURIComponent(state)}` : "api/events";
  }

  private listen(): void {
    this.source?.close();
    const source = (this.source = new EventSource(this.address));
    const hear = <T>(name: string, take: (told: T) => void) =>
      source.addEventListener(name, (event: MessageEvent<string>) => {
        take(JSON.parse(event.data) as T);
        if (event.lastEventId) this.cohort.state = event.lastEventId;
      });
    source.addEventListener("open", () => {
      this.whole = false; // what was to follow went with the connection before
      this.setConnected(true);
    });
    // The browser connects again by itself, unless it was refused; a slide that changed
    // meanwhile is sent then.
    source.addEventListener("error", () => {
      this.setConnected(false);
      if (source.readyState === EventSource.CLOSED) this.retryLater(source);
    });
    hear<News>("cohort", (news) => this.rename(news));
    hear<Status>("status", (status) => this.takeStatus(status));
    hear<string[]>("gone", (keys) => this.drop(keys));
    hear<Entry[]>("slides", (entries) => this.merge(entries));
    hear<Patient[]>("patients", (patients) => this.takePatients(patients));
  }

  private retryLater(refused: EventSource): void {
    window.setTimeout(() => void this.retry(refused), RETRY_MS);
  }

  /** An event source does not say why it was refused; the cohort does. */
  private async retry(refused: EventSource): Promise<void> {
    const isLate = () => this.source !== refused || document.hidden;
    if (isLate()) return;
    try {
      const cohort = await ask<Cohort>("cohort");
      if (isLate()) return;
      this.takeAll(cohort);
      this.listen();
    } catch (reason) {
      if (isLate()) return;
      if (needsToken(reason)) this.onRefused();
      else this.retryLater(refused);
    }
  }

  private takeAll({ slides, patients, ...about }: Cohort): void {
    this.rename({ ...about, whole: true });
    this.merge(slides);
    this.takePatients(patients);
    this.tell("status");
  }

  private takeStatus(status: Status): void {
    this.cohort.status = status;
    this.tell("status");
  }

  private takePatients(patients: Patient[]): void {
    this.cohort.patients = patients;
    this.tell("patients");
  }

  /** A run was started on a folder of slides, say. */
  private rename({ whole, ...about }: News): void {
    const { kind, ending, runs } = this.cohort;
    Object.assign(this.cohort, about);
    this.whole = whole;
    const same =
      kind === about.kind && ending === about.ending && String(runs) === String(about.runs);
    this.tell(same ? "about" : "kind");
  }

  private merge(entries: Entry[]): void {
    if (this.whole) {
      const named = new Set(entries.map(({ key }) => key));
      this.drop([...this.byKey.keys()].filter((key) => !named.has(key)));
      this.whole = false;
    }
    const news = entries.filter((entry) => !isSame(entry, this.entry(entry.key)));
    for (const entry of news) {
      const at = this.byKey.get(entry.key) ?? this.cohort.slides.length;
      this.cohort.slides[at] = entry;
      this.byKey.set(entry.key, at);
    }
    if (news.length > 0) this.tell("slides", new Set(news.map((entry) => entry.key)));
  }

  private drop(keys: string[]): void {
    if (keys.length === 0) return;
    const gone = new Set(keys);
    this.cohort.slides = this.cohort.slides.filter((entry) => !gone.has(entry.key));
    this.number();
    this.tell("slides", gone);
  }

  private number(): void {
    this.byKey.clear();
    this.cohort.slides.forEach((entry, i) => this.byKey.set(entry.key, i));
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

function isSame(entry: Entry, known: Entry | undefined): boolean {
  return known !== undefined && JSON.stringify(entry) === JSON.stringify(known);
}
