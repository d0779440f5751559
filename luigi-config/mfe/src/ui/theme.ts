import { setTheme } from "@ui5/webcomponents-base/dist/config/Theme.js";
import type { Theme } from "../luigi/theme.js";

let current: Theme | undefined;

/** Recolours the whole document: only ever called in the iframe, which has one of its own. */
export async function applyTheme(theme: Theme): Promise<void> {
  if (theme === current) return;
  current = theme;
  document.documentElement.style.colorScheme = /dark|hcb/.test(theme) ? "dark" : "light";
  await setTheme(theme);
}
