import { edgesBehind, isDue, type Due } from "./fleet.js";
import { accountPhase, idOf, keyState, type Account, type ServiceKey } from "./kinds.js";

/** Filters live in the address as node parameters, so every list can be sent to a colleague. */
export type Params = Record<string, string>;

export const PAGE_SIZES = [25, 50, 100];
const DUES = ["overdue", "24h", "7d"];

export interface View {
  q: string;
  sort: string;
  descending: boolean;
  page: number;
  size: number;
}

export function view(p: Params, defaultSort = "name"): View {
  const size = Number(p.size);
  const page = Number(p.page);
  return {
    q: (p.q ?? "").slice(0, 253),
    sort: p.sort || defaultSort,
    descending: p.dir === "desc",
    page: Number.isInteger(page) && page > 0 ? page : 1,
    size: PAGE_SIZES.includes(size) ? size : 25,
  };
}

/** Every word must occur in one of the texts; case does not matter. */
export function matches(q: string, ...texts: (string | undefined)[]): boolean {
  const hay = texts.filter(Boolean).join("\n").toLowerCase();
  return q
    .toLowerCase()
    .split(/\s+/)
    .every((w) => hay.includes(w));
}

export function filterKeys(keys: Iterable<ServiceKey>, p: Params, now: number): ServiceKey[] {
  const { q } = view(p);
  const due = DUES.includes(p.due ?? "") ? (p.due as Due) : undefined;
  const out: ServiceKey[] = [];
  for (const k of keys) {
    if (p.state && keyState(k) !== p.state) continue;
    if (p.account && k.spec.accountRef.name !== p.account) continue;
    if (p.namespace && k.metadata.namespace !== p.namespace) continue;
    if (due && !isDue(k, due, now)) continue;
    if (p.edges === "behind" && !edgesBehind(k)) continue;
    if (q && !matches(q, idOf(k), k.spec.accountRef.name, k.status?.currentVersion)) continue;
    out.push(k);
  }
  return out;
}

export function filterAccounts(accounts: Iterable<Account>, p: Params): Account[] {
  const { q } = view(p);
  const out: Account[] = [];
  for (const a of accounts) {
    if (p.phase && accountPhase(a) !== p.phase) continue;
    if (p.provider && a.spec.providerType !== p.provider) continue;
    if (q && !matches(q, a.metadata.name, a.spec.keyReference, a.spec.providerType)) continue;
    out.push(a);
  }
  return out;
}

type Field = string | number | undefined;

const KEY_FIELDS: Record<string, (k: ServiceKey) => Field> = {
  name: idOf,
  account: (k) => k.spec.accountRef.name,
  state: keyState,
  version: (k) => Number((k.status?.currentVersion ?? "v0").slice(1)),
  next: (k) => Date.parse(k.status?.nextRotation ?? "") || undefined,
  clients: (k) => k.status?.activeClients ?? 0,
};
const ACCOUNT_FIELDS: Record<string, (a: Account) => Field> = {
  name: (a) => a.metadata.name,
  provider: (a) => a.spec.providerType,
  state: accountPhase,
  dependents: (a) => a.status?.dependents ?? 0,
  verified: (a) => Date.parse(a.status?.rootKey?.lastVerified ?? "") || undefined,
};

function sorted<T>(items: T[], field: (t: T) => Field, name: (t: T) => string, descending: boolean): T[] {
  const order = new Intl.Collator(undefined, { numeric: true });
  const sign = descending ? -1 : 1;
  return [...items].sort((a, b) => {
    const x = field(a);
    const y = field(b);
    // What has no value sorts last in either direction.
    if (x === undefined || y === undefined) {
      if (x !== y) return x === undefined ? 1 : -1;
    } else if (typeof x === "number" && typeof y === "number") {
      if (x !== y) return sign * (x - y);
    } else {
      const c = order.compare(String(x), String(y));
      if (c) return sign * c;
    }
    return order.compare(name(a), name(b));
  });
}

export function sortKeys(keys: ServiceKey[], v: View): ServiceKey[] {
  return sorted(keys, KEY_FIELDS[v.sort] ?? KEY_FIELDS.name!, idOf, v.descending);
}

export function sortAccounts(accounts: Account[], v: View): Account[] {
  return sorted(accounts, ACCOUNT_FIELDS[v.sort] ?? ACCOUNT_FIELDS.name!, (a) => a.metadata.name, v.descending);
}

/** The slice to show; a page past the end shows the last one. */
export function paged<T>(items: T[], v: View): { rows: T[]; page: number; pages: number } {
  const pages = Math.max(1, Math.ceil(items.length / v.size));
  const page = Math.min(v.page, pages);
  return { rows: items.slice((page - 1) * v.size, page * v.size), page, pages };
}
