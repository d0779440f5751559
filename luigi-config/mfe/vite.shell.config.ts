import { cpSync, mkdirSync } from "node:fs";
import { resolve } from "node:path";
import { defineConfig } from "vite";
import { compressed } from "./vite.config.js";

const core = resolve(import.meta.dirname, "node_modules/@luigi-project/core");
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
      },
    },
    compressed(out),
  ],
});
