import { Collection } from "./data/collection.js";
import type { DataPort, Verb, Verdict } from "./data/port.js";
import type { Session } from "./luigi/session.js";
import type { KindName } from "./model/kinds.js";

/** What the workspace holds, kept current. Listeners are told at most once a frame. */
export class Fleet extends EventTarget {
  readonly tenants: Collection<"Tenant">;
  readonly accounts: Collection<"Account">;
  readonly keys: Collection<"ServiceEncryptionKey">;
  private scheduled = false;
  private doubt?: ReturnType<typeof setTimeout>;

  constructor(port: DataPort, namespace?: string) {
    super();
    const changed = () => {
      if (this.scheduled) return;
      this.scheduled = true;
      // A timer and not a frame: a hidden page gets no frames but must not fall behind.
      setTimeout(() => {
        this.scheduled = false;
        this.doubtWithoutTenant();
        this.dispatchEvent(new Event("change"));
      }, 16);
    };
    this.tenants = new Collection("Tenant", port, changed);
    this.accounts = new Collection("Account", port, changed);
    this.keys = new Collection("ServiceEncryptionKey", port, changed, namespace);
  }

  /**
   * A workspace that has OpenKCM has a Tenant. When that has gone, OpenKCM is being switched off: the streams stay open and
   * silent, and only a new list is told that the kinds are no more.
   */
  private doubtWithoutTenant(): void {
    if (this.doubt !== undefined || this.tenants.phase !== "ready" || this.tenants.items.size > 0) return;
    this.doubt = setTimeout(() => {
      this.doubt = undefined;
      for (const c of this.all) c.recheck();
    }, 3_000);
  }

  get all() {
    return [this.tenants, this.accounts, this.keys] as const;
  }
  start(): void {
    for (const c of this.all) c.start();
  }
  close(): void {
    clearTimeout(this.doubt);
    this.doubt = undefined;
    for (const c of this.all) c.close();
  }
  retry(): void {
    for (const c of this.all) c.retry();
  }
}

/** What the user may do, asked once per verb, kind and namespace. Until it is known the answer is `unknown`. */
export class Rights {
  private readonly known = new Map<string, Verdict>();
  private readonly asked = new Set<string>();

  constructor(
    private readonly port: DataPort,
    private readonly changed: () => void,
  ) {}

  may(verb: Verb, kind: KindName, namespace?: string): Verdict {
    const key = `${verb} ${kind} ${namespace ?? ""}`;
    const verdict = this.known.get(key);
    if (verdict) return verdict;
    if (!this.asked.has(key)) {
      this.asked.add(key);
      this.port.can(verb, kind, namespace).then(
        (v) => {
          this.known.set(key, v);
          this.changed();
        },
        // Asked again at the next look; meanwhile the server decides.
        () => setTimeout(() => this.asked.delete(key), 10_000),
      );
    }
    return { allowed: "unknown" };
  }
}

/** Everything that a screen needs. */
export interface Ctx {
  session: Session;
  port: DataPort;
  fleet: Fleet;
  rights: Rights;
  /** Says it on the screen and to a screen reader. */
  say(text: string, tone?: "positive" | "negative"): void;
}
