// The initial script: the entry and everything that it imports statically, as sent with gzip.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 250_000;
const dist = new URL("../dist/", import.meta.url);
const manifest = JSON.parse(readFileSync(new URL(".vite/manifest.json", dist), "utf8"));
const seen = new Set();
const visit = (key) => {
  const chunk = manifest[key];
  if (!chunk || seen.has(chunk.file)) return;
  seen.add(chunk.file);
  for (const i of chunk.imports ?? []) visit(i);
};
visit("index.html");
const gz = (file) => gzipSync(readFileSync(new URL(file, dist)), { level: 9 }).length;
const files = [...seen].map((f) => [f, gz(f)]).sort((a, b) => b[1] - a[1]);
for (const [f, n] of files) console.log(`${String(n).padStart(8)}  ${f}`);
const total = files.reduce((n, [, x]) => n + x, 0);
console.log(`${String(total).padStart(8)}  initial script, gzip (limit ${LIMIT})`);
console.log(`${String(gz("openkcm-resource-mfe.js")).padStart(8)}  the tile's module, gzip`);
if (total > LIMIT) {
  console.error("The initial script is too large.");
  process.exit(1);
}
