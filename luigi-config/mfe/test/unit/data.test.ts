import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Collection } from "../../src/data/collection.js";
import { GraphqlPort } from "../../src/data/graphql.js";
import { ApiError, type Change, type DataPort, type TokenSource } from "../../src/data/port.js";
import { RestPort } from "../../src/data/rest.js";
import type { ServiceKey } from "../../src/model/kinds.js";
import { keyObject } from "../../src/model/manifest.js";
import { graphql } from "../contract/graphql-server.js";
import { rest } from "../contract/rest-server.js";
import { World } from "../contract/world.js";

class Tokens implements TokenSource {
  renewals = 0;
  constructor(
    public current: string | undefined = "demo",
    public next?: string,
  ) {}
  token(): string | undefined {
    return this.current;
  }
  renew(): Promise<boolean> {
    this.renewals++;
    if (!this.next) return Promise.resolve(false);
    this.current = this.next;
    return Promise.resolve(true);
  }
}

let world: World;
let server: Server;
let url: string;
beforeEach(async () => {
  world = new World({ keys: 30 });
  server = createServer((req, res) => {
    void (req.url!.startsWith("/kcp") ? rest(world, req, res, req.url!.slice(4)) : graphql(world, req, res)).catch((e: unknown) => {
      res.statusCode = 500;
      res.end(String(e));
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  world.cut();
  server.closeAllConnections();
  server.close();
});

/** Waits for something to become true; the test's own limit is the only clock. */
async function until(what: () => boolean): Promise<void> {
  while (!what()) await new Promise((r) => setTimeout(r, 5));
}

const ADAPTERS: [string, (t: TokenSource) => DataPort][] = [
  ["rest", (t) => new RestPort(`${url}/kcp`, t)],
  ["graphql", (t) => new GraphqlPort(`${url}/graphql`, t)],
];

describe.each(ADAPTERS)("%s", (_name, make) => {
  const fault = async (p: Promise<unknown>) => p.then(() => "none", (e: ApiError) => e.fault);

  test("lists page by page, all of it and each once", async () => {
    const port = make(new Tokens());
    const seen: string[] = [];
    let next: string | undefined;
    do {
      const page = await port.list("ServiceEncryptionKey", { limit: 7, continue: next });
      seen.push(...page.items.map((k) => `${k.metadata.namespace}/${k.metadata.name}`));
      next = page.continue;
    } while (next);
    expect(new Set(seen).size).toBe(30);
    expect(seen).toHaveLength(30);
  });

  test("shows the same fields, whichever way they came", async () => {
    const page = await make(new Tokens()).list("ServiceEncryptionKey", { limit: 1 });
    const k = page.items[0]!;
    const own = world.objects.ServiceEncryptionKey.get(`${k.metadata.namespace}/${k.metadata.name}`) as ServiceKey;
    expect(k.spec.accountRef).toEqual(own.spec.accountRef);
    expect(k.status).toMatchObject({ currentVersion: own.status!.currentVersion, edges: own.status!.edges });
    expect(k.status!.versions).toEqual(own.status!.versions);
  });

  test("keeps to a namespace", async () => {
    const page = await make(new Tokens()).list("ServiceEncryptionKey", { limit: 100, namespace: "payments" });
    expect(page.items.length).toBeGreaterThan(0);
    expect(new Set(page.items.map((k) => k.metadata.namespace))).toEqual(new Set(["payments"]));
  });

  test("streams additions, changes and deletions", async () => {
    const port = make(new Tokens());
    const { resourceVersion } = await port.list("ServiceEncryptionKey", { limit: 1 });
    const got: string[] = [];
    const stop = new AbortController();
    const stream = port.watch("ServiceEncryptionKey", { resourceVersion, signal: stop.signal }, (c: Change<ServiceKey>) => {
      if (c.type !== "BOOKMARK") got.push(`${c.type} ${c.object.metadata.name} ${c.object.spec?.rotationRequest ?? ""}`.trim());
    });
    await until(() => world.streams === 1);
    const object = keyObject({ name: "fresh", namespace: "payments", account: "aws-root-production", rotationSchedule: "Daily", clients: [] });
    await port.create("ServiceEncryptionKey", object);
    await port.patch("ServiceEncryptionKey", { name: "fresh", namespace: "payments" }, { spec: { rotationRequest: "r1" } });
    await port.remove("ServiceEncryptionKey", { name: "fresh", namespace: "payments" });
    await until(() => got.some((g) => g.startsWith("DELETED")));
    stop.abort();
    await stream;
    expect(got[0]).toBe("ADDED fresh");
    expect(got).toContain("MODIFIED fresh r1");
    expect(got.at(-1)).toMatch(/^DELETED fresh/);
  });

  test("a dry run makes nothing", async () => {
    const port = make(new Tokens());
    const object = keyObject({ name: "fresh", namespace: "payments", account: "aws-root-production", rotationSchedule: "Daily", clients: [] });
    await port.create("ServiceEncryptionKey", object, { dryRun: true });
    expect(world.objects.ServiceEncryptionKey.has("payments/fresh")).toBe(false);
    await port.patch("Account", { name: "aws-root-production" }, { spec: { keyReference: "arn:aws:kms:eu-central-1:111122223333:alias/x" } }, { dryRun: true });
    expect(JSON.stringify(world.objects.Account.get("aws-root-production"))).not.toContain("alias/x");
  });

  test("says why it was refused", async () => {
    const port = make(new Tokens());
    const key = (over: object) => ({ ...keyObject({ name: "k", namespace: "payments", account: "a", rotationSchedule: "Daily", clients: [] }), ...over });
    expect(await fault(port.create("ServiceEncryptionKey", keyObject({ name: "k", namespace: "payments", account: "a", rotationSchedule: "Monthly", clients: [] })))).toBe("invalid");
    await port.create("ServiceEncryptionKey", key({}));
    expect(await fault(port.create("ServiceEncryptionKey", key({})))).toBe("conflict");
    expect(await fault(port.patch("ServiceEncryptionKey", { name: "none", namespace: "payments" }, { spec: {} }))).toBe("notFound");
    const blocked = port.remove("Account", { name: "aws-root-production" }, { dryRun: true });
    expect(await fault(blocked)).toBe("forbidden");
    await expect(blocked).rejects.toThrow(/protects \d+ ServiceEncryptionKeys/);
    world.denied.add("list accounts");
    expect(await fault(port.list("Account", { limit: 1 }))).toBe("forbidden");
    world.bound = false;
    expect(await fault(port.list("Tenant", { limit: 1 }))).toBe("notBound");
    world.down = true;
    expect(await fault(port.list("Tenant", { limit: 1 }))).toBe("network");
  });

  test("asks what the user may do", async () => {
    world.denied.add("create accounts");
    const port = make(new Tokens());
    expect((await port.can("create", "Account")).allowed).toBe("no");
    expect((await port.can("patch", "ServiceEncryptionKey", "payments")).allowed).toBe("yes");
  });

  test("reads the events of one object, newest first", async () => {
    const [id, key] = [...world.objects.ServiceEncryptionKey][0]!;
    world.events.push({ kind: "ServiceEncryptionKey", name: key.metadata.name, namespace: key.metadata.namespace!, type: "Warning", reason: "Late", message: id, time: "2099-01-01T00:00:00Z" });
    const found = await make(new Tokens()).events("ServiceEncryptionKey", { name: key.metadata.name, namespace: key.metadata.namespace });
    expect(found.map((e) => e.reason)).toEqual(["Late", "Rotated"]);
  });

  test("an old token is renewed once and the request repeated", async () => {
    const tokens = new Tokens("old", "demo");
    expect((await make(tokens).list("Tenant", { limit: 1 })).items).toHaveLength(1);
    expect(tokens.renewals).toBe(1);
  });

  test("a token that nobody renews ends the session after one attempt", async () => {
    const tokens = new Tokens("old");
    expect(await fault(make(tokens).list("Tenant", { limit: 1 }))).toBe("session");
    expect(tokens.renewals).toBe(1);
    expect(world.log).toHaveLength(1);
  });

  test("a collection stays current through cuts, and nothing that vanished meanwhile stays", async () => {
    const c = new Collection("ServiceEncryptionKey", make(new Tokens()), () => undefined, undefined, () => new Promise((r) => setTimeout(r, 1)));
    c.start();
    await until(() => c.phase === "ready" && world.streams === 1);
    expect(c.items.size).toBe(30);
    world.down = true;
    world.cut();
    await until(() => c.staleSince !== undefined);
    expect(c.items.size).toBe(30);
    const [gone] = [...world.objects.ServiceEncryptionKey.keys()];
    world.remove("ServiceEncryptionKey", gone!, false);
    world.down = false;
    await until(() => c.staleSince === undefined && world.streams === 1);
    expect(c.items.size).toBe(29);
    expect(c.items.has(gone!)).toBe(false);
    c.close();
    await until(() => world.streams === 0);
    // A page that was out of sight for long comes back with everything that happened meanwhile.
    const [next] = [...world.objects.ServiceEncryptionKey.keys()];
    world.remove("ServiceEncryptionKey", next!, false);
    c.start();
    await until(() => world.streams === 1 && c.items.size === 28);
    c.close();
  });

  test("a collection without a session sends no more requests, until it is asked to", async () => {
    const tokens = new Tokens("old");
    const c = new Collection("Tenant", make(tokens), () => undefined, undefined, () => new Promise((r) => setTimeout(r, 1)));
    c.start();
    await until(() => c.error?.fault === "session");
    const before = world.log.length;
    await new Promise((r) => setTimeout(r, 30));
    expect(world.log.length).toBe(before);
    tokens.current = "demo";
    c.retry();
    await until(() => c.phase === "ready");
    c.close();
  });
});

describe("a collection and its server", () => {
  /** A port that follows a script: one entry for each list and watch, in order. */
  function scripted(script: (string | ApiError)[]) {
    const asked: string[] = [];
    const delays: number[] = [];
    let over: () => void = () => undefined;
    const done = new Promise<void>((r) => (over = r));
    const next = (what: string): Promise<never> | undefined => {
      asked.push(what);
      const entry = script.shift();
      if (entry === undefined) {
        over();
        return new Promise<never>(() => undefined);
      }
      return entry instanceof ApiError ? Promise.reject(entry) : undefined;
    };
    const port = {
      name: "rest",
      list: async () => (await next("list")) ?? { items: [], resourceVersion: "7" },
      watch: async (_kind: string, o: { resourceVersion: string }) => void (await next(`watch ${o.resourceVersion}`)),
    } as unknown as DataPort;
    const c = new Collection("Tenant", port, () => undefined, undefined, (ms) => (delays.push(ms), Promise.resolve()));
    c.start();
    return { c, asked, delays, done };
  }

  test("a history that is too old is listed anew at once", async () => {
    const { c, asked, delays, done } = scripted(["list", new ApiError("gone", ""), "list"]);
    await done;
    expect(asked).toEqual(["list", "watch 7", "list", "watch 7"]);
    expect(delays).toEqual([]);
    c.close();
  });

  test("a server that fails is asked less and less often, and never less than twice a minute", async () => {
    const { c, delays, done } = scripted(Array.from({ length: 12 }, () => new ApiError("server", "")));
    await done;
    for (const [i, ms] of delays.entries()) {
      const expected = Math.min(30_000, 500 * 2 ** Math.min(i + 1, 6));
      expect(ms).toBeGreaterThanOrEqual(expected * 0.75);
      expect(ms).toBeLessThanOrEqual(expected * 1.25);
    }
    expect(delays).toHaveLength(12);
    c.close();
  });

  test("a server that asks for time gets it", async () => {
    const { c, delays, done } = scripted([new ApiError("throttled", "", [], 90)]);
    await done;
    expect(delays).toEqual([90_000]);
    c.close();
  });
});

test("an own write that the watch has already overtaken does not turn time back", () => {
  const c = new Collection("Tenant", { name: "rest" } as DataPort, () => undefined);
  c.learn({ metadata: { name: "t", resourceVersion: "12" }, status: { phase: "Active" } });
  c.learn({ metadata: { name: "t", resourceVersion: "9" }, status: { phase: "Provisioning" } });
  expect(c.get("t")?.status?.phase).toBe("Active");
});

test("the token is in no address and in no body", async () => {
  const seen: string[] = [];
  const port = new RestPort("http://x/clusters/root", new Tokens("s3cret"), (input, init) => {
    seen.push(`${String(input instanceof Request ? input.url : input)} ${typeof init?.body === "string" ? init.body : ""}`);
    return Promise.resolve(new Response(JSON.stringify({ metadata: {}, items: [] })));
  });
  await port.list("Account", { limit: 1 });
  await port.patch("Account", { name: "a" }, { spec: {} });
  await port.can("list", "Account");
  expect(seen).toHaveLength(3);
  expect(seen.join("\n")).not.toContain("s3cret");
});
