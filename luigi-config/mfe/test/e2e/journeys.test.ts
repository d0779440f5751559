import type { Frame, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { fleet } from "../contract/fleet.js";
import { World } from "../contract/world.js";
import { idOf, type Account, type ServiceKey } from "../../src/model/kinds.js";
import { browser, mfe, type Browser } from "./browser.js";
import { site, type Site } from "./site.js";

interface Shell {
  setTheme(id: string): void;
  setLocale(l: string): void;
  refresh(): Promise<void>;
}
const shell = (page: Page, call: keyof Shell, arg = "") =>
  page.evaluate(([c, a]) => (window as unknown as { openkcmShell: Record<string, (x: string) => unknown> }).openkcmShell[c!]!(a!) as Promise<void>, [call, arg]);

let b: Browser;
let s: Site | undefined;
let page: Page;
beforeAll(async () => {
  b = await browser();
});
afterAll(() => b.close());
afterEach(async () => {
  await page.close();
  await s?.close();
  s = undefined;
});

async function open(world: World, path = "", o: Parameters<typeof site>[1] = {}): Promise<Frame> {
  s = await site(world, o);
  page = await b.context.newPage();
  await page.goto(`${s.url}/home/openkcm${path}`);
  return mfe(page);
}

/** The shell's address, once it satisfies what is asked. Luigi writes the tilde of its parameters either way. */
const address = (what: RegExp) => page.waitForURL((u) => what.test(u.href.replaceAll("%7E", "~")));
const keyOf = (w: World, id: string) => w.objects.ServiceEncryptionKey.get(id) as ServiceKey;

/** Presses Tab until the focus is on what is wanted; shadow roots are looked into. */
async function tabTo(f: Frame, wanted: string, limit = 60): Promise<void> {
  for (let i = 0; i < limit; i++) {
    await page.keyboard.press("Tab");
    const found = await f.evaluate((w) => {
      let at: Element | null = document.activeElement;
      while (at) {
        if (at.id === w || at.getAttribute("value") === w || at.textContent?.trim() === w) return true;
        at = at.shadowRoot?.activeElement ?? null;
      }
      return false;
    }, wanted);
    if (found) return;
  }
  throw new Error(`the focus never reached ${wanted}`);
}

describe.each(["rest", "graphql"] as const)("over %s", (adapter) => {
  test("an Account is made with the wizard, then a key, which is rotated, disabled and enabled", async () => {
    const world = new World({ keys: 12 });
    const f = await open(world, "/accounts/new", { adapter });
    const edges = (text: string) => f.locator("[aria-labelledby=edges] p[role=status]", { hasText: text });
    await f.locator("input[value=AWSKMS]").check();
    await f.locator("#next").click();
    await f.locator("#region input").fill("eu-central-1");
    await f.locator("#region input").press("Tab");
    await f.locator("#next").click();
    await f.locator("#reference input").fill("arn:aws:kms:us-east-1:111122223333:alias/mine");
    await f.locator("text=You chose eu-central-1, but the reference is in us-east-1").waitFor();
    await f.locator("#reference input").fill("arn:aws:kms:eu-central-1:111122223333:alias/mine");
    await f.locator("#name input").fill("aws-root-mine");
    await f.locator("#next").click();
    await f.locator("text=The server would accept this").waitFor();
    expect(world.objects.Account.has("aws-root-mine")).toBe(false);
    await f.locator("#finish").click();
    await address(/\/accounts\/aws-root-mine/);
    await f.locator("kc-account .badge", { hasText: "Ready" }).first().waitFor();

    await f.locator("#new-key").click();
    await f.locator("input[value=aws-root-mine]:checked").waitFor();
    await f.locator("#name input").fill("orders");
    await f.locator("#namespace input").fill("payments");
    await f.locator("#namespace input").press("Tab");
    await f.locator("#next").click();
    await f.locator("input[value=Weekly]").check();
    await f.locator("#next").click();
    await f.locator("text=The server would accept this").waitFor();
    await f.locator("#finish").click();
    await address(/\/keys\/payments\/orders/);
    await edges("Current on 3/3 edges").waitFor();
    expect(keyOf(world, "payments/orders").spec).toMatchObject({ accountRef: { name: "aws-root-mine" }, rotationSchedule: "Weekly" });

    await f.locator("#rotate").click();
    await f.locator("kc-key .timeline .now", { hasText: "v2" }).waitFor();
    await f.locator("#toggle").click();
    await f.locator("kc-confirm #confirm").click();
    await edges("Evicted on 3/3 edges").waitFor();
    await f.locator("text=seen here after").waitFor();
    expect(keyOf(world, "payments/orders").spec.state).toBe("Disabled");
    await f.locator("#toggle").click();
    await edges("Current on 3/3 edges").waitFor();
    expect(keyOf(world, "payments/orders").status?.currentVersion).toBe("v2");
  });
});

test("one look at the overview costs one list and one watch for each kind, however many objects", async () => {
  const world = new World({ keys: 400 });
  const f = await open(world);
  await f.locator("text=Needs attention").waitFor();
  const lists = world.log.filter((l) => l.startsWith("GET") && l.includes("openkcm.io") && !l.includes("watch=1"));
  expect(lists.map((l) => l.split("?")[0]).sort()).toEqual(["accounts", "serviceencryptionkeys", "tenants"].map((p) => `GET /apis/openkcm.io/v1alpha1/${p}`));
});

test("a card leads to the filtered list, and that address shows the same after a reload", async () => {
  const world = new World({});
  const f = await open(world);
  await f.locator(".tile", { hasText: "Disabled keys" }).locator("a").click();
  await address(/\/openkcm\/keys\?.*~state=Disabled/);
  const rows = () => f.locator("kc-keys tbody tr");
  await rows().first().waitFor();
  const shown = await f.locator(".pager [role=status]").innerText();
  await page.reload();
  const again = await mfe(page);
  await again.locator("kc-keys tbody tr").first().waitFor();
  expect(await again.locator(".pager [role=status]").innerText()).toBe(shown);
  expect(new Set(await again.locator("tbody .badge").allInnerTexts())).toEqual(new Set(["Disabled"]));
  await page.goBack();
  await (await mfe(page)).locator("text=Needs attention").waitFor();
});

test("every card leads to a list of as many as it says", async () => {
  const world = new World({});
  const f = await open(world);
  await f.locator("text=Needs attention").waitFor();
  const names = await f.locator(".tile .top").allInnerTexts();
  expect(names).toHaveLength(8);
  for (const name of names) {
    const tile = f.locator(".tile", { has: f.locator(`.top:text-is("${name}")`) });
    const said = (await tile.locator(".value").innerText()).trim();
    await tile.locator("a").click();
    await f.locator("kc-keys, kc-accounts").first().waitFor();
    if (said === "0") await f.locator("text=Nothing matches").waitFor();
    else await f.locator(".pager [role=status]", { hasText: new RegExp(`of ${said}$`) }).waitFor();
    await f.locator("nav a", { hasText: "Overview" }).click();
    await f.locator("text=Needs attention").waitFor();
  }
});

test("a schedule is edited in place, and what is no schedule is not sent", async () => {
  const world = new World({ keys: 12 });
  const k = [...world.objects.ServiceEncryptionKey.values()].find((o) => (o as ServiceKey).status?.state === "Active")!;
  const f = await open(world, `/keys/${idOf(k)}`);
  await f.locator("#edit-schedule").click();
  await f.locator("#schedule input").fill("Fortnightly");
  expect(await f.locator("#save-schedule").getAttribute("disabled")).not.toBeNull();
  await f.locator("#schedule input").fill("14 Days");
  await page.keyboard.press("Enter");
  await f.locator("dl.facts dd", { hasText: "Every 14 days" }).waitFor();
  expect(keyOf(world, idOf(k)).spec.rotationSchedule).toBe("14 Days");
  await f.locator("pre", { hasText: `--key ${idOf(k)}` }).waitFor();
});

test("many keys are disabled at once, with a result for each, also for one that fails", async () => {
  const world = new World({ keys: 12 });
  const f = await open(world, "/keys?~state=Active");
  await f.locator("tbody tr").nth(2).waitFor();
  for (let i = 1; i <= 3; i++) await f.locator("input[type=checkbox]").nth(i).check();
  const chosen = (await f.locator("tbody tr.selected input").evaluateAll((all) => all.map((e) => e.getAttribute("aria-label")!.replace("Select ", "")))).sort();
  expect(chosen).toHaveLength(3);
  // Somebody deletes one; nobody has told the page yet.
  world.objects.ServiceEncryptionKey.delete(chosen[1]!);
  await f.locator("#bulk-disable").click();
  await f.locator("kc-bulk #confirm").click();
  await f.locator("kc-bulk [role=status]", { hasText: "3 of 3 done, 1 failed" }).waitFor();
  await f.locator("kc-bulk tr", { hasText: chosen[1]! }).locator("text=It does not exist any more").waitFor();
  expect([chosen[0]!, chosen[2]!].map((id) => keyOf(world, id).spec.state)).toEqual(["Disabled", "Disabled"]);
});

test("without a network the page says so, and is live again when it is back", async () => {
  const world = new World({ keys: 6 });
  const f = await open(world, "/keys");
  await f.locator("tbody tr").first().waitFor();
  await b.context.setOffline(true);
  await f.locator("ui5-message-strip", { hasText: "You are offline" }).waitFor();
  world.cut();
  const [id] = [...world.objects.ServiceEncryptionKey.keys()];
  world.remove("ServiceEncryptionKey", id!, false);
  await b.context.setOffline(false);
  await f.locator(".pager [role=status]", { hasText: "of 5" }).waitFor();
  await f.locator(".live", { hasText: /^Live$/ }).waitFor();
});

test("a re-key says what it touches, wants the name, and shows its progress to the end", async () => {
  const world = new World({ keys: 60 });
  const f = await open(world, "/accounts/aws-root-production");
  const count = [...world.objects.ServiceEncryptionKey.values()].filter((k) => (k as ServiceKey).spec.accountRef.name === "aws-root-production").length;
  await f.locator("#rekey").click();
  const dialog = f.locator("kc-confirm");
  await dialog.locator(`text=Re-wraps ${count} keys in`).waitFor();
  await f.locator("kc-new-root #reference input").fill("arn:aws:kms:eu-central-1:111122223333:alias/next");
  expect(await dialog.locator("#confirm").getAttribute("disabled")).not.toBeNull();
  await dialog.locator("#typed input").fill("aws-root-productio");
  expect(await dialog.locator("#confirm").getAttribute("disabled")).not.toBeNull();
  await dialog.locator("#typed input").fill("aws-root-production");
  await dialog.locator("#confirm").click();
  await f.locator("kc-account .badge", { hasText: "Re-keying" }).first().waitFor();
  await f.locator(`text=${count} of ${count} key versions re-wrapped`).first().waitFor();
  await f.locator("kc-account .badge", { hasText: "Complete" }).waitFor();
});

test("an Account with keys cannot be deleted, and the keys are listed; the server's refusal is shown too", async () => {
  const world = new World({ keys: 30 });
  const f = await open(world, "/accounts/aws-root-production");
  await f.locator("#delete").click();
  expect(await f.locator("kc-code pre").innerText()).toContain("/");
  await page.keyboard.press("Escape");
  await f.locator("kc-code").waitFor({ state: "detached" });
  expect(world.objects.Account.has("aws-root-production")).toBe(true);
});

test("choosing an Account in the graph filters, goes into the address, and survives a reload", async () => {
  const world = new World({ keys: 80 });
  const f = await open(world, "/topology");
  await f.locator("[data-id='a:gcp-root-analytics']").click();
  await address(/~account=gcp-root-analytics/);
  await f.locator("aside h3", { hasText: "gcp-root-analytics" }).waitFor();
  await page.reload();
  const again = await mfe(page);
  await again.locator("[data-id='a:gcp-root-analytics'][aria-selected=true][aria-expanded=true]").waitFor();
  await again.locator("aside a", { hasText: "Open in the list" }).click();
  await address(/\/keys\?.*~account=gcp-root-analytics/);
});

test("5,000 keys are drawn as what is in sight", async () => {
  const world = new World({ keys: 5_000 });
  const f = await open(world, "/topology");
  await f.locator("ui5-button", { hasText: "Expand all" }).click();
  await f.waitForFunction(() => (document.querySelector("kc-app")!.shadowRoot!.querySelector("kc-topology")!.shadowRoot!.querySelector("svg")?.clientHeight ?? 0) > 100_000);
  const items = f.locator("[role=treeitem]");
  expect(await items.count()).toBeLessThan(80);
  // The scroll lands in the middle: other rows, still few.
  await f.locator(".canvas").evaluate((c) => (c.scrollTop = 120_000));
  await f.waitForFunction(() => [...document.querySelector("kc-app")!.shadowRoot!.querySelector("kc-topology")!.shadowRoot!.querySelectorAll("[role=treeitem]")].some((e) => Number(e.getAttribute("aria-posinset")) > 500));
  expect(await items.count()).toBeLessThan(80);
});

test("theme and language change in the open page, without a reload", async () => {
  const world = new World({ keys: 10 });
  const f = await open(world);
  await f.locator("text=Needs attention").waitFor();
  await f.evaluate(() => ((window as unknown as { mark: number }).mark = 1));
  await shell(page, "setTheme", "sap_horizon_dark");
  await f.waitForFunction(() => document.documentElement.style.colorScheme === "dark");
  await shell(page, "setLocale", "de");
  await f.locator("text=Braucht Aufmerksamkeit").waitFor();
  await shell(page, "setLocale", "en");
  await f.locator("text=Needs attention").waitFor();
  expect(await f.evaluate(() => (window as unknown as { mark: number }).mark)).toBe(1);
});

const jwt = (exp: number) => `h.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.s`;

test("a token that the shell has refreshed is taken without the user's doing, and is stored nowhere", async () => {
  const world = new World({ keys: 10 });
  const end = Math.floor(Date.now() / 1000);
  let token = jwt(end + 3_600);
  world.tokens.clear();
  world.tokens.add(token);
  const f = await open(world, "/keys", { token: () => token });
  await f.locator("kc-keys tbody tr").first().waitFor();
  const old = token;
  token = jwt(end + 7_200);
  world.tokens.delete(old);
  world.tokens.add(token);
  await shell(page, "refresh");
  world.cut();
  // What is created now can only be seen with the new token.
  const fresh = structuredClone(fleet({ now: Date.now(), keys: 1 }).keys[0]!);
  fresh.metadata = { name: "aaa-fresh", namespace: "analytics" };
  world.create("ServiceEncryptionKey", fresh, false);
  await f.locator("kc-keys a", { hasText: "aaa-fresh" }).waitFor();
  const kept = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href]));
  for (const t of [old, token]) expect(kept).not.toContain(t);
});

test("OpenKCM is switched off and on again", async () => {
  const world = new World({ keys: 10 });
  const f = await open(world, "/keys");
  await f.locator("kc-keys tbody tr").first().waitFor();
  world.unbind();
  await f.locator("text=OpenKCM is not enabled in this workspace").waitFor();
  world.rebind();
  await f.locator("kc-keys tbody tr").first().waitFor();
});

test("an update from elsewhere appears, and the focus stays where it is", async () => {
  const world = new World({ keys: 10 });
  const f = await open(world, "/keys");
  const first = [...world.objects.ServiceEncryptionKey.values()].map(idOf).sort((a, b) => new Intl.Collator(undefined, { numeric: true }).compare(a, b))[0]!;
  await f.locator("#search input").fill(first.split("/")[1]!);
  await address(/~q=/);
  world.update("ServiceEncryptionKey", first, (k: ServiceKey) => (k.status = { ...k.status, currentVersion: "v999" }));
  await f.locator("text=v999").waitFor();
  expect(await f.evaluate(() => {
    let at: Element | null = document.activeElement;
    while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
    return at?.localName;
  })).toBe("input");
});

test("pages of one browser share their streams, and one goes on when another is closed", async () => {
  const world = new World({ keys: 6 });
  const first = await open(world, "/keys");
  await first.locator("tbody tr").first().waitFor();
  await expect.poll(() => world.streams, { timeout: 20_000 }).toBe(3);
  const other = await b.context.newPage();
  await other.goto(`${s!.url}/home/openkcm/keys`);
  const second = await mfe(other);
  await second.locator("tbody tr").first().waitFor();
  const [id] = [...world.objects.ServiceEncryptionKey.keys()];
  const shows = async (version: string, ...frames: Frame[]) => {
    world.update("ServiceEncryptionKey", id!, (k: ServiceKey) => (k.status = { ...k.status, currentVersion: version }));
    for (const f of frames) await f.locator(`tbody td:text-is("${version}")`).waitFor();
  };
  await shows("v901", first, second);
  expect(world.streams).toBe(3);
  await page.close();
  await expect.poll(() => world.streams, { timeout: 20_000 }).toBe(3);
  await shows("v902", second);
  await other.close();
});

test("names from the workspace are text, whatever they hold", async () => {
  const world = new World({ hostile: true, keys: 6 });
  let dialogs = 0;
  const f = await open(world, "/keys");
  page.on("dialog", (d) => {
    dialogs++;
    void d.dismiss();
  });
  await f.locator("tbody a", { hasText: "<img src=x onerror=alert(1)>" }).first().waitFor();
  await f.locator("nav a", { hasText: "Topology" }).click();
  await f.locator("[data-id='a:<img src=x onerror=alert(1)>']").waitFor();
  expect(await f.locator("img, script:not([type=module])").count()).toBe(0);
  expect(dialogs).toBe(0);
});

test("who may not, sees why", async () => {
  const world = new World({ keys: 10 });
  for (const r of ["create accounts", "patch serviceencryptionkeys"]) world.denied.add(r);
  const f = await open(world, "/accounts");
  await f.locator("#create[disabled]").waitFor();
  expect(await f.locator("#create").getAttribute("tooltip")).toContain("You may not create Accounts");
});

test("on a namespace's page there are only this namespace's keys", async () => {
  const world = new World({ keys: 24 });
  s = await site(world);
  page = await b.context.newPage();
  await page.goto(`${s.url}/home/namespaces/payments/openkcm-keys`);
  const f = await mfe(page);
  await f.locator("kc-keys tbody tr").first().waitFor();
  expect(await f.locator("kc-keys tbody tr").count()).toBe([...world.objects.ServiceEncryptionKey.keys()].filter((k) => k.startsWith("payments/")).length);
  expect(await f.locator("nav a").count()).toBe(1);
  expect(world.log.some((l) => l.startsWith("GET /apis/openkcm.io/v1alpha1/serviceencryptionkeys"))).toBe(false);
});

test("the dashboard's tile is a web component in the shell's own page", async () => {
  const world = new World({ keys: 50 });
  s = await site(world);
  page = await b.context.newPage();
  await page.goto(`${s.url}/home/dashboard`);
  await page.locator("text=Active Accounts").waitFor();
  const theme = await page.evaluate(() => getComputedStyle(document.documentElement).getPropertyValue("--sapBackgroundColor"));
  expect(theme).not.toBe("");
  expect(await page.locator("iframe").count()).toBe(0);
  await page.locator("a", { hasText: "Open the key chain" }).click();
  await address(/\/home\/openkcm/);
  await mfe(page);
});

describe("with the keyboard alone", () => {
  test("a key is found, opened and rotated", async () => {
    const world = new World({ keys: 12 });
    const f = await open(world, "/keys?~account=aws-root-production");
    await f.locator("kc-keys tbody tr").first().waitFor();
    const name = (await f.locator("kc-keys tbody a").first().innerText()).trim();
    await f.locator("main").focus();
    await tabTo(f, name);
    await page.keyboard.press("Enter");
    await f.locator("kc-key").waitFor();
    const before = (await f.locator("kc-key .timeline .now strong").first().innerText()).trim();
    await tabTo(f, "rotate");
    await page.keyboard.press("Enter");
    await f.locator("kc-key .timeline .now strong", { hasText: `v${Number(before.slice(1)) + 1}` }).waitFor();
  });

  test("the wizard is walked to its end", async () => {
    const world = new World({ keys: 2 });
    const f = await open(world, "/accounts");
    await f.locator("kc-accounts tbody tr").first().waitFor();
    await f.locator("main").focus();
    await tabTo(f, "create");
    await page.keyboard.press("Enter");
    await f.locator("kc-account-wizard").waitFor();
    await tabTo(f, "AWSKMS");
    await page.keyboard.press("Space");
    await page.keyboard.press("ArrowDown");
    await tabTo(f, "next");
    await page.keyboard.press("Enter");
    await f.locator("text=Step 2 of 4").waitFor();
    await tabTo(f, "next");
    await page.keyboard.press("Enter");
    await tabTo(f, "reference");
    await page.keyboard.type("https://contoso.vault.azure.net/keys/root");
    await tabTo(f, "name");
    await page.keyboard.type("azure-by-keyboard");
    await page.keyboard.press("Enter");
    await f.locator("text=The server would accept this").waitFor();
    await tabTo(f, "finish");
    await page.keyboard.press("Enter");
    await f.locator("kc-account .badge", { hasText: "Ready" }).first().waitFor();
    expect((world.objects.Account.get("azure-by-keyboard") as Account).spec.providerType).toBe("AzureKeyVault");
  });

  test("an Account is re-keyed", async () => {
    const world = new World({ keys: 12 });
    const f = await open(world, "/accounts/aws-root-production");
    await f.locator("#rekey").waitFor();
    await f.locator("main").focus();
    await tabTo(f, "rekey");
    await page.keyboard.press("Enter");
    await f.locator("kc-new-root #reference input").waitFor();
    await tabTo(f, "reference");
    await page.keyboard.type("arn:aws:kms:eu-central-1:111122223333:alias/next");
    await tabTo(f, "typed");
    await page.keyboard.type("aws-root-production");
    await page.keyboard.press("Enter");
    await f.locator("kc-account .badge", { hasText: "Complete" }).waitFor();
    expect((world.objects.Account.get("aws-root-production") as Account).spec.keyReference).toContain("alias/next");
  });

  test("the graph is one stop, and arrows, type-ahead, Enter and Escape do the rest", async () => {
    const world = new World({ keys: 80 });
    const f = await open(world, "/topology");
    await f.locator("[role=treeitem]").first().waitFor();
    expect(await f.locator("[role=treeitem][tabindex='0']").count()).toBe(1);
    await f.locator("[role=treeitem][tabindex='0']").focus();
    const focused = () => f.evaluate(() => {
      let at: Element | null = document.activeElement;
      while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement;
      return at?.getAttribute("data-id");
    });
    const becomes = async (id: string) => expect.poll(focused, { timeout: 20_000 }).toBe(id);
    await page.keyboard.press("ArrowDown");
    await becomes("a:aws-root-legacy");
    await page.keyboard.press("g");
    await becomes("a:gcp-root-analytics");
    await page.keyboard.press("Enter");
    await address(/~account=gcp-root-analytics/);
    await page.keyboard.press("ArrowRight");
    await expect.poll(focused, { timeout: 20_000 }).toMatch(/^k:/);
    await page.keyboard.press("ArrowLeft");
    await becomes("a:gcp-root-analytics");
    await page.keyboard.press("Escape");
    await page.waitForURL((u) => !u.search.includes("account"));
    await page.keyboard.press("Home");
    await becomes("tenant");
  });

  test("a dialog takes the focus, Escape gives it back, and the shell is dimmed only meanwhile", async () => {
    const world = new World({ keys: 6 });
    const id = [...world.objects.ServiceEncryptionKey.values()].find((k) => (k as ServiceKey).status?.state === "Active")!;
    const f = await open(world, `/keys/${idOf(id)}`);
    await f.locator("#toggle").focus();
    await page.keyboard.press("Enter");
    await f.locator("kc-confirm ui5-dialog").waitFor();
    await page.keyboard.press("Escape");
    await f.locator("kc-confirm").waitFor({ state: "detached" });
    await expect.poll(() => f.evaluate(() => {
      let at: Element | null = document.activeElement;
      while (at) {
        if (at.id === "toggle") return true;
        at = at.shadowRoot?.activeElement ?? null;
      }
      return false;
    })).toBe(true);
    expect(keyOf(world, idOf(id)).spec.state).toBe("Enabled");
  });
});
