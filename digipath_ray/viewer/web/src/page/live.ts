/** Live cohort: read once, then updated by server-sent events. */

import {
  fetchJson,
  needsToken,
  type About,
  type Cohort,
  type Entry,
  type Patient,
  type Status,
} from "./api";

/** "kind": a different cohort; "about": title or notes have changed. */
export type Part = "kind" | "about" | "status" | "slides" | "patients" | "connection";
type Listener = (part: Part, keys: ReadonlySet<string>) => void;

type News = About & Pick<Cohort, "status"> & { whole: boolean };

const RETRY_MS = 5000;

export class Live {
  connected = true;
  /** Called when the server rejects the token, e.g. after a restart. */
  onRefused: () => void = () => undefined;
  private readonly byKey = new Map<string, number>();
  private readonly listeners = new Set<Listener>();
  private source: EventSource | null = null;
  /** Whether the next slides event contains all slides. */
  private whole = false;

  private constructor(readonly cohort: Cohort) {
    this.number();
  }

  static async open(): Promise<Live> {
    const live = new Live(await fetchJson<Cohort>("cohort"));
    live.listen();
    // A browser limits itself to six connections per server, across all tabs.
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
    const hear = <T>(name: string, take: (data: T) => void) =>
      source.addEventListener(name, (event: MessageEvent<string>) => {
        take(JSON.parse(event.data) as T);
        if (event.lastEventId) this.cohort.state = event.lastEventId;
      });
    source.addEventListener("open", () => {
      this.whole = false; // the pending event was lost with the previous connection
      this.setConnected(true);
    });
    // The browser reconnects by itself, unless rejected; missed changes are sent then.
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

  /** EventSource hides the reason of a rejection, so request the cohort. */
  private async retry(refused: EventSource): Promise<void> {
    const isLate = () => this.source !== refused || document.hidden;
    if (isLate()) return;
    try {
      const cohort = await fetchJson<Cohort>("cohort");
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
    this.notify("status");
  }

  private takeStatus(status: Status): void {
    this.cohort.status = status;
    this.notify("status");
  }

  private takePatients(patients: Patient[]): void {
    this.cohort.patients = patients;
    this.notify("patients");
  }

  /** E.g. a run was started on a folder of slides. */
  private rename({ whole, ...about }: News): void {
    const { kind, ending, runs } = this.cohort;
    Object.assign(this.cohort, about);
    this.whole = whole;
    const same =
      kind === about.kind && ending === about.ending && String(runs) === String(about.runs);
    this.notify(same ? "about" : "kind");
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
    if (news.length > 0) this.notify("slides", new Set(news.map((entry) => entry.key)));
  }

  private drop(keys: string[]): void {
    if (keys.length === 0) return;
    const gone = new Set(keys);
    this.cohort.slides = this.cohort.slides.filter((entry) => !gone.has(entry.key));
    this.number();
    this.notify("slides", gone);
  }

  private number(): void {
    this.byKey.clear();
    this.cohort.slides.forEach((entry, i) => this.byKey.set(entry.key, i));
  }

  private setConnected(connected: boolean): void {
    if (connected === this.connected) return;
    this.connected = connected;
    this.notify("connection");
  }

  private notify(part: Part, keys: ReadonlySet<string> = new Set()): void {
    for (const listener of [...this.listeners]) listener(part, keys);
  }
}

function isSame(entry: Entry, known: Entry | undefined): boolean {
  return known !== undefined && JSON.stringify(entry) === JSON.stringify(known);
}
