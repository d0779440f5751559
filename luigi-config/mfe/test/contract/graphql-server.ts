import type { IncomingMessage, ServerResponse } from "node:http";
import { PLURAL, type KindName, type Resource } from "../../src/model/kinds.js";
import { body } from "./rest-server.js";
import { Refusal, type World } from "./world.js";

/** A selection set: field → its own selection, or `true` for a leaf. */
type Selection = { [field: string]: Selection | true };

/** Reads `{a b{c}}` from `at`, arguments left out. */
function selection(text: string, start: number): [Selection, number] {
  const out: Selection = {};
  let at = start + 1;
  let last = "";
  while (at < text.length) {
    const c = text[at]!;
    if (c === "}") return [out, at + 1];
    if (c === "{") {
      const [inner, next] = selection(text, at);
      out[last] = inner;
      at = next;
    } else if (c === "(") {
      at = text.indexOf(")", at) + 1;
    } else if (/[A-Za-z_]/.test(c)) {
      const m = /^[A-Za-z0-9_]+/.exec(text.slice(at))![0];
      last = m;
      out[m] = true;
      at += m.length;
    } else at++;
  }
  throw new Error("Syntax Error: unbalanced braces");
}

function pick(value: unknown, s: Selection | true): unknown {
  if (s === true || value === null || value === undefined) {
    if (s === true && value !== null && typeof value === "object" && !Array.isArray(value)) throw new Error("Field must have a selection of subfields");
    return value ?? null;
  }
  if (Array.isArray(value)) return value.map((v) => pick(v, s));
  return Object.fromEntries(Object.entries(s).map(([k, v]) => [k, pick((value as Record<string, unknown>)[k], v)]));
}

const denial = (verb: string, plural: string) => `${plural}.openkcm.io is forbidden: User "demo" cannot ${verb} resource "${plural}" in API group "openkcm.io" at the cluster scope`;

/** The gateway's contract for one workspace: queries, mutations and SSE subscriptions; denials are HTTP 200 with `errors`. */
export async function graphql(world: World, req: IncomingMessage, res: ServerResponse): Promise<void> {
  const { query, variables } = JSON.parse(await body(req)) as { query: string; variables: Record<string, never> & { object?: Resource; name?: string; ns?: string; limit?: number; continue?: string; dryRun?: boolean; rv?: string } };
  world.log.push(`graphql ${query.slice(0, 60)}`);
  if (world.silent) return;
  if (world.down) {
    req.socket.destroy();
    return;
  }
  const token = /^Bearer (.+)$/.exec(req.headers.authorization ?? "")?.[1];
  if (!token || !world.tokens.has(token)) {
    res.writeHead(401, { "Content-Type": "text/plain" });
    res.end("Unauthorized");
    return;
  }
  const answer = (value: unknown) => {
    res.writeHead(200, { "Content-Type": "application/json" });
    res.end(JSON.stringify(value));
  };
  const fail = (message: string) => answer({ data: null, errors: [{ message }] });
  const [root] = selection(query, query.indexOf("{"));
  if (query.startsWith("subscription")) {
    if (req.headers.accept !== "text/event-stream") return fail("subscriptions need Accept: text/event-stream");
    const field = Object.keys(root)[0]!;
    const kind = world.kindOf(field.replace("openkcm_io_v1alpha1_", ""));
    res.writeHead(200, { "Content-Type": "text/event-stream" });
    const send = (value: unknown) => res.write(`event: next\ndata: ${JSON.stringify(value)}\n\n`);
    if (!kind || !world.bound) {
      send({ errors: [{ message: `Cannot query field "${field}" on type "Subscription".` }] });
      res.end();
      return;
    }
    if (world.denied.has(`list ${PLURAL[kind]}`)) {
      send({ errors: [{ message: denial("watch", PLURAL[kind]) }] });
      res.end();
      return;
    }
    const on = (e: { type: string; object: unknown }) => send({ data: { [field]: pick(e, root[field] as Selection) } });
    // Without a version the current set is replayed; with one, what is newer.
    const since = Number(variables.rv ?? "0");
    for (const o of world.objects[kind].values()) {
      if ((!variables.ns || o.metadata.namespace === variables.ns) && Number(o.metadata.resourceVersion) > since) on({ type: since ? "MODIFIED" : "ADDED", object: o });
    }
    const stop = world.watch(kind, variables.ns, on, () => res.end());
    res.on("close", stop);
    return;
  }
  try {
    const core = root.v1 as Selection | undefined;
    if (core?.Events) {
      const items = world.events
        .filter((e) => e.namespace === variables.ns)
        .map((e, i) => ({
          metadata: { name: `e${i}`, uid: `e${i}`, creationTimestamp: e.time },
          type: e.type,
          reason: e.reason,
          message: e.message,
          count: 1,
          firstTimestamp: e.time,
          lastTimestamp: e.time,
          eventTime: null,
          reportingComponent: "openkcm.io/provider",
          involvedObject: { kind: e.kind, name: e.name },
        }));
      return answer({ data: { v1: { Events: pick({ items }, core.Events as Selection) } } });
    }
    const auth = root.authorization_k8s_io as Selection | undefined;
    if (auth) {
      const a = (variables.object as unknown as { spec: { resourceAttributes: { verb: string; resource: string } } }).spec.resourceAttributes;
      const allowed = !world.denied.has(`${a.verb} ${a.resource}`);
      return answer({ data: { authorization_k8s_io: { v1: { createSelfSubjectAccessReview: { status: { allowed, reason: "" } } } } } });
    }
    const group = root.openkcm_io as Selection | undefined;
    if (!group || !world.bound) return fail('Cannot query field "openkcm_io" on type "Query".');
    const v = group.v1alpha1 as Selection;
    const field = Object.keys(v)[0]!;
    const m = /^(create|update|delete)?(Tenant|Account|ServiceEncryptionKey)(s?)$/.exec(field);
    if (!m) return fail(`Cannot query field "${field}" on type "OpenkcmIoV1alpha1Query".`);
    const kind = m[2] as KindName;
    const verb = m[1] === "update" ? "patch" : (m[1] ?? "list");
    if (world.denied.has(`${verb} ${PLURAL[kind]}`)) return fail(denial(verb, PLURAL[kind]));
    if (query.includes("_Input") && !query.includes(`OpenkcmIoV1alpha1${kind}_Input!`)) return fail("Unknown type");
    const id = variables.ns ? `${variables.ns}/${variables.name}` : (variables.name ?? "");
    const dryRun = variables.dryRun === true;
    let value: unknown;
    switch (m[1]) {
      case "create":
        value = world.create(kind, { ...variables.object!, metadata: { ...variables.object!.metadata, namespace: variables.ns } }, dryRun);
        break;
      case "update":
        value = world.patch(kind, id, variables.object!, dryRun);
        break;
      case "delete":
        world.remove(kind, id, dryRun);
        return answer({ data: { openkcm_io: { v1alpha1: { [field]: true } } } });
      default: {
        const all = [...world.objects[kind].values()].filter((o) => !variables.ns || o.metadata.namespace === variables.ns);
        const from = Number(variables.continue ?? "0");
        const limit = variables.limit ?? all.length;
        value = { resourceVersion: world.resourceVersion, continue: from + limit < all.length ? String(from + limit) : "", items: all.slice(from, from + limit) };
      }
    }
    return answer({ data: { openkcm_io: { v1alpha1: { [field]: pick(value, v[field] as Selection) } } } });
  } catch (e) {
    if (e instanceof Refusal) return fail(e.message);
    throw e;
  }
}
