import { test } from "vitest";
import { World } from "/work/main/luigi-config/mfe/test/contract/world.js";
import { site } from "/work/main/luigi-config/mfe/test/e2e/site.js";
import { browser, mfe } from "/work/main/luigi-config/mfe/test/e2e/browser.js";
test("shot", async () => {
  const w = new World();
  const s = await site(w);
  const b = await browser();
  const page = await b.context.newPage();
  page.on("console", (m) => console.log("console:", m.type(), m.text().slice(0,300)));
  page.on("pageerror", (e) => console.log("pageerror", e.message, e.stack?.slice(0,300)));
  page.on("requestfailed", (r) => console.log("failed", r.url(), r.failure()?.errorText));
  await page.goto(s.url + "/home/openkcm");
  try { await mfe(page); } catch (e) { console.log(String(e)); }
  await page.waitForTimeout(1500);
  await page.screenshot({ path: "/tmp/shots/first.png" });
  await b.close(); await s.close();
}, 60000);
