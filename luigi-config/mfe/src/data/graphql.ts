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
import { happenings, type CoreEvent } from "./rest.js";

const GROUP_FIELD = GROUP.replaceAll(".", "_");
const META = "metadata{name namespace uid resourceVersion generation creationTimestamp deletionTimestamp}";
const CONDITIONS = "conditions{type status reason message lastTransitionTime}";

/** The gateway delivers a change only when a selected field changed, so what is shown is selected, and no more. */
const FIELDS: Record<KindName, string> = {
  Tenant: `${META} status{phase path logicalCluster recovered accounts serviceEncryptionKeys ${CONDITIONS}}`,
  Account: `${META} spec{providerType keyReference} status{phase accountKeyVersion dependents rootKey{reference version algorithm lastVerified} rewrap{from to total done failed lost startedAt finishedAt} impact{keys namespaces activeClients} ${CONDITIONS}}`,
  ServiceEncryptionKey: `${META} spec{accountRef{name} algorithm rotationSchedule rotationRequest state clients{issuer subject}} status{state currentVersion lastRotation nextRotation rotationRequest activeClients edges{total current evicted} versions{version state created accountKeyVersion} ${CONDITIONS}}`,
};
const PLURAL_FIELD: Record<KindName, string> = {
  Tenant: "Tenants",
  Account: "Accounts",
  ServiceEncryptionKey: "ServiceEncryptionKeys",
};

/** `openkcm.io` and kind Account → `OpenkcmIoV1alpha1Account_Input`. */
const inputType = (kind: KindName) =>
  `${[...GROUP.split("."), VERSION].map((p) => p[0]!.toUpperCase() + p.slice(1)).join("")}${kind}_Input`;

/** A denial is HTTP 200 with `errors`; the text is all there is to tell one from another. */
export function faultOf(message: string): Fault {
  if (/forbidden|cannot (list|get|watch|create|patch|update|delete)/i.test(message)) return "forbidden";
  if (/unauthori[sz]ed|token.*(expired|invalid)/i.test(message)) return "session";
  if (/too many|429|rate limit/i.test(message)) return "throttled";
  if (/Cannot query field|no matches for kind|could not find the requested resource/i.test(message)) return "notBound";
  if (/not found/i.test(message)) return "notFound";
  if (/conflict|already exists|has been modified/i.test(message)) return "conflict";
  if (/invalid|denied the request|denied request|required|admission/i.test(message)) return "invalid";
  if (/too old resource version|expired|gone/i.test(message)) return "gone";
  return "server";
}

interface Answer<T> {
  data?: T;
  errors?: { message?: string }[];
}

function dig<T>(data: unknown, ...path: string[]): T {
  let at = data as Record<string, unknown> | undefined;
  for (const p of path) at = at?.[p] as Record<string, unknown> | undefined;
  return at as T;
}

/** The kubernetes-graphql-gateway of Platform Mesh, on the address of one workspace (`…/graphql`). */
export class GraphqlPort implements DataPort {
  readonly name = "graphql";

  constructor(
    private readonly url: string,
    private readonly tokens: TokenSource,
    private readonly fetcher: typeof fetch = (...a) => fetch(...a),
  ) {}

  private post(query: string, variables: object, accept: string, signal?: AbortSignal): Promise<Response> {
    return authorised(this.tokens, (token) =>
      this.fetcher(this.url, {
        method: "POST",
        credentials: "omit",
        cache: "no-store",
        redirect: "error",
        signal,
        headers: { "Content-Type": "application/json", Accept: accept, Authorization: `Bearer ${token}` },
        body: JSON.stringify({ query, variables }),
      }),
    );
  }

  private async ask(query: string, variables: object, signal?: AbortSignal): Promise<unknown> {
    let answer: Answer<unknown>;
    try {
      const r = await this.post(query, variables, "application/json", signal);
      if (r.status === 429) throw new ApiError("throttled", "", [], Number(r.headers.get("Retry-After")) || undefined);
      // Some versions answer a refused operation with 400 and the same body.
      answer = (await r.json().catch(() => ({ errors: [{ message: `${r.status} ${r.statusText}` }] }))) as Answer<unknown>;
    } catch (e) {
      throw signal?.aborted ? e : asApiError(e);
    }
    const first = answer.errors?.[0];
    if (first) throw new ApiError(faultOf(first.message ?? ""), first.message ?? "");
    return dig(answer, "data");
  }

  async list<K extends KindName>(kind: K, o: { namespace?: string; limit: number; continue?: string; signal?: AbortSignal }): Promise<Page<Kinds[K]>> {
    const ns = NAMESPACED[kind] && o.namespace ? ["$ns:String,", "namespace:$ns,"] : ["", ""];
    const data = await this.ask(
      `query List(${ns[0]}$limit:Int,$continue:String){${GROUP_FIELD}{${VERSION}{${PLURAL_FIELD[kind]}(${ns[1]}limit:$limit,continue:$continue){resourceVersion continue items{${FIELDS[kind]}}}}}}`,
      { limit: o.limit, continue: o.continue, ...(ns[0] ? { ns: o.namespace } : {}) },
      o.signal,
    );
    const page = dig<Page<Kinds[K]> | undefined>(data, GROUP_FIELD, VERSION, PLURAL_FIELD[kind]);
    if (!page) throw new ApiError("notBound", "");
    return { items: page.items ?? [], resourceVersion: page.resourceVersion ?? "", continue: page.continue || undefined };
  }

  async watch<K extends KindName>(
    kind: K,
    o: { namespace?: string; resourceVersion: string; signal: AbortSignal },
    on: (change: Change<Kinds[K]>) => void,
  ): Promise<void> {
    const field = `${GROUP_FIELD}_${VERSION}_${PLURAL[kind]}`;
    const ns = NAMESPACED[kind] && o.namespace ? ["$ns:String,", "namespace:$ns,"] : ["", ""];
    try {
      const r = await this.post(
        `subscription Watch(${ns[0]}$rv:String){${field}(${ns[1]}resourceVersion:$rv){type object{${FIELDS[kind]}}}}`,
        { rv: o.resourceVersion, ...(ns[0] ? { ns: o.namespace } : {}) },
        // Exactly this: with anything added the gateway answers once and closes.
        "text/event-stream",
        o.signal,
      );
      if (r.status === 429) throw new ApiError("throttled", "");
      if (!r.ok || !r.body) throw new ApiError("server", `${r.status}`);
      for await (const line of lines(r.body, o.signal)) {
        if (!line.startsWith("data:")) continue;
        const text = line.slice(5).trim();
        if (!text) continue;
        const answer = JSON.parse(text) as Answer<Record<string, { type: "ADDED" | "MODIFIED" | "DELETED"; object: Kinds[K] }>>;
        const first = answer.errors?.[0];
        if (first) throw new ApiError(faultOf(first.message ?? ""), first.message ?? "");
        const event = answer.data?.[field];
        if (event?.object?.metadata) on({ type: event.type, object: event.object });
      }
    } catch (e) {
      if (!o.signal.aborted) throw asApiError(e);
    }
  }

  async create<K extends KindName>(kind: K, object: unknown, o?: WriteOptions): Promise<Kinds[K]> {
    const ns = NAMESPACED[kind] ? ["$ns:String,", "namespace:$ns,"] : ["", ""];
    const { apiVersion: _a, kind: _k, ...input } = object as { apiVersion?: string; kind?: string; metadata: Ref };
    const data = await this.ask(
      `mutation Create(${ns[0]}$object:${inputType(kind)}!,$dryRun:Boolean){${GROUP_FIELD}{${VERSION}{create${kind}(${ns[1]}object:$object,dryRun:$dryRun){${FIELDS[kind]}}}}}`,
      { object: input, dryRun: !!o?.dryRun, ...(ns[0] ? { ns: input.metadata.namespace } : {}) },
    );
    return dig(data, GROUP_FIELD, VERSION, `create${kind}`);
  }

  async patch<K extends KindName>(kind: K, ref: Ref, patch: object, o?: WriteOptions): Promise<Kinds[K]> {
    const ns = NAMESPACED[kind] ? ["$ns:String,", "namespace:$ns,"] : ["", ""];
    const data = await this.ask(
      `mutation Update(${ns[0]}$name:String!,$object:${inputType(kind)}!,$dryRun:Boolean){${GROUP_FIELD}{${VERSION}{update${kind}(${ns[1]}name:$name,object:$object,dryRun:$dryRun){${FIELDS[kind]}}}}}`,
      { name: ref.name, object: patch, dryRun: !!o?.dryRun, ...(ns[0] ? { ns: ref.namespace } : {}) },
    );
    return dig(data, GROUP_FIELD, VERSION, `update${kind}`);
  }

  async remove(kind: KindName, ref: Ref, o?: WriteOptions): Promise<void> {
    const ns = NAMESPACED[kind] ? ["$ns:String,", "namespace:$ns,"] : ["", ""];
    await this.ask(
      `mutation Delete(${ns[0]}$name:String!,$dryRun:Boolean){${GROUP_FIELD}{${VERSION}{delete${kind}(${ns[1]}name:$name,dryRun:$dryRun)}}}`,
      { name: ref.name, dryRun: !!o?.dryRun, ...(ns[0] ? { ns: ref.namespace } : {}) },
    );
  }

  async can(verb: Verb, kind: KindName, namespace?: string): Promise<Verdict> {
    const resourceAttributes = { group: GROUP, resource: PLURAL[kind], verb, ...(NAMESPACED[kind] && namespace ? { namespace } : {}) };
    try {
      const data = await this.ask(
        `mutation Can($object:AuthorizationK8sIoV1SelfSubjectAccessReview_Input!){authorization_k8s_io{v1{createSelfSubjectAccessReview(object:$object){status{allowed reason}}}}}`,
        { object: { spec: { resourceAttributes } } },
      );
      const status = dig<{ allowed?: boolean; reason?: string } | undefined>(data, "authorization_k8s_io", "v1", "createSelfSubjectAccessReview", "status");
      if (!status) return { allowed: "unknown" };
      return { allowed: status.allowed ? "yes" : "no", reason: status.reason };
    } catch (e) {
      if (e instanceof ApiError && e.fault === "session") throw e;
      // Not every gateway offers the review: then the server decides when the action is taken.
      return { allowed: "unknown" };
    }
  }

  async events(kind: KindName, ref: Ref, signal?: AbortSignal): Promise<Happening[]> {
    const data = await this.ask(
      `query Events($ns:String){v1{Events(namespace:$ns,limit:500){items{metadata{name uid creationTimestamp} type reason message count firstTimestamp lastTimestamp eventTime reportingComponent involvedObject{kind name}}}}}`,
      { ns: ref.namespace ?? "default" },
      signal,
    );
    const items = dig<(CoreEvent & { involvedObject?: { kind?: string; name?: string } })[] | undefined>(data, "v1", "Events", "items") ?? [];
    return happenings(items.filter((e) => e.involvedObject?.kind === kind && e.involvedObject.name === ref.name));
  }
}

/**
 * The portal may hand out an address whose workspace is stale or still a placeholder: the part before
 * `/graphql` is made anew from the workspace's path.
 */
export function gatewayUrl(address: string | undefined, kcpPath: string | undefined): string | undefined {
  if (!address) return undefined;
  const m = /^(.*)\/([^/]+)\/graphql\/?$/.exec(address);
  if (!m) return undefined;
  const segment = kcpPath && !kcpPath.startsWith(":") ? kcpPath : m[2]!;
  // After `root:` a colon starts a placeholder that nobody filled in.
  if (segment.startsWith(":") || segment.includes("::") || /:[a-z]+[A-Z]/.test(segment)) return undefined;
  return `${m[1]}/${segment}/graphql`;
}
