import { accountPhase, condition, idOf, keyState, type Account, type ServiceKey } from "./kinds.js";

const HOUR = 3_600_000;
export const DAY = 24 * HOUR;

/** When a key is due; the buckets overlap on purpose: a key due in an hour is due this week too. */
export type Due = "overdue" | "24h" | "7d";

export function isDue(key: ServiceKey, due: Due, now: number): boolean {
  const state = keyState(key);
  if (state !== "Active" && state !== "Unavailable") return false;
  const next = Date.parse(key.status?.nextRotation ?? "");
  if (Number.isNaN(next)) return false;
  switch (due) {
    case "overdue":
      return next < now;
    case "24h":
      return next < now + DAY;
    case "7d":
      return next < now + 7 * DAY;
  }
}

/** Some edge does not do yet what the key's state asks of it. */
export function edgesBehind(key: ServiceKey): boolean {
  const e = key.status?.edges;
  if (!e?.total) return false;
  return keyState(key) === "Active" ? (e.current ?? 0) < e.total : keyState(key) === "Disabled" && (e.evicted ?? 0) < e.total;
}

export interface Overview {
  accounts: { total: number; ready: number; unavailable: number; rekeying: number; pending: number };
  keys: { total: number; active: number; disabled: number; unavailable: number };
  due: Record<Due, number>;
  edgesBehind: number;
}

/** One pass over what is loaded: no request per object. */
export function overview(accounts: Iterable<Account>, keys: Iterable<ServiceKey>, now: number): Overview {
  const o: Overview = {
    accounts: { total: 0, ready: 0, unavailable: 0, rekeying: 0, pending: 0 },
    keys: { total: 0, active: 0, disabled: 0, unavailable: 0 },
    due: { overdue: 0, "24h": 0, "7d": 0 },
    edgesBehind: 0,
  };
  for (const a of accounts) {
    o.accounts.total++;
    const phase = accountPhase(a);
    if (phase === "Ready") o.accounts.ready++;
    else if (phase === "Unavailable") o.accounts.unavailable++;
    else if (phase === "Rekeying") o.accounts.rekeying++;
    else o.accounts.pending++;
  }
  for (const k of keys) {
    o.keys.total++;
    const state = keyState(k);
    if (state === "Active") o.keys.active++;
    else if (state === "Disabled") o.keys.disabled++;
    else if (state === "Unavailable") o.keys.unavailable++;
    for (const due of ["overdue", "24h", "7d"] as const) if (isDue(k, due, now)) o.due[due]++;
    if (edgesBehind(k)) o.edgesBehind++;
  }
  return o;
}

/** The rotations that were done last and those that come next, nearest to now first. */
export function rotations(keys: Iterable<ServiceKey>, now: number, count: number): { last: ServiceKey[]; next: ServiceKey[] } {
  const active = [...keys].filter((k) => keyState(k) === "Active");
  const at = (time?: string) => Date.parse(time ?? "");
  const nearest = (time: (k: ServiceKey) => number, sign: number) =>
    active
      .filter((k) => sign * (time(k) - now) >= 0)
      .sort((a, b) => sign * (time(a) - time(b)))
      .slice(0, count);
  return {
    last: nearest((k) => at(k.status?.lastRotation), -1),
    next: nearest((k) => at(k.status?.nextRotation), 1),
  };
}

export interface Attention {
  severity: "error" | "warning" | "info";
  what: "accountUnavailable" | "rekeyFailed" | "accountPending" | "keyUnavailable" | "keyOverdue" | "edgesBehind" | "deletionBlocked";
  kind: "Account" | "ServiceEncryptionKey";
  id: string;
  /** The provider's own words, when it said any. */
  reason?: string;
  message?: string;
}

/** What needs a person now, worst first. Keys whose account is the cause are not listed again. */
export function attention(accounts: Iterable<Account>, keys: Iterable<ServiceKey>, now: number): Attention[] {
  const found: Attention[] = [];
  const down = new Set<string>();
  for (const a of accounts) {
    const ready = condition(a, "Ready") ?? condition(a, "RootKeyVerified");
    const said = { reason: ready?.reason, message: ready?.message };
    const phase = accountPhase(a);
    if (phase === "Unavailable") {
      down.add(a.metadata.name);
      found.push({ severity: "error", what: "accountUnavailable", kind: "Account", id: a.metadata.name, ...said });
    } else if (phase === "Pending" && ready?.status === "False") {
      down.add(a.metadata.name);
      found.push({ severity: "warning", what: "accountPending", kind: "Account", id: a.metadata.name, ...said });
    }
    if ((a.status?.rewrap?.failed ?? 0) > 0 && !a.status?.rewrap?.finishedAt) {
      const c = condition(a, "RewrapComplete");
      found.push({ severity: "error", what: "rekeyFailed", kind: "Account", id: a.metadata.name, reason: c?.reason, message: c?.message });
    }
    const blocked = condition(a, "DeletionBlocked");
    if (a.metadata.deletionTimestamp && blocked?.status === "True") {
      found.push({ severity: "warning", what: "deletionBlocked", kind: "Account", id: a.metadata.name, reason: blocked.reason, message: blocked.message });
    }
  }
  for (const k of keys) {
    const ready = condition(k, "Ready");
    const base = { kind: "ServiceEncryptionKey" as const, id: idOf(k) };
    if (keyState(k) === "Unavailable") {
      if (!down.has(k.spec.accountRef.name)) {
        found.push({ severity: "error", what: "keyUnavailable", ...base, reason: ready?.reason, message: ready?.message });
      }
    } else if (isDue(k, "overdue", now - 5 * 60_000)) {
      // Five minutes of grace: the schedule's own jitter is not news.
      found.push({ severity: "warning", what: "keyOverdue", ...base, reason: ready?.status === "False" ? ready.reason : undefined, message: ready?.status === "False" ? ready.message : undefined });
    } else if (edgesBehind(k)) {
      const c = condition(k, keyState(k) === "Disabled" ? "Evicted" : "Distributed");
      found.push({ severity: "info", what: "edgesBehind", ...base, reason: c?.reason, message: c?.message });
    }
  }
  const rank = { error: 0, warning: 1, info: 2 };
  return found.sort((a, b) => rank[a.severity] - rank[b.severity] || a.id.localeCompare(b.id));
}

/** What a re-key, a disable or a delete of this Account would touch. */
export interface Blast {
  keys: number;
  namespaces: number;
  clients: number;
  names: string[];
}

export function blastRadius(account: string, keys: Iterable<ServiceKey>): Blast {
  const names: string[] = [];
  const namespaces = new Set<string>();
  let clients = 0;
  for (const k of keys) {
    if (k.spec.accountRef.name !== account) continue;
    names.push(idOf(k));
    namespaces.add(k.metadata.namespace ?? "");
    clients += k.status?.activeClients ?? 0;
  }
  return { keys: names.length, namespaces: namespaces.size, clients, names: names.sort() };
}
