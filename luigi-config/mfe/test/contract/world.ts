import { randomUUID } from "node:crypto";
import { parseReference } from "../../src/model/reference.js";
import { parseSchedule } from "../../src/model/schedule.js";
import { idOf, PLURAL, type Account, type KindName, type Resource, type ServiceKey } from "../../src/model/kinds.js";
import { fleet } from "./fleet.js";

export type Watcher = (e: { type: string; object: unknown }) => void;

export class Refusal extends Error {
  constructor(
    readonly code: number,
    readonly reason: string,
    message: string,
  ) {
    super(message);
  }
}

/**
 * A workspace in memory that behaves as kcp and the provider do towards the console: versions, watches, refusals,
 * rotations, evictions. Faults can be switched on. It holds no keys: there is nothing to encrypt here.
 */
export class World {
  private kept: Record<KindName, Map<string, Resource>> = { Tenant: new Map(), Account: new Map(), ServiceEncryptionKey: new Map() };
  readonly objects: Record<KindName, Map<string, Resource>> = { Tenant: new Map(), Account: new Map(), ServiceEncryptionKey: new Map() };
  readonly events: { kind: string; name: string; namespace: string; type: string; reason: string; message: string; time: string }[] = [];
  readonly namespaces = new Set(["default"]);
  /** What was deleted, with the version at which it was: a watch from before hears of it. */
  readonly graves: { kind: KindName; object: Resource }[] = [];
  private readonly watchers = new Set<{ kind: KindName; namespace?: string; on: Watcher; end: () => void }>();
  private version = 100_000;
  bound = true;
  /** Tokens that are accepted. */
  readonly tokens = new Set<string>(["demo"]);
  /** `verb plural` that is denied, for example `create accounts`. */
  readonly denied = new Set<string>();
  down = false;
  /** Takes requests and never answers. */
  silent = false;
  readonly edges = 3;
  /** Answered requests by `METHOD path`, to count what a page costs. */
  readonly log: string[] = [];

  constructor(o: { keys?: number; hostile?: boolean; empty?: boolean } = {}) {
    const f = fleet({ now: Date.now(), ...o });
    this.objects.Tenant.set(f.tenant.metadata.name, f.tenant);
    if (o.empty) return;
    for (const a of f.accounts) this.objects.Account.set(idOf(a), a);
    for (const k of f.keys) {
      this.objects.ServiceEncryptionKey.set(idOf(k), k);
      this.namespaces.add(k.metadata.namespace!);
      if (this.events.length < 400) {
        this.event("ServiceEncryptionKey", k, "Normal", "Rotated", `Version ${k.status?.currentVersion ?? "v1"} is current on 3/3 edges.`);
      }
    }
    for (const a of f.accounts) {
      const bad = a.status?.conditions?.find((c) => c.type === "Ready" && c.status === "False");
      this.event("Account", a, bad ? "Warning" : "Normal", bad?.reason ?? "Verified", bad?.message ?? "A wrap and an unwrap with the root key succeeded.");
    }
  }

  get resourceVersion(): string {
    return String(this.version);
  }

  kindOf(plural: string): KindName | undefined {
    return (Object.keys(PLURAL) as KindName[]).find((k) => PLURAL[k] === plural);
  }

  private event(kind: string, o: Resource, type: string, reason: string, message: string): void {
    this.events.push({ kind, name: o.metadata.name, namespace: o.metadata.namespace ?? "default", type, reason, message, time: new Date().toISOString() });
  }

  private tell(kind: KindName, type: string, object: Resource): void {
    for (const w of this.watchers) {
      if (w.kind === kind && (!w.namespace || object.metadata.namespace === w.namespace)) w.on({ type, object });
    }
  }

  watch(kind: KindName, namespace: string | undefined, on: Watcher, end: () => void): () => void {
    const w = { kind, namespace, on, end };
    this.watchers.add(w);
    return () => this.watchers.delete(w);
  }

  /** Cuts every stream, as a restart of the server does. */
  cut(): void {
    for (const w of [...this.watchers]) w.end();
    this.watchers.clear();
  }

  /** What kcp and the provider do when the binding goes: every object is deleted, the streams stay open and silent. */
  unbind(): void {
    const kept = { ...this.objects };
    for (const kind of Object.keys(this.objects) as KindName[]) {
      this.objects[kind] = new Map();
      for (const o of kept[kind].values()) this.tell(kind, "DELETED", structuredClone({ ...o, metadata: { ...o.metadata, resourceVersion: String(++this.version) } }));
    }
    this.bound = false;
    this.kept = kept;
  }

  /** Everything comes back as it was. */
  rebind(): void {
    this.bound = true;
    for (const kind of Object.keys(this.objects) as KindName[]) for (const o of this.kept[kind].values()) this.store(kind, structuredClone(o), "ADDED");
  }

  get streams(): number {
    return this.watchers.size;
  }

  private store(kind: KindName, o: Resource, type: "ADDED" | "MODIFIED"): Resource {
    o.metadata.resourceVersion = String(++this.version);
    this.objects[kind].set(idOf(o), o);
    this.tell(kind, type, structuredClone(o));
    return o;
  }

  update(kind: KindName, id: string, change: (o: never) => void): void {
    const old = this.objects[kind].get(id);
    if (!old) return;
    const next = structuredClone(old);
    change(next as never);
    this.store(kind, next, "MODIFIED");
  }

  private check(kind: KindName, o: Resource, old?: Resource): void {
    if (!/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(o.metadata.name)) throw new Refusal(422, "Invalid", `${kind}.openkcm.io "${o.metadata.name}" is invalid: metadata.name: Invalid value`);
    if (kind === "Account") {
      const { providerType, keyReference } = (o as Account).spec ?? {};
      if (!parseReference(providerType, keyReference ?? "").ok) {
        throw new Refusal(422, "Invalid", `Account.openkcm.io "${o.metadata.name}" is invalid: spec.keyReference: Invalid value: keyReference does not have the form of ${providerType}`);
      }
    }
    if (kind === "ServiceEncryptionKey") {
      const s = (o as ServiceKey).spec;
      if (s.rotationSchedule && !parseSchedule(s.rotationSchedule)) {
        throw new Refusal(422, "Invalid", `ServiceEncryptionKey.openkcm.io "${o.metadata.name}" is invalid: spec.rotationSchedule: rotationSchedule is not a schedule: use Hourly, Daily, Weekly, "<n> Hours", "<n> Days" (n from 1 to 9999) or Never`);
      }
      if (!this.namespaces.has(o.metadata.namespace ?? "")) throw new Refusal(404, "NotFound", `namespaces "${o.metadata.namespace}" not found`);
      if (old && (old as ServiceKey).spec.accountRef.name !== s.accountRef.name) throw new Refusal(422, "Invalid", "accountRef cannot be changed");
    }
  }

  create(kind: KindName, input: Resource, dryRun: boolean): Resource {
    const o = structuredClone(input);
    if (this.objects[kind].has(idOf(o))) throw new Refusal(409, "AlreadyExists", `${PLURAL[kind]}.openkcm.io "${o.metadata.name}" already exists`);
    o.apiVersion = "openkcm.io/v1alpha1";
    o.kind = kind;
    this.check(kind, o);
    o.metadata = { ...o.metadata, uid: randomUUID(), generation: 1, creationTimestamp: new Date().toISOString(), resourceVersion: this.resourceVersion };
    if (dryRun) return o;
    this.store(kind, o, "ADDED");
    setTimeout(() => this.reconcile(kind, idOf(o)), 40);
    return o;
  }

  patch(kind: KindName, id: string, patch: object, dryRun: boolean): Resource {
    const old = this.objects[kind].get(id);
    if (!old) throw new Refusal(404, "NotFound", `${PLURAL[kind]}.openkcm.io "${id}" not found`);
    const { status: _ignored, ...rest } = patch as { status?: unknown };
    const next = merge(structuredClone(old), rest) as Resource;
    this.check(kind, next, old);
    if (dryRun) return next;
    if (JSON.stringify((next as Account).spec) !== JSON.stringify((old as Account).spec)) next.metadata.generation = (next.metadata.generation ?? 1) + 1;
    this.store(kind, next, "MODIFIED");
    setTimeout(() => this.reconcile(kind, id, old), 40);
    return next;
  }

  remove(kind: KindName, id: string, dryRun: boolean): Resource {
    const old = this.objects[kind].get(id);
    if (!old) throw new Refusal(404, "NotFound", `${PLURAL[kind]}.openkcm.io "${id}" not found`);
    if (kind === "Account") {
      const n = [...this.objects.ServiceEncryptionKey.values()].filter((k) => (k as ServiceKey).spec.accountRef.name === id).length;
      if (n) throw new Refusal(403, "Forbidden", `accounts.openkcm.io "${id}" is forbidden: Account ${id} protects ${n} ServiceEncryptionKeys, which would be lost with it. Delete them first`);
    }
    if (!dryRun) {
      this.objects[kind].delete(id);
      old.metadata.resourceVersion = String(++this.version);
      this.graves.push({ kind, object: structuredClone(old) });
      this.tell(kind, "DELETED", structuredClone(old));
    }
    return old;
  }

  /** What the provider does when it sees the change, without any key. */
  private reconcile(kind: KindName, id: string, old?: Resource): void {
    const now = () => new Date().toISOString();
    const condition = (type: string, status: "True" | "False", reason: string, message = "") => ({ type, status, reason, message, lastTransitionTime: now() });
    const o = this.objects[kind].get(id);
    if (!o) return;
    if (kind === "Account") {
      const a = o as Account;
      if (old && (old as Account).spec.keyReference !== a.spec.keyReference && a.status?.accountKeyVersion) {
        const total = [...this.objects.ServiceEncryptionKey.values()].filter((k) => (k as ServiceKey).spec.accountRef.name === id).length;
        const from = a.status.accountKeyVersion;
        const step = (done: number) =>
          this.update("Account", id, (x: Account) => {
            const over = done >= total;
            x.status = {
              ...x.status,
              phase: over ? "Ready" : "Rekeying",
              accountKeyVersion: over ? from + 1 : from,
              rootKey: { ...x.status?.rootKey, reference: over ? x.spec.keyReference : x.status?.rootKey?.reference },
              rewrap: { from, to: from + 1, total, done, failed: 0, startedAt: x.status?.rewrap?.finishedAt ? now() : (x.status?.rewrap?.startedAt ?? now()), ...(over ? { finishedAt: now() } : {}) },
            };
          });
        [0, 0.3, 0.7, 1].forEach((share, i) => setTimeout(() => step(Math.round(share * total)), 150 * (i + 1)));
        this.event("Account", a, "Normal", "RekeyStarted", `Re-wrapping ${total} keys.`);
        return;
      }
      this.update("Account", id, (x: Account) => {
        x.status = {
          ...x.status,
          phase: "Ready",
          rootKey: { reference: x.spec.keyReference, algorithm: "SYMMETRIC_DEFAULT", lastVerified: now() },
          accountKeyVersion: x.status?.accountKeyVersion ?? 1,
          dependents: x.status?.dependents ?? 0,
          conditions: [condition("Ready", "True", "Verified"), condition("RootKeyVerified", "True", "Verified", "A wrap and an unwrap succeeded.")],
        };
      });
      this.event("Account", a, "Normal", "Verified", "A wrap and an unwrap with the root key succeeded.");
      return;
    }
    const k = o as ServiceKey;
    const rotate = !k.status?.currentVersion || (k.spec.rotationRequest && k.spec.rotationRequest !== k.status.rotationRequest);
    const off = k.spec.state === "Disabled";
    this.update("ServiceEncryptionKey", id, (x: ServiceKey) => {
      const s = (x.status ??= {});
      if (rotate && !off) {
        const n = Number((s.currentVersion ?? "v0").slice(1)) + 1;
        s.currentVersion = `v${n}`;
        s.lastRotation = now();
        s.rotationRequest = x.spec.rotationRequest;
        s.versions = [{ version: `v${n}`, state: "Active", created: now(), accountKeyVersion: 1 }, ...(s.versions ?? []).map((v) => ({ ...v, state: "Deactivated" }))].slice(0, 10);
      }
      const p = parseSchedule(x.spec.rotationSchedule ?? "30 Days");
      s.nextRotation = p?.kind === "every" ? new Date(Date.parse(s.lastRotation ?? now()) + p.n * (p.unit === "day" ? 86_400_000 : 3_600_000)).toISOString() : undefined;
      s.state = off ? "Disabled" : "Active";
      s.edges = { total: this.edges, current: 0, evicted: 0 };
      s.activeClients = off ? 0 : (s.activeClients ?? 0);
    });
    if (rotate && !off) this.event("ServiceEncryptionKey", k, "Normal", "Rotated", "A new version is current.");
    else this.event("ServiceEncryptionKey", k, "Normal", off ? "Evicted" : "Enabled", off ? "Evicted on 3/3 edges." : "Served again.");
    for (let n = 1; n <= this.edges; n++) {
      setTimeout(
        () =>
          this.update("ServiceEncryptionKey", id, (x: ServiceKey) => {
            if ((x.spec.state === "Disabled") !== off || !x.status) return;
            x.status.edges = { total: this.edges, current: off ? 0 : n, evicted: off ? n : 0 };
            x.status.conditions = [
              off ? condition("Ready", "False", "Disabled", "Disabled by the spec.") : condition("Ready", "True", "Active"),
              off ? condition("Evicted", n === this.edges ? "True" : "False", "Evicted", `Evicted on ${n}/${this.edges} edges in ${4 * n} ms.`) : condition("Distributed", n === this.edges ? "True" : "False", "Current", `Current on ${n}/${this.edges} edges.`),
            ];
          }),
        60 * n,
      );
    }
  }
}

/** RFC 7396. */
export function merge(target: unknown, patch: unknown): unknown {
  if (patch === null || typeof patch !== "object" || Array.isArray(patch)) return patch;
  const out = target !== null && typeof target === "object" && !Array.isArray(target) ? (target as Record<string, unknown>) : {};
  for (const [k, v] of Object.entries(patch)) {
    if (v === null) delete out[k];
    else out[k] = merge(out[k], v);
  }
  return out;
}
