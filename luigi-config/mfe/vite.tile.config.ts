import { resolve } from "node:path";
import { defineConfig } from "vite";
import { compressed } from "./vite.config.js";

// The tile's face: one module with a name that does not change, since the registration spells it.
export default defineConfig({
  base: "./",
  publicDir: false,
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: false,
    reportCompressedSize: false,
    lib: { entry: resolve(import.meta.dirname, "src/tile.ts"), formats: ["es"], fileName: () => "openkcm-resource-mfe.js" },
    rolldownOptions: { output: { codeSplitting: false } },
  },
  plugins: [compressed("dist")],
});
