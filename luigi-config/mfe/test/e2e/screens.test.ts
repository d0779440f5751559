import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import type { Frame, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { World } from "../contract/world.js";
import { browser, mfe, type Browser } from "./browser.js";
import { site, type Site } from "./site.js";

/** Every screen in every theme: looked at by axe, and kept as a picture in light and dark. */
const OUT = resolve(import.meta.dirname, "../../test-results/screens");
const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const THEMES = ["sap_horizon", "sap_horizon_dark", "sap_horizon_hcb", "sap_horizon_hcw"];

interface Screen {
  name: string;
  path: string;
  world?: () => World;
  /** Brings the page from its address to what is to be seen. */
  act?: (frame: Frame, page: Page, world: World) => Promise<unknown>;
  /** Nothing is loaded, and that is what is looked at. */
  loading?: boolean;
}

const main = new World({});
const click = (f: Frame, id: string) => f.locator(`#${id}`).first().click();

const ALL: Screen[] = [
  { name: "overview", path: "" },
  { name: "accounts", path: "/accounts" },
  { name: "account-rekeying", path: "/accounts/hsm-root-payments" },
  { name: "account-unavailable", path: "/accounts/aws-root-legacy" },
  { name: "keys", path: "/keys" },
  { name: "keys-filtered", path: "/keys?~due=24h&~sort=next&~account=aws-root-production" },
  { name: "key", path: "/keys/payments/db-01" },
  { name: "topology", path: "/topology?~account=gcp-root-analytics" },
  { name: "topology-table", path: "/topology?~view=table" },
  { name: "account-wizard-1", path: "/accounts/new" },
  {
    name: "account-wizard-3",
    path: "/accounts/new",
    act: async (f) => {
      await f.locator("input[value=AWSKMS]").check();
      await click(f, "next");
      await click(f, "next");
      await f.locator("#reference input").fill("arn:aws:kms:eu-central-1:1111");
      await f.locator("text=12 digits").waitFor();
    },
  },
  {
    name: "account-wizard-4",
    path: "/accounts/new",
    act: async (f) => {
      await f.locator("input[value=GCPKMS]").check();
      await click(f, "next");
      await click(f, "next");
      await f.locator("#reference input").fill("projects/acme-prod/locations/europe-west3/keyRings/openkcm/cryptoKeys/root");
      await f.locator("#name input").fill("gcp-root-two");
      await click(f, "next");
      await f.locator("text=The server would accept this").waitFor();
      await f.locator("summary").first().click();
    },
  },
  { name: "key-wizard-1", path: "/keys/new?~account=aws-root-production" },
  {
    name: "key-wizard-2",
    path: "/keys/new?~account=aws-root-production",
    act: async (f) => {
      await f.locator("#name input").fill("reports-new");
      await f.locator("#namespace input").fill("analytics");
      await f.locator("#namespace input").press("Tab");
      await click(f, "next");
      await f.locator("input[value='30 Days']").waitFor();
    },
  },
  {
    name: "rekey-dialog",
    path: "/accounts/aws-root-production",
    act: async (f) => {
      await click(f, "rekey");
      await f.locator("kc-new-root #reference input").fill("arn:aws:kms:eu-central-1:111122223333:alias/new-root");
    },
  },
  { name: "delete-blocked", path: "/accounts/aws-root-production", act: (f) => click(f, "delete").then(() => f.locator("kc-code pre").waitFor()) },
  { name: "disable-dialog", path: "/keys/payments/db-01", act: (f) => click(f, "toggle").then(() => f.locator("kc-confirm #confirm").waitFor()) },
  {
    name: "bulk",
    path: "/keys?~state=Active",
    world: () => new World({}),
    act: async (f) => {
      for (let i = 1; i <= 3; i++) await f.locator("tbody input[type=checkbox]").nth(i).check();
      await click(f, "bulk-rotate");
      await f.locator("kc-bulk #confirm").click();
      await f.locator("kc-bulk #done").waitFor();
    },
  },
  { name: "empty", path: "", world: () => new World({ empty: true }) },
  { name: "nothing-found", path: "/keys?~q=nosuchkey" },
  {
    name: "not-enabled",
    path: "",
    world: () => {
      const w = new World({ empty: true });
      w.bound = false;
      return w;
    },
  },
  {
    name: "forbidden",
    path: "/keys",
    world: () => {
      const w = new World({});
      w.denied.add("list serviceencryptionkeys");
      return w;
    },
  },
  {
    name: "read-only",
    path: "/keys/payments/db-01",
    world: () => {
      const w = new World({});
      for (const v of ["patch", "delete", "create"]) for (const r of ["accounts", "serviceencryptionkeys"]) w.denied.add(`${v} ${r}`);
      return w;
    },
  },
  {
    name: "loading",
    path: "",
    loading: true,
    world: () => {
      const w = new World({});
      w.silent = true;
      return w;
    },
  },
  {
    name: "failed",
    path: "/keys",
    world: () => {
      const w = new World({});
      w.down = true;
      return w;
    },
    act: (f) => f.locator("text=Try again").first().waitFor(),
  },
  {
    name: "offline",
    path: "/keys",
    act: (f) => f.evaluate(() => window.dispatchEvent(new Event("offline"))),
  },
  {
    name: "stale",
    path: "/accounts",
    world: () => new World({}),
    act: async (f, _p, w) => {
      w.down = true;
      w.cut();
      await f.locator("text=Live updates are interrupted").waitFor();
    },
  },
  {
    name: "session-expired",
    path: "/accounts",
    world: () => new World({}),
    act: async (f, _p, w) => {
      w.tokens.clear();
      w.cut();
      await f.locator("ui5-message-strip", { hasText: "Your session has ended" }).waitFor();
    },
  },
  {
    name: "suspended",
    path: "",
    world: () => {
      const w = new World({});
      w.update("Tenant", "tenant-root-demo", (t: { status: object }) => {
        t.status = { ...t.status, phase: "Suspended", conditions: [{ type: "Ready", status: "False", reason: "SuspendedByOperator", message: "The operator suspended this workspace on 20 November." }] };
      });
      return w;
    },
  },
  { name: "hostile-names", path: "/keys?~q=x%20n", world: () => new World({ hostile: true, keys: 12 }) },
];

let b: Browser;
beforeAll(async () => {
  mkdirSync(OUT, { recursive: true });
  b = await browser();
});
afterAll(() => b.close());

interface Violation {
  id: string;
  help: string;
  nodes: { target: unknown; failureSummary?: string }[];
}

async function axe(frame: Frame): Promise<string[]> {
  // The script's own value is the whole library; it must not travel back.
  await frame.evaluate(`${AXE};undefined`);
  const { violations } = (await frame.evaluate(
    "axe.run(document, { runOnly: { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'] } })",
  )) as { violations: Violation[] };
  return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => `${JSON.stringify(n.target)} ${n.failureSummary?.split("\n")[1]?.trim() ?? ""}`).join("; ")}`);
}

// `SCREENS=keys,key npm run test:e2e` looks at some only.
const SCREENS = ALL.filter((s) => !process.env.SCREENS || process.env.SCREENS.split(",").includes(s.name));

describe.each(SCREENS)("$name", (screen) => {
  let s: Site;
  afterAll(() => s?.close());

  test("is accessible in every theme, speaks no foreign origin and logs no error", async () => {
    const world = screen.world?.() ?? main;
    s = await site(world);
    const page = await b.context.newPage();
    const problems: string[] = [];
    page.on("pageerror", (e) => problems.push(`error: ${e.message}`));
    page.on("console", (m) => {
      // The browser itself reports refused and broken requests, which some screens are about.
      if (m.type() === "error" && !/Failed to load resource/.test(m.text())) problems.push(`console: ${m.text()}`);
    });
    page.on("request", (r) => {
      if (!r.url().startsWith(s.url) && !r.url().startsWith("data:") && !r.url().startsWith("blob:")) problems.push(`foreign: ${r.url()}`);
    });
    await page.goto(`${s.url}/home/openkcm${screen.path}`);
    const frame = await mfe(page);
    await frame.locator(".skeleton").first().waitFor({ state: screen.loading ? "visible" : "detached", timeout: 20_000 });
    await screen.act?.(frame, page, world);
    const found: string[] = [];
    for (const theme of THEMES) {
      await page.evaluate((id) => (window as unknown as { openkcmShell: { setTheme(id: string): void } }).openkcmShell.setTheme(id), theme);
      await frame.waitForFunction((id) => document.documentElement.style.colorScheme === (/dark|hcb/.test(id) ? "dark" : "light"), theme);
      await page.waitForTimeout(150);
      found.push(...(await axe(frame)).map((v) => `${theme}: ${v}`));
      if (theme === "sap_horizon" || theme === "sap_horizon_dark") await page.screenshot({ path: join(OUT, `${screen.name}-${theme === "sap_horizon" ? "light" : "dark"}.png`) });
    }
    await page.close();
    expect(found).toEqual([]);
    expect(problems).toEqual([]);
  });
});
