import { afterAll, beforeAll, test } from "vitest";
import { browser, mfe, type Browser } from "../e2e/browser.js";
import { site, type Site } from "../e2e/site.js";
import { World } from "../contract/world.js";

/** Prints figures and judges none of them: how busy the machine is is not the console's doing. */
let b: Browser;
let s: Site;
beforeAll(async () => {
  s = await site(new World({ keys: 5_000 }));
  b = await browser();
});
afterAll(async () => {
  await b.close();
  await s.close();
});

const quantile = (xs: number[], q: number) => [...xs].sort((x, y) => x - y)[Math.min(xs.length - 1, Math.floor(q * xs.length))]!;
const line = (what: string, xs: number[]) => console.log(`${what.padEnd(58)} p50 ${quantile(xs, 0.5).toFixed(1).padStart(8)} ms   p95 ${quantile(xs, 0.95).toFixed(1).padStart(8)} ms`);

test("first paint of the overview in the shell, 5,000 keys, nothing cached", async () => {
  const times: number[] = [];
  for (let i = 0; i < 5; i++) {
    const page = await b.context.newPage();
    const session = await page.context().newCDPSession(page);
    await session.send("Network.setCacheDisabled", { cacheDisabled: true });
    const start = performance.now();
    await page.goto(`${s.url}/home/openkcm`, { waitUntil: "commit" });
    const frame = await mfe(page);
    await frame.locator("kc-overview").first().waitFor({ state: "attached" });
    times.push(performance.now() - start);
    await page.close();
  }
  line("navigation to the overview's frame", times);
});

test.each([
  ["list", "/keys?~size=100", "html"],
  ["graph, all open", "/topology", ".canvas"],
])("frames while the %s of 5,000 keys is scrolled", async (name, path, where) => {
  const page = await b.context.newPage();
  await page.goto(`${s.url}/home/openkcm${path}`);
  const f = await mfe(page);
  if (where === ".canvas") await f.locator("ui5-button", { hasText: "Expand all" }).click();
  else await f.locator("tbody tr").nth(50).waitFor();
  const target = f.locator(where).first();
  const frames = await target.evaluate(async (el) => {
    const out: number[] = [];
    let last = await new Promise<number>((r) => requestAnimationFrame(r));
    for (let i = 0; i < 120; i++) {
      el.scrollTop += 40;
      const now = await new Promise<number>((r) => requestAnimationFrame(r));
      out.push(now - last);
      last = now;
    }
    return out;
  });
  line(`frame of the ${name}`, frames);
  await page.close();
});
