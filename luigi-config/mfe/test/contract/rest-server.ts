import type { IncomingMessage, ServerResponse } from "node:http";
import { idOf, type Resource } from "../../src/model/kinds.js";
import { Refusal, type World } from "./world.js";

export async function body(req: IncomingMessage): Promise<string> {
  const parts: Buffer[] = [];
  for await (const p of req) parts.push(p as Buffer);
  return Buffer.concat(parts).toString("utf8");
}

const json = (res: ServerResponse, code: number, value: unknown) => {
  res.writeHead(code, { "Content-Type": "application/json", "Cache-Control": "no-store" });
  res.end(JSON.stringify(value));
};

export const status = (code: number, reason: string, message: string) => ({ kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message });

/** Kubernetes REST as kcp speaks it on a workspace's URL. `path` starts after `/clusters/<workspace>`. */
export async function rest(world: World, req: IncomingMessage, res: ServerResponse, path: string): Promise<void> {
  world.log.push(`${req.method} ${path}`);
  if (world.silent) return;
  if (world.down) {
    req.socket.destroy();
    return;
  }
  const token = /^Bearer (.+)$/.exec(req.headers.authorization ?? "")?.[1];
  if (!token || !world.tokens.has(token)) return json(res, 401, status(401, "Unauthorized", "Unauthorized"));
  const url = new URL(path, "http://x");
  const q = url.searchParams;
  if (url.pathname === "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews") {
    const a = (JSON.parse(await body(req)) as { spec: { resourceAttributes: { verb: string; resource: string } } }).spec.resourceAttributes;
    const denied = world.denied.has(`${a.verb} ${a.resource}`);
    return json(res, 201, { status: { allowed: !denied, reason: denied ? "" : "RBAC: allowed" } });
  }
  if (url.pathname === "/api/v1/namespaces") return json(res, 200, { items: [...world.namespaces].map((name) => ({ metadata: { name } })) });
  const ev = /^\/api\/v1\/namespaces\/([^/]+)\/events$/.exec(url.pathname);
  if (ev) {
    const f = Object.fromEntries((q.get("fieldSelector") ?? "").split(",").map((p) => p.split("=") as [string, string]));
    const items = world.events
      .filter((e) => e.namespace === decodeURIComponent(ev[1]!) && e.kind === f["involvedObject.kind"] && e.name === f["involvedObject.name"])
      .map((e, i) => ({ metadata: { uid: `e${i}`, name: `e${i}` }, type: e.type, reason: e.reason, message: e.message, lastTimestamp: e.time, count: 1, reportingComponent: "openkcm.io/provider" }));
    return json(res, 200, { items });
  }
  const m = /^\/apis\/openkcm\.io\/v1alpha1(?:\/namespaces\/([^/]+))?\/(tenants|accounts|serviceencryptionkeys)(?:\/([^/]+))?$/.exec(url.pathname);
  const kind = m && world.kindOf(m[2]!);
  if (!m || !kind || !world.bound) {
    res.writeHead(404, { "Content-Type": "text/plain" });
    res.end("404 page not found\n");
    return;
  }
  const namespace = m[1] ? decodeURIComponent(m[1]) : undefined;
  const name = m[3] ? decodeURIComponent(m[3]) : undefined;
  const id = namespace ? `${namespace}/${name}` : name!;
  const verb = { GET: name ? "get" : q.get("watch") ? "watch" : "list", POST: "create", PATCH: "patch", DELETE: "delete" }[req.method ?? ""] ?? "";
  if (world.denied.has(`${verb} ${m[2]}`)) {
    return json(res, 403, status(403, "Forbidden", `${m[2]}.openkcm.io is forbidden: User "demo" cannot ${verb} resource "${m[2]}" in API group "openkcm.io" at the cluster scope`));
  }
  const dryRun = q.get("dryRun") === "All";
  try {
    switch (req.method) {
      case "GET": {
        const all = [...world.objects[kind].values()].filter((o) => !namespace || o.metadata.namespace === namespace);
        if (q.get("watch")) {
          if (q.get("resourceVersion") === "expired") {
            res.writeHead(200, { "Content-Type": "application/json" });
            res.end(`${JSON.stringify({ type: "ERROR", object: status(410, "Expired", "too old resource version") })}\n`);
            return;
          }
          res.writeHead(200, { "Content-Type": "application/json" });
          // Headers go out with the first byte; a bookmark is a legal one.
          const line = (e: unknown) => res.write(`${JSON.stringify(e)}\n`);
          const since = Number(q.get("resourceVersion") ?? "0");
          for (const o of all) if (Number(o.metadata.resourceVersion) > since) line({ type: "MODIFIED", object: o });
          for (const g of world.graves) {
            if (g.kind === kind && (!namespace || g.object.metadata.namespace === namespace) && Number(g.object.metadata.resourceVersion) > since) line({ type: "DELETED", object: g.object });
          }
          line({ type: "BOOKMARK", object: { metadata: { resourceVersion: world.resourceVersion } } });
          const stop = world.watch(kind, namespace, line, () => res.end());
          res.on("close", stop);
          return;
        }
        const limit = Number(q.get("limit") ?? "0") || all.length || 1;
        const from = Number(q.get("continue") ?? "0");
        const more = from + limit < all.length;
        return json(res, 200, {
          kind: `${kind}List`,
          metadata: { resourceVersion: world.resourceVersion, ...(more ? { continue: String(from + limit) } : {}) },
          items: all.slice(from, from + limit),
        });
      }
      case "POST": {
        const o = JSON.parse(await body(req)) as Resource;
        return json(res, 201, world.create(kind, { ...o, metadata: { ...o.metadata, namespace } }, dryRun));
      }
      case "PATCH":
        if (req.headers["content-type"] !== "application/merge-patch+json") return json(res, 415, status(415, "UnsupportedMediaType", "merge patch only"));
        return json(res, 200, world.patch(kind, id, JSON.parse(await body(req)) as object, dryRun));
      case "DELETE":
        world.remove(kind, id, dryRun);
        return json(res, 200, { kind: "Status", status: "Success" });
      default:
        return json(res, 405, status(405, "MethodNotAllowed", ""));
    }
  } catch (e) {
    if (e instanceof Refusal) return json(res, e.code, status(e.code, e.reason, e.message));
    throw e;
  }
}

export { idOf };
