import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { defineConfig } from "vite";
import { compressed } from "./vite.config.js";

const core = resolve(import.meta.dirname, "node_modules/@luigi-project/core");
const themes = resolve(import.meta.dirname, "node_modules/@sap-theming/theming-base-content/content/Base/baseLib");
const out = resolve(import.meta.dirname, "../shell/dist");

// The local shell: Luigi's own files as they are, and a page of ours.
export default defineConfig({
  root: resolve(import.meta.dirname, "../shell"),
  base: "/",
  build: { target: "es2022", outDir: out, emptyOutDir: true, assetsInlineLimit: 0, modulePreload: { polyfill: false }, reportCompressedSize: false },
  plugins: [
    {
      name: "luigi",
      apply: "build",
      writeBundle() {
        mkdirSync(`${out}/luigi`, { recursive: true });
        for (const f of ["luigi.js", "luigi_horizon.css", "luigi_theme_vars.js", "baseTheme", "sap_horizon"]) cpSync(`${core}/${f}`, `${out}/luigi/${f}`, { recursive: true });
        for (const t of ["sap_horizon", "sap_horizon_dark", "sap_horizon_hcb", "sap_horizon_hcw"]) {
          const css = readFileSync(`${themes}/${t}/css_variables.css`, "utf8");
          mkdirSync(`${out}/luigi/themes`, { recursive: true });
          // Fonts come from Luigi's own stylesheet.
          writeFileSync(`${out}/luigi/themes/${t}.css`, css.replaceAll(/@font-face\s*\{[^}]*\}/g, ""));
        }
      },
    },
    compressed(out),
  ],
});
