import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium, type BrowserContext, type Frame, type Page } from "playwright-core";

export interface Browser {
  context: BrowserContext;
  close(): Promise<void>;
}

export async function browser(o: { locale?: string; colorScheme?: "light" | "dark" } = {}): Promise<Browser> {
  const dir = mkdtempSync(join(tmpdir(), "openkcm-console-"));
  const context = await chromium.launchPersistentContext(dir, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    viewport: { width: 1440, height: 900 },
    locale: o.locale ?? "en-GB",
    colorScheme: o.colorScheme ?? "light",
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(30_000);
  return {
    context,
    close: async () => {
      await context.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** The iframe's page, once it shows something. */
export async function mfe(page: Page): Promise<Frame> {
  const handle = await page.waitForSelector("iframe[src*='/mfe/index.html']", { timeout: 30_000, state: "attached" });
  const frame = await handle.contentFrame();
  if (!frame) throw new Error("the iframe has no page");
  await frame.waitForSelector("kc-app main > *", { timeout: 30_000 });
  return frame;
}
