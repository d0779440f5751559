import type { Happening, KindName, Kinds } from "../model/kinds.js";

/** Why a request failed, in the terms in which the console answers. */
export type Fault =
  | "session" // the token is not accepted and the shell has no newer one
  | "forbidden"
  | "notBound" // the workspace does not know the kind: OpenKCM is not enabled here
  | "notFound"
  | "conflict"
  | "invalid" // refused by the schema or by an admission policy, with a message for people
  | "gone" // the watch's history is too old: list again
  | "throttled"
  | "network"
  | "server";

export class ApiError extends Error {
  constructor(
    readonly fault: Fault,
    /** The server's own words; may be empty. Hostile text: only ever shown as text. */
    message: string,
    readonly causes: { field: string; message: string }[] = [],
    /** Seconds that the server asked us to wait. */
    readonly retryAfter?: number,
  ) {
    super(message);
    this.name = "ApiError";
  }
}

export function asApiError(e: unknown): ApiError {
  if (e instanceof ApiError) return e;
  // fetch says TypeError for everything that happens below HTTP.
  return new ApiError(e instanceof TypeError ? "network" : "server", e instanceof Error ? e.message : String(e));
}

export interface Ref {
  name: string;
  namespace?: string;
}

export interface Page<T> {
  items: T[];
  resourceVersion: string;
  continue?: string;
}

export type Change<T> = { type: "ADDED" | "MODIFIED" | "DELETED"; object: T } | { type: "BOOKMARK"; resourceVersion: string };

export type Verb = "list" | "create" | "patch" | "delete";
/** `unknown` when the back end cannot say; the action is then offered and the server decides. */
export interface Verdict {
  allowed: "yes" | "no" | "unknown";
  reason?: string;
}

export interface WriteOptions {
  dryRun?: boolean;
}

/** Everything that the console asks of a back end. Two adapters speak it: Kubernetes REST and the GraphQL gateway. */
export interface DataPort {
  readonly name: "rest" | "graphql";
  list<K extends KindName>(kind: K, o: { namespace?: string; limit: number; continue?: string; signal?: AbortSignal }): Promise<Page<Kinds[K]>>;
  /** Resolves when the stream ends in good order (it does, every few minutes); rejects with `gone` when a new list is needed. */
  watch<K extends KindName>(
    kind: K,
    o: { namespace?: string; resourceVersion: string; signal: AbortSignal },
    on: (change: Change<Kinds[K]>) => void,
  ): Promise<void>;
  create<K extends KindName>(kind: K, object: unknown, o?: WriteOptions): Promise<Kinds[K]>;
  /** A JSON merge patch of the spec or of the metadata; never of the status. */
  patch<K extends KindName>(kind: K, ref: Ref, patch: object, o?: WriteOptions): Promise<Kinds[K]>;
  remove(kind: KindName, ref: Ref, o?: WriteOptions): Promise<void>;
  can(verb: Verb, kind: KindName, namespace?: string): Promise<Verdict>;
  events(kind: KindName, ref: Ref, signal?: AbortSignal): Promise<Happening[]>;
}

/** Where a port gets its bearer token from; `renew` asks the shell for a newer one and says whether there is one. */
export interface TokenSource {
  token(): string | undefined;
  renew(): Promise<boolean>;
}

/** Runs a request with the freshest token; on a 401 renews it once, then gives up as `session`. */
export async function authorised(source: TokenSource, send: (token: string) => Promise<Response>): Promise<Response> {
  let token = source.token();
  if (!token && (await source.renew())) token = source.token();
  if (!token) throw new ApiError("session", "");
  const first = await send(token);
  if (first.status !== 401) return first;
  await first.body?.cancel();
  // The newer token may have come while the old one was on its way.
  let fresh = source.token();
  if (fresh === token && (await source.renew())) fresh = source.token();
  if (fresh && fresh !== token) {
    const second = await send(fresh);
    if (second.status !== 401) return second;
    await second.body?.cancel();
  }
  throw new ApiError("session", "");
}

/** Splits a byte stream into lines. A line over 4 MiB is no object of ours and ends the stream with an error. */
export async function* lines(body: ReadableStream<Uint8Array>, signal?: AbortSignal): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      if (signal?.aborted) return;
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      let from = 0;
      for (let at = rest.indexOf("\n", from); at >= 0; at = rest.indexOf("\n", from)) {
        yield rest.slice(from, at).replace(/\r$/, "");
        from = at + 1;
      }
      rest = rest.slice(from);
      if (rest.length > 4 << 20) throw new ApiError("server", "a watch event is too long");
      if (done) {
        if (rest) yield rest;
        return;
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
