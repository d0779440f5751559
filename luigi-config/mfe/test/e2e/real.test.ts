import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Page } from "playwright-core";
import { browser, mfe, type Browser } from "./browser.js";

/** The address that `make up` leaves in `.openkcm/env`. Without it there is nothing real to walk through. */
const URL = process.env.OPENKCM_CONSOLE_URL?.replace(/\/$/, "");
const KEY = process.env.OPENKCM_DEMO_KEY ?? "payments/db";

describe.skipIf(!URL)("on the real kcp", () => {
  let b: Browser;
  let page: Page;
  beforeAll(async () => {
    b = await browser();
    page = await b.context.newPage();
  });
  afterAll(() => b.close());

  const open = async (path = "") => {
    await page.goto(`${URL}/home/openkcm${path}`);
    return mfe(page);
  };

  test("the overview shows the tenant", async () => {
    const f = await open();
    await f.locator("kc-overview .badge", { hasText: "Active" }).first().waitFor();
    await f.locator(".tile", { hasText: "Active Accounts" }).waitFor();
    await page.screenshot({ path: "test-results/real-overview.png" });
  });

  test("a key is made with the wizard, rotated, disabled, enabled and deleted", async () => {
    const name = `walked-${Date.now().toString(36)}`;
    const namespace = KEY.split("/")[0]!;
    const f = await open("/keys/new");
    await f.locator("kc-key-wizard label", { hasText: "Ready" }).first().locator("input").check();
    await f.locator("#name input").fill(name);
    await f.locator("#namespace input").fill(namespace);
    await f.locator("#namespace input").press("Tab");
    await f.locator("#next").click();
    await f.locator("#next").click();
    await f.locator("text=The server would accept this").waitFor();
    await f.locator("#finish").click();
    await f.locator("kc-key .timeline .now", { hasText: "v1" }).waitFor();
    await f.locator("#rotate").click();
    await f.locator("kc-key .timeline .now", { hasText: "v2" }).waitFor();
    await f.locator("#toggle").click();
    await f.locator("kc-confirm #confirm").click();
    await f.locator("kc-key .badge", { hasText: "Disabled" }).first().waitFor();
    await page.screenshot({ path: "test-results/real-key.png" });
    await f.locator("#toggle").click();
    await f.locator("kc-key .badge", { hasText: "Active" }).first().waitFor();
    await f.locator("#delete").click();
    await f.locator("kc-confirm #typed input").fill(name);
    await f.locator("kc-confirm #confirm").click();
    await f.locator("kc-keys").waitFor();
    await f.locator(`kc-keys a`, { hasText: name }).waitFor({ state: "detached" });
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
