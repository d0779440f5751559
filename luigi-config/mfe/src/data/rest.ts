import { GROUP, NAMESPACED, PLURAL, VERSION, type Happening, type KindName, type Kinds } from "../model/kinds.js";
import {
  ApiError,
  asApiError,
  authorised,
  lines,
  type Change,
  type DataPort,
  type Fault,
  type Page,
  type Ref,
  type TokenSource,
  type Verb,
  type Verdict,
  type WriteOptions,
} from "./port.js";

interface Status {
  kind?: string;
  message?: string;
  reason?: string;
  code?: number;
  details?: { causes?: { field?: string; message?: string }[]; retryAfterSeconds?: number };
}

function fault(status: number, collection: boolean): Fault {
  switch (status) {
    case 403:
      return "forbidden";
    case 404:
      return collection ? "notBound" : "notFound";
    case 409:
      return "conflict";
    case 400:
    case 422:
      return "invalid";
    case 410:
      return "gone";
    case 429:
      return "throttled";
    default:
      return "server";
  }
}

/** Kubernetes REST on one workspace's URL, for example `https://HOST/clusters/root:acme`. */
export class RestPort implements DataPort {
  readonly name = "rest";

  constructor(
    private readonly base: string,
    private readonly tokens: TokenSource,
    private readonly fetcher: typeof fetch = (...a) => fetch(...a),
  ) {}

  private path(kind: KindName, namespace?: string, name?: string): string {
    const ns = NAMESPACED[kind] && namespace ? `/namespaces/${encodeURIComponent(namespace)}` : "";
    return `/apis/${GROUP}/${VERSION}${ns}/${PLURAL[kind]}${name ? `/${encodeURIComponent(name)}` : ""}`;
  }

  private async send(path: string, init: RequestInit & { query?: Record<string, string | undefined> } = {}, collection = false): Promise<Response> {
    const url = new URL(this.base.replace(/\/$/, "") + path);
    for (const [k, v] of Object.entries(init.query ?? {})) if (v) url.searchParams.set(k, v);
    let response: Response;
    try {
      response = await authorised(this.tokens, (token) =>
        this.fetcher(url, {
          ...init,
          credentials: "omit",
          cache: "no-store",
          redirect: "error",
          headers: { Accept: "application/json", ...init.headers, Authorization: `Bearer ${token}` },
        }),
      );
    } catch (e) {
      throw init.signal?.aborted ? e : asApiError(e);
    }
    if (response.ok) return response;
    const said = (await response.json().catch(() => ({}))) as Status;
    throw new ApiError(
      fault(response.status, collection),
      said.message ?? response.statusText,
      (said.details?.causes ?? []).map((c) => ({ field: c.field ?? "", message: c.message ?? "" })),
      said.details?.retryAfterSeconds ?? (Number(response.headers.get("Retry-After")) || undefined),
    );
  }

  async list<K extends KindName>(kind: K, o: { namespace?: string; limit: number; continue?: string; signal?: AbortSignal }): Promise<Page<Kinds[K]>> {
    const r = await this.send(
      this.path(kind, o.namespace),
      { signal: o.signal, query: { limit: String(o.limit), continue: o.continue } },
      true,
    );
    const body = (await r.json()) as { metadata: { resourceVersion?: string; continue?: string }; items: Kinds[K][] };
    return { items: body.items ?? [], resourceVersion: body.metadata.resourceVersion ?? "", continue: body.metadata.continue || undefined };
  }

  async watch<K extends KindName>(
    kind: K,
    o: { namespace?: string; resourceVersion: string; signal: AbortSignal },
    on: (change: Change<Kinds[K]>) => void,
  ): Promise<void> {
    const r = await this.send(
      this.path(kind, o.namespace),
      {
        signal: o.signal,
        query: { watch: "1", allowWatchBookmarks: "true", resourceVersion: o.resourceVersion, timeoutSeconds: "540" },
      },
      true,
    );
    try {
      for await (const line of lines(r.body!, o.signal)) {
        if (!line) continue;
        const event = JSON.parse(line) as { type: string; object: Kinds[K] & Status };
        switch (event.type) {
          case "ADDED":
          case "MODIFIED":
          case "DELETED":
            on({ type: event.type, object: event.object });
            break;
          case "BOOKMARK":
            on({ type: "BOOKMARK", resourceVersion: event.object.metadata.resourceVersion ?? "" });
            break;
          case "ERROR":
            throw new ApiError(fault(event.object.code ?? 500, true), event.object.message ?? "");
        }
      }
    } catch (e) {
      if (!o.signal.aborted) throw asApiError(e);
    }
  }

  private async write<T>(path: string, method: string, body: unknown, type: string, o?: WriteOptions): Promise<T> {
    const r = await this.send(path, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: body === undefined ? {} : { "Content-Type": type },
      query: { dryRun: o?.dryRun ? "All" : undefined, fieldManager: method === "DELETE" ? undefined : "openkcm-console" },
    });
    return (await r.json()) as T;
  }

  create<K extends KindName>(kind: K, object: unknown, o?: WriteOptions): Promise<Kinds[K]> {
    const namespace = (object as { metadata?: Ref }).metadata?.namespace;
    return this.write(this.path(kind, namespace), "POST", object, "application/json", o);
  }

  patch<K extends KindName>(kind: K, ref: Ref, patch: object, o?: WriteOptions): Promise<Kinds[K]> {
    return this.write(this.path(kind, ref.namespace, ref.name), "PATCH", patch, "application/merge-patch+json", o);
  }

  async remove(kind: KindName, ref: Ref, o?: WriteOptions): Promise<void> {
    await this.write(this.path(kind, ref.namespace, ref.name), "DELETE", undefined, "", o);
  }

  async can(verb: Verb, kind: KindName, namespace?: string): Promise<Verdict> {
    const r = await this.send("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        apiVersion: "authorization.k8s.io/v1",
        kind: "SelfSubjectAccessReview",
        spec: { resourceAttributes: { group: GROUP, resource: PLURAL[kind], verb, ...(NAMESPACED[kind] && namespace ? { namespace } : {}) } },
      }),
    });
    const { status } = (await r.json()) as { status?: { allowed?: boolean; reason?: string } };
    return { allowed: status?.allowed ? "yes" : "no", reason: status?.reason };
  }

  async events(kind: KindName, ref: Ref, signal?: AbortSignal): Promise<Happening[]> {
    // Events about cluster-scoped objects live in `default`.
    const ns = encodeURIComponent(ref.namespace ?? "default");
    const r = await this.send(`/api/v1/namespaces/${ns}/events`, {
      signal,
      query: { limit: "200", fieldSelector: `involvedObject.kind=${kind},involvedObject.name=${ref.name}` },
    });
    return happenings(((await r.json()) as { items?: CoreEvent[] }).items ?? []);
  }
}

export interface CoreEvent {
  metadata?: { name?: string; uid?: string; creationTimestamp?: string };
  type?: string;
  reason?: string;
  message?: string;
  count?: number;
  firstTimestamp?: string;
  lastTimestamp?: string;
  eventTime?: string;
  reportingComponent?: string;
  source?: { component?: string };
  series?: { count?: number; lastObservedTime?: string };
}

/** Of the times that an event carries, some in seconds and some finer, the last. */
function latest(...times: (string | null | undefined)[]): string {
  return times.reduce<string>((best, t) => (t && !(Date.parse(t) <= Date.parse(best)) ? t : best), "");
}

/** Newest first. */
export function happenings(items: CoreEvent[]): Happening[] {
  return items
    .map((e, i) => ({
      id: e.metadata?.uid ?? e.metadata?.name ?? String(i),
      time: latest(e.series?.lastObservedTime, e.lastTimestamp, e.eventTime, e.firstTimestamp, e.metadata?.creationTimestamp),
      type: e.type ?? "Normal",
      reason: e.reason ?? "",
      message: e.message ?? "",
      source: e.reportingComponent || e.source?.component || "",
      count: e.series?.count ?? e.count ?? 1,
    }))
    .sort((a, b) => Date.parse(b.time) - Date.parse(a.time) || b.time.localeCompare(a.time));
}
