import { afterAll, beforeAll, describe, test } from "vitest";
import { browser, mfe, type Browser } from "../e2e/browser.js";
import { site, type Site } from "../e2e/site.js";
import { World } from "../contract/world.js";

/** Prints figures and judges none of them: how busy the machine is is not the console's doing. */
const RUNS = 7;
const FRAMES = 180;

let b: Browser;
beforeAll(async () => {
  b = await browser();
});
afterAll(() => b.close());

const quantile = (xs: number[], q: number) => [...xs].sort((x, y) => x - y)[Math.min(xs.length - 1, Math.floor(q * xs.length))]!;
const line = (what: string, xs: number[], more = "") =>
  console.log(`${what.padEnd(64)} p50 ${quantile(xs, 0.5).toFixed(1).padStart(7)} ms   p95 ${quantile(xs, 0.95).toFixed(1).padStart(7)} ms${more}`);

/** Meaningful: the cards with the workspace's own numbers, in a frame that was painted. */
async function firstPaint(what: string, url: string): Promise<void> {
  const times: number[] = [];
  const parts: Record<string, number[]> = {};
  for (let i = 0; i < RUNS; i++) {
    const page = await b.context.newPage();
    const session = await page.context().newCDPSession(page);
    await session.send("Network.setCacheDisabled", { cacheDisabled: true });
    const start = Date.now();
    await page.goto(`${url}/home/openkcm`, { waitUntil: "commit" });
    const frame = await mfe(page);
    const at = await frame.evaluate(async () => {
      const shown = () => document.querySelector("kc-app")?.shadowRoot?.querySelector("kc-overview")?.shadowRoot?.querySelector(".tile .value");
      while (!shown()) await new Promise((r) => requestAnimationFrame(r));
      await new Promise((r) => requestAnimationFrame(() => setTimeout(r)));
      return performance.timeOrigin + performance.now();
    });
    const shell = await page.evaluate(() => performance.timeOrigin);
    const inner = await frame.evaluate(() => performance.timeOrigin);
    times.push(at - start);
    (parts["navigation answered"] ??= []).push(shell - start);
    (parts["shell: until the page's frame begins"] ??= []).push(inner - shell);
    (parts["page: until its numbers are painted"] ??= []).push(at - inner);
    await page.close();
  }
  line(`overview, ${what}: first meaningful paint, uncached`, times);
  for (const [part, xs] of Object.entries(parts)) line(`  ${part}`, xs);
}

// After `make up` (`. .openkcm/env`).
test.skipIf(!process.env.OPENKCM_CONSOLE_URL)("first meaningful paint of the demo, on the real kcp", () => firstPaint("the demo on kcp", process.env.OPENKCM_CONSOLE_URL!));

describe.each([300, 5_000])("with %i keys", (keys) => {
  let s: Site;
  beforeAll(async () => {
    s = await site(new World({ keys }));
  });
  afterAll(() => s.close());

  test("first meaningful paint of the overview in the shell, nothing cached", () => firstPaint(`${keys} keys`, s.url));

  test.each([
    ["list, 100 rows a page", "/keys?~size=100", "html"],
    ["graph, all open", "/topology", ".canvas"],
  ])("frames while the %s is scrolled", async (name, path, where) => {
    const page = await b.context.newPage();
    await page.goto(`${s.url}/home/openkcm${path}`);
    const f = await mfe(page);
    if (where === ".canvas") await f.locator("ui5-button", { hasText: "Expand all" }).click();
    else await f.locator("tbody tr").nth(50).waitFor();
    const frames = await f
      .locator(where)
      .first()
      .evaluate(async (el, count) => {
        const out: number[] = [];
        let last = await new Promise<number>((r) => requestAnimationFrame(r));
        for (let i = 0; i < count; i++) {
          el.scrollTop += 40;
          const now = await new Promise<number>((r) => requestAnimationFrame(r));
          out.push(now - last);
          last = now;
        }
        return out;
      }, FRAMES);
    const kept = frames.filter((x) => x < 1000 / 60 + 1).length / frames.length;
    line(`${name}, ${keys} keys: frame while scrolling`, frames, `   at 60 a second: ${(100 * kept).toFixed(0)} %`);
    await page.close();
  });
});
