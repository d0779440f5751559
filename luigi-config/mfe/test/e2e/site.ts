import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize, resolve } from "node:path";
import { parse } from "yaml";
import { graphql } from "../contract/graphql-server.js";
import { rest } from "../contract/rest-server.js";
import type { World } from "../contract/world.js";

const HERE = resolve(import.meta.dirname, "../..");
const TYPES: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json", ".woff2": "font/woff2", ".woff": "font/woff", ".svg": "image/svg+xml" };
const CSP = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; object-src 'none'; connect-src 'self'; frame-src 'self'";

export interface Site {
  url: string;
  close(): Promise<void>;
}

/** The built pages under the policy of the real server, with a workspace in memory behind them. */
export async function site(world: World, o: { adapter?: "rest" | "graphql"; token?: () => string } = {}): Promise<Site> {
  const roots = { mfe: join(HERE, "dist"), shell: join(HERE, "../shell/dist") };
  let origin = "";
  const server: Server = createServer((req, res) => {
    void (async () => {
      const path = decodeURI(new URL(req.url ?? "/", "http://x").pathname);
      res.setHeader("Content-Security-Policy", CSP);
      res.setHeader("X-Content-Type-Options", "nosniff");
      if (path === "/shell/config") {
        const yaml = readFileSync(join(HERE, "../contentconfiguration.yaml"), "utf8");
        const text = (parse(yaml) as { spec: { inlineConfiguration: { content: string } } }).spec.inlineConfiguration.content;
        res.setHeader("Content-Type", "application/json");
        res.end(
          JSON.stringify({
            content: JSON.parse(text.replaceAll("${CONSOLE_URL}", `${origin}/mfe`)) as unknown,
            kcpPath: "root:demo",
            kcpWorkspaceUrl: `${origin}/kcp/clusters/root:demo`,
            ...(o.adapter === "graphql" ? { gatewayUrl: `${origin}/gateway/stale:path/graphql` } : {}),
            user: "demo@example.com",
          }),
        );
        return;
      }
      if (path === "/shell/session") {
        res.setHeader("Content-Type", "application/json");
        res.end(JSON.stringify({ token: o.token?.() ?? "demo" }));
        return;
      }
      if (path.startsWith("/kcp/clusters/root:demo/")) return rest(world, req, res, req.url!.slice("/kcp/clusters/root:demo".length));
      if (path === "/gateway/root:demo/graphql") return graphql(world, req, res);
      const [root, rel] = path.startsWith("/mfe/") ? [roots.mfe, path.slice(5)] : [roots.shell, path.slice(1)];
      const file = normalize(join(root, rel));
      if (!file.startsWith(root)) throw new Error("outside");
      const bytes = await readFile(file).catch(() => undefined);
      if (bytes && extname(file)) {
        res.setHeader("Content-Type", TYPES[extname(file)] ?? "application/octet-stream");
        res.end(bytes);
      } else if (root === roots.shell && !extname(file)) {
        res.setHeader("Content-Type", "text/html");
        res.end(await readFile(join(root, "index.html")));
      } else {
        res.statusCode = 404;
        res.end();
      }
    })().catch((e: unknown) => {
      res.statusCode = 500;
      res.end(String(e));
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url: origin,
    close: () =>
      new Promise((done) => {
        world.cut();
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}
