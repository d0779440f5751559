import { idOf, type KindName, type Kinds } from "../model/kinds.js";
import { ApiError, asApiError, type DataPort } from "./port.js";

export type Phase = "loading" | "ready" | "failed";

const PAGE = 1_000;

/** Waiting is an argument, so that tests need no clock. */
export interface Waiter {
  (milliseconds: number, signal: AbortSignal): Promise<void>;
}

const wait: Waiter = (ms, signal) =>
  new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });

/**
 * One kind of the workspace, kept current by a list and a watch. After a break the old contents stay and
 * `staleSince` says from when; a list replaces them wholly, so nothing that vanished meanwhile lingers.
 */
export class Collection<K extends KindName> {
  readonly items = new Map<string, Kinds[K]>();
  phase: Phase = "loading";
  error?: ApiError;
  /** Milliseconds since 1970 of the last moment at which the contents were known to be current. */
  staleSince?: number;
  /** Grows with every change; a cheap key for memoised views. */
  revision = 0;

  private stop?: AbortController;
  private kick?: () => void;
  private cycle?: AbortController;

  constructor(
    readonly kind: K,
    private readonly port: DataPort,
    private readonly changed: () => void,
    private readonly namespace?: string,
    private readonly waiter: Waiter = wait,
    private readonly now: () => number = Date.now,
  ) {}

  start(): void {
    if (this.stop) return;
    const stop = new AbortController();
    this.stop = stop;
    void this.run(stop.signal);
  }

  close(): void {
    this.stop?.abort();
    this.stop = undefined;
  }

  /** Tries again at once: after a click on "Try again" or when the machine is back on-line. */
  retry(): void {
    if (this.kick) this.kick();
    else if (!this.stop) {
      this.start();
    }
  }

  /** Lists anew; what is shown stays until the answer is there. */
  recheck(): void {
    this.cycle?.abort();
  }

  get(id: string): Kinds[K] | undefined {
    return this.items.get(id);
  }

  /** Shows the answer to our own write before the watch brings it; never goes back in time. */
  learn(object: Kinds[K]): void {
    if (!object?.metadata?.name) return;
    const version = (o?: Kinds[K]) => Number(o?.metadata.resourceVersion ?? "0");
    if (version(this.items.get(idOf(object))) > version(object)) return;
    this.items.set(idOf(object), object);
    this.touch();
  }

  private touch(): void {
    this.revision++;
    this.changed();
  }

  private async run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    let resourceVersion: string | undefined;
    while (!signal.aborted) {
      try {
        if (resourceVersion === undefined) {
          resourceVersion = await this.list(signal);
          failures = 0;
        }
        this.error = undefined;
        if (this.staleSince !== undefined) {
          this.staleSince = undefined;
          this.touch();
        }
        const started = this.now();
        const cycle = new AbortController();
        this.cycle = cycle;
        const either = AbortSignal.any([signal, cycle.signal]);
        await this.port.watch(this.kind, { namespace: this.namespace, resourceVersion, signal: either }, (change) => {
          if (either.aborted) return;
          failures = 0;
          if (change.type === "BOOKMARK") {
            resourceVersion = change.resourceVersion;
            return;
          }
          const id = idOf(change.object);
          if (change.type === "DELETED") this.items.delete(id);
          else this.items.set(id, change.object);
          resourceVersion = change.object.metadata.resourceVersion ?? resourceVersion;
          this.touch();
        });
        if (signal.aborted) return;
        if (cycle.signal.aborted) {
          resourceVersion = undefined;
          continue;
        }
        // A server that ends every watch at once must not be asked a thousand times a second.
        if (this.now() - started < 1_000) await this.pause(1_000, signal);
        // The gateway's streams lose what was deleted while they were closed.
        if (this.port.name === "graphql") resourceVersion = undefined;
      } catch (e) {
        if (signal.aborted) return;
        const error = asApiError(e);
        if (error.fault === "gone") {
          resourceVersion = undefined;
          continue;
        }
        this.error = error;
        resourceVersion = undefined;
        if (this.phase === "ready") this.staleSince ??= this.now();
        if (this.phase !== "ready" || error.fault === "notBound" || error.fault === "forbidden") {
          this.phase = "failed";
          this.items.clear();
          this.staleSince = undefined;
        }
        this.touch();
        if (error.fault === "session") {
          // Nothing helps until the shell signs in again: hold no stream and send no request.
          this.stop = undefined;
          return;
        }
        failures++;
        // Somebody may be about to enable it; a right is granted less often.
        const delay = error.fault === "notBound" ? 5_000 : error.fault === "forbidden" ? 15_000 : Math.min(30_000, 500 * 2 ** Math.min(failures, 6));
        await this.pause(Math.max(delay * (0.75 + Math.random() / 2), (error.retryAfter ?? 0) * 1_000), signal);
      }
    }
  }

  private async pause(ms: number, signal: AbortSignal): Promise<void> {
    const early = new AbortController();
    this.kick = () => early.abort();
    const both = AbortSignal.any([signal, early.signal]);
    await this.waiter(ms, both);
    this.kick = undefined;
  }

  private async list(signal: AbortSignal): Promise<string> {
    const fresh = new Map<string, Kinds[K]>();
    let next: string | undefined;
    let resourceVersion = "";
    do {
      const page = await this.port.list(this.kind, { namespace: this.namespace, limit: PAGE, continue: next, signal });
      for (const o of page.items) fresh.set(idOf(o), o);
      next = page.continue;
      resourceVersion = page.resourceVersion;
      if (this.phase === "loading" && next) {
        // Show the first page of a big list at once.
        for (const [id, o] of fresh) this.items.set(id, o);
        this.touch();
      }
    } while (next && !signal.aborted);
    this.items.clear();
    for (const [id, o] of fresh) this.items.set(id, o);
    this.phase = "ready";
    this.touch();
    return resourceVersion;
  }
}
