import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Frame, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { browser, mfe, type Browser } from "./browser.js";

/**
 * What `make up` leaves in `.openkcm/env`: without it there is nothing real to walk through. Real are kcp, provider, edges,
 * key stores, the console's server, Luigi and the browser.
 */
const { OPENKCM_CONSOLE_URL, KCP_URL = "", OPENKCM_DEMO_WORKSPACE = "", OPENKCM_PROVIDER_WORKSPACE = "", OPENKCM_EXPORT = "" } = process.env;
const HERE = resolve(import.meta.dirname, "../..");
const UP = resolve(HERE, "../../.openkcm");
const OUT = join(HERE, "test-results/real");

/** A workspace's administrator at a terminal. */
const kubectl = (workspace: string, args: string[], input?: unknown): string =>
  execFileSync("kubectl", ["--server", `${KCP_URL}/clusters/${workspace}`, ...args], { encoding: "utf8", input: input === undefined ? undefined : JSON.stringify(input) }).trim();
const apply = (workspace: string, ...objects: object[]) => kubectl(workspace, ["apply", "-f", "-"], { apiVersion: "v1", kind: "List", items: objects });
const rootOf = (account: string) => kubectl(OPENKCM_DEMO_WORKSPACE, ["get", "kcma", account, "-o", "jsonpath={.spec.keyReference}"]);

describe.skipIf(!OPENKCM_CONSOLE_URL)("the demo of `make up`", () => {
  let b: Browser;
  let page: Page;
  beforeAll(async () => {
    mkdirSync(OUT, { recursive: true });
    b = await browser();
    page = await b.context.newPage();
  });
  afterAll(() => b.close());
  const open = async (path: string) => {
    await page.goto(`${OPENKCM_CONSOLE_URL}/home/openkcm${path}`);
    return mfe(page);
  };

  test("the overview counts a fleet with something to look at", async () => {
    const f = await open("");
    await f.locator("kc-overview .tile", { hasText: "Active Accounts" }).waitFor();
    const tile = async (name: string) => Number((await f.locator(".tile", { hasText: name }).locator(".value").innerText()).replace(/\D/g, ""));
    expect(await tile("Active Accounts")).toBeGreaterThanOrEqual(8);
    expect(await tile("Active keys")).toBeGreaterThan(200);
    expect(await tile("Disabled keys")).toBeGreaterThan(0);
    expect(await tile("Due within 24 hours")).toBeGreaterThan(30);
    await f.locator(".todo", { hasText: "Access denied" }).waitFor();
    await page.screenshot({ path: join(OUT, "overview.png") });
  });

  test("lists, an Account, the graph and the tile show what is there", async () => {
    let f = await open("/accounts");
    await f.locator("tbody tr", { hasText: "gcp-partner" }).locator("text=Access denied").waitFor();
    await page.screenshot({ path: join(OUT, "accounts.png") });
    f = await open("/accounts/aws-retail");
    await f.locator(".chain a", { hasText: /Show all/ }).waitFor();
    await page.screenshot({ path: join(OUT, "account.png") });
    f = await open("/keys?~account=aws-retail&~sort=clients&~dir=desc");
    await f.locator("tbody tr").nth(10).waitFor();
    await page.screenshot({ path: join(OUT, "keys.png") });
    f = await open("/topology?~account=hsm-core-banking");
    await f.locator("[data-id='a:hsm-core-banking'][aria-expanded=true]").waitFor();
    await page.screenshot({ path: join(OUT, "topology.png") });
    await page.goto(`${OPENKCM_CONSOLE_URL}/home/dashboard`);
    await page.locator("text=Active Accounts").waitFor();
  });

  test("the server's own refusal is read before anything is made", async () => {
    const f = await open("/keys/new");
    await f.locator("kc-key-wizard label").first().locator("input").check();
    await f.locator("#name input").fill("x");
    await f.locator("#namespace input").fill("no-such-namespace");
    await f.locator("#namespace input").press("Tab");
    await f.locator("#next").click();
    await f.locator("#next").click();
    await f.locator("text=The server would not accept this").waitFor();
    expect(await f.locator("#finish").getAttribute("disabled")).not.toBeNull();
  });
});

describe.skipIf(!OPENKCM_CONSOLE_URL)("a workspace's whole way, from enabling to recovery", () => {
  const name = `journey-${Date.now().toString(36)}`;
  const workspace = `${OPENKCM_DEMO_WORKSPACE}:${name}`;
  const admin = { apiVersion: "v1", kind: "ServiceAccount", metadata: { name: "admin", namespace: "default" } };
  const binding = {
    apiVersion: "apis.kcp.io/v1alpha2",
    kind: "APIBinding",
    metadata: { name: OPENKCM_EXPORT },
    spec: {
      reference: { export: { path: OPENKCM_PROVIDER_WORKSPACE, name: OPENKCM_EXPORT } },
      permissionClaims: [{ group: "", resource: "events", verbs: ["*"], state: "Accepted", selector: { matchAll: true } }],
    },
  };
  let folder: string;
  let server: ChildProcess;
  let url: string;
  let b: Browser;
  let page: Page;
  let f: Frame;

  const signIn = () => writeFileSync(join(folder, "token"), kubectl(workspace, ["create", "token", "admin", "-n", "default"]), { mode: 0o600 });
  const open = async (path = "") => {
    await page.goto(`${url}/home/openkcm${path}`);
    f = await mfe(page);
  };
  const address = (what: RegExp) => page.waitForURL((u) => what.test(u.href.replaceAll("%7E", "~")));
  const edges = (text: string | RegExp) => f.locator("[aria-labelledby=edges] [role=status]", { hasText: text }).waitFor();
  const shell = (call: "setTheme" | "setLocale" | "refresh", arg = "") =>
    page.evaluate(([c, a]) => (window as unknown as { openkcmShell: Record<string, (x: string) => unknown> }).openkcmShell[c!]!(a!) as Promise<void>, [call, arg]);

  /** Each step begins where the one before ended. */
  let broken = false;
  const step = (what: string, walk: () => Promise<void>) =>
    test(what, async (at) => {
      if (broken) at.skip();
      broken = true;
      await walk();
      broken = false;
    });

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "openkcm-journey-"));
    apply(OPENKCM_DEMO_WORKSPACE, { apiVersion: "tenancy.kcp.io/v1alpha1", kind: "Workspace", metadata: { name }, spec: { type: { name: "universal", path: "root" } } });
    kubectl(OPENKCM_DEMO_WORKSPACE, ["wait", "workspace", name, "--for=jsonpath={.status.phase}=Ready", "--timeout=90s"]);
    apply(workspace, admin, { apiVersion: "v1", kind: "Namespace", metadata: { name: "payments" } }, {
      apiVersion: "rbac.authorization.k8s.io/v1",
      kind: "ClusterRoleBinding",
      metadata: { name: "console-admin" },
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "ClusterRole", name: "cluster-admin" },
      subjects: [{ kind: "ServiceAccount", namespace: "default", name: "admin" }],
    });
    signIn();
    writeFileSync(join(folder, "shell.json"), JSON.stringify({ workspace, tokenFile: join(folder, "token"), user: "security administrator" }));
    server = spawn(
      join(UP, "bin/openkcm-console"),
      ["--address=127.0.0.1:0", "--mfe-dir", join(HERE, "dist"), "--shell-dir", join(HERE, "../shell/dist"), "--shell-config", join(folder, "shell.json"), "--kcp-url", KCP_URL, "--kcp-ca", join(UP, "kcp-ca.pem")],
      { stdio: ["ignore", "pipe", "inherit"] },
    );
    // The first line is the address.
    url = await new Promise((done, fail) => {
      server.stdout!.once("data", (line: Buffer) => done(line.toString().split("\n")[0]!.trim().replace(/\/$/, "")));
      server.once("exit", (code) => fail(new Error(`openkcm-console has ended: ${code}`)));
    });
    b = await browser();
    page = await b.context.newPage();
  });
  afterAll(async () => {
    await b?.close();
    server?.kill();
    kubectl(OPENKCM_DEMO_WORKSPACE, ["delete", "workspace", name, "--wait=false", "--ignore-not-found"]);
    rmSync(folder, { recursive: true, force: true });
  });

  step("enable", async () => {
    await open();
    await f.locator("text=OpenKCM is not enabled in this workspace").waitFor();
    apply(workspace, binding);
    await f.locator("text=Bring your first root key").waitFor({ timeout: 90_000 });
    await f.locator(".title .badge", { hasText: "Active" }).waitFor();
  });

  step("the wizard makes an Account, whose root key is verified", async () => {
    await f.locator("ui5-button", { hasText: "Create Account" }).click();
    await f.locator("input[value=AWSKMS]").check();
    await f.locator("#next").click();
    await f.locator("#next").click();
    await f.locator("#reference input").fill(rootOf("aws-production"));
    await f.locator("#name input").fill("root-of-trust");
    await f.locator("#next").click();
    await f.locator("text=The server would accept this").waitFor();
    await f.locator("#finish").click();
    await address(/\/accounts\/root-of-trust/);
    await f.locator("kc-account .badge", { hasText: "Ready" }).first().waitFor();
    await f.locator("kc-account .chain", { hasText: "Verified" }).waitFor();
  });

  step("a key under it, current on every edge, and rotated", async () => {
    await f.locator("#new-key").click();
    await f.locator("input[value=root-of-trust]:checked").waitFor();
    await f.locator("#name input").fill("orders");
    await f.locator("#namespace input").fill("payments");
    await f.locator("#namespace input").press("Tab");
    await f.locator("#next").click();
    await f.locator("input[value=Weekly]").check();
    await f.locator("#next").click();
    await f.locator("text=The server would accept this").waitFor();
    await f.locator("#finish").click();
    await address(/\/keys\/payments\/orders/);
    await f.locator("kc-key .timeline .now", { hasText: "v1" }).waitFor();
    await edges("Current on 2/2 edges");
    await f.locator("#rotate").click();
    await f.locator("kc-key .timeline .now", { hasText: "v2" }).waitFor();
    await f.locator("kc-key", { hasText: "rotationRequest asked for it" }).waitFor();
  });

  step("disabled: evicted on every edge, in the time that the provider measured; then enabled", async () => {
    await f.locator("#toggle").click();
    await f.locator("kc-confirm #confirm").click();
    await edges(/Evicted on 2\/2 edges in [\d.,]+ ms/);
    await page.screenshot({ path: join(OUT, "evicted.png") });
    await f.locator("#toggle").click();
    await edges("Current on 2/2 edges");
  });

  step("re-key: blast radius, name typed, progress to its end", async () => {
    await open("/accounts/root-of-trust");
    await f.locator("#rekey").click();
    await f.locator("kc-confirm ui5-message-strip", { hasText: "Re-wraps 1 key in 1 namespace" }).waitFor();
    await f.locator("kc-new-root #reference input").fill(rootOf("aws-retail"));
    await f.locator("kc-confirm #typed input").fill("root-of-trust");
    await f.locator("kc-confirm #confirm").click();
    await f.locator("#rewrap").waitFor();
    await f.locator("kc-account .badge", { hasText: "Complete" }).waitFor();
    await f.locator(".chain", { hasText: rootOf("aws-retail") }).locator("text=v2").first().waitFor();
    await page.screenshot({ path: join(OUT, "rekeyed.png") });
  });

  step("a delete is blocked, with what depends on it", async () => {
    await f.locator("#delete").click();
    await f.locator("kc-code pre", { hasText: "payments/orders" }).waitFor();
    await page.keyboard.press("Escape");
    await f.locator("kc-code").waitFor({ state: "detached" });
  });

  step("the graph filters, and an address is reloaded as it was", async () => {
    await f.locator("nav a", { hasText: "Topology" }).click();
    await f.locator("[data-id='a:root-of-trust']").click();
    await address(/~account=root-of-trust/);
    await page.reload();
    f = await mfe(page);
    await f.locator("aside a", { hasText: "orders" }).click();
    await address(/\/keys\/payments\/orders/);
    await page.reload();
    f = await mfe(page);
    await f.locator("kc-key .timeline .now", { hasText: "v2" }).waitFor();
  });

  step("theme and language change in the open page", async () => {
    await shell("setTheme", "sap_horizon_dark");
    await f.waitForFunction(() => document.documentElement.style.colorScheme === "dark");
    await shell("setLocale", "de");
    await f.locator("#rotate", { hasText: "Jetzt rotieren" }).waitFor();
    await shell("setLocale", "en");
    await f.locator("#rotate", { hasText: "Rotate now" }).waitFor();
  });

  step("a refreshed token is taken when the old one is refused, and none is kept", async () => {
    kubectl(workspace, ["delete", "serviceaccount", "admin", "-n", "default"]);
    apply(workspace, admin);
    signIn();
    await shell("refresh");
    // kcp remembers for some seconds that it knew the old one.
    await new Promise((done) => setTimeout(done, 11_000));
    await f.locator("#rotate").click();
    await f.locator("kc-key .timeline .now", { hasText: "v3" }).waitFor();
    const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
    expect(kept).not.toMatch(/eyJ[\w-]+\.eyJ/);
  });

  step("switched off and on again: everything comes back as it was", async () => {
    await open();
    kubectl(workspace, ["delete", "apibinding", OPENKCM_EXPORT, "--wait=false"]);
    await f.locator("text=OpenKCM is not enabled in this workspace").waitFor({ timeout: 90_000 });
    apply(workspace, binding);
    await f.locator("text=Welcome back").waitFor({ timeout: 90_000 });
    await open("/keys/payments/orders");
    await f.locator("kc-key .timeline .now", { hasText: "v3" }).waitFor();
    await edges("Current on 2/2 edges");
    await page.screenshot({ path: join(OUT, "recovered.png") });
  });
});
