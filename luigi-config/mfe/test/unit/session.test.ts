import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { gatewayUrl } from "../../src/data/graphql.js";
import { de } from "../../src/i18n/de.js";
import { en } from "../../src/i18n/en.js";
import { mapTheme } from "../../src/luigi/theme.js";
import { ending, expiry, newest } from "../../src/luigi/token.js";

const jwt = (exp?: number) => `h.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.s`;

describe("token", () => {
  test("the one that ends later wins, whichever place it was in", () => {
    expect(newest(jwt(10), jwt(20))).toBe(jwt(20));
    expect(newest(jwt(20), jwt(10))).toBe(jwt(20));
    expect(newest(undefined, jwt(1))).toBe(jwt(1));
    expect(newest(undefined, "")).toBeUndefined();
  });
  test("an opaque token has no end", () => {
    expect(expiry("opaque")).toBe(Infinity);
    expect(expiry("a.!!!.c")).toBe(Infinity);
    expect(expiry(jwt())).toBe(Infinity);
    expect(ending("opaque", Date.now())).toBe(false);
    expect(ending(jwt(30), 0)).toBe(true);
    expect(ending(undefined, 0)).toBe(true);
  });
});

test.each([
  ["sap_horizon", false, "sap_horizon"],
  ["sap_horizon_dark", false, "sap_horizon_dark"],
  ["sap_fiori_3_hcb", false, "sap_horizon_hcb"],
  ["sap_horizon_hcw", true, "sap_horizon_hcw"],
  [false, true, "sap_horizon_dark"],
  [false, false, "sap_horizon"],
  [{ id: "sap_horizon_dark" }, false, "sap_horizon_dark"],
] as const)("theme %j, dark preferred %s: %s", (id, dark, theme) => {
  expect(mapTheme(id, dark)).toBe(theme);
});

test.each([
  ["https://p/api/kubernetes-graphql-gateway/root:orgs:a/graphql", "root:orgs:a:b", "https://p/api/kubernetes-graphql-gateway/root:orgs:a:b/graphql"],
  ["https://p/gateway/api/clusters/root:orgs:a:accountId/graphql", undefined, undefined],
  ["https://p/gateway/api/clusters/root:orgs:a/graphql", ":kcpPath", "https://p/gateway/api/clusters/root:orgs:a/graphql"],
  ["https://p/gateway/api/clusters/:accountId/graphql", undefined, undefined],
  [undefined, "root:a", undefined],
  ["https://p/other", "root:a", undefined],
])("gateway %s with %s", (address, path, expected) => {
  expect(gatewayUrl(address, path)).toBe(expected);
});

describe("texts", () => {
  test("German says everything that English says, with the same places to fill", () => {
    expect(Object.keys(de).sort()).toEqual(Object.keys(en).sort());
    const places = (s: string) => (s.match(/\{\w+\}/g) ?? []).sort();
    for (const [k, v] of Object.entries(en)) expect([k, places(de[k as keyof typeof en])]).toEqual([k, places(v)]);
  });
});

describe("registration", () => {
  const dir = resolve(import.meta.dirname, "../../..");
  const read = (f: string) => readFileSync(resolve(dir, f), "utf8");
  const ajv = new Ajv2020({ allErrors: true });
  const content = () => {
    const object = parse(read("contentconfiguration.yaml")) as { spec: { inlineConfiguration: { content: string } }; metadata: { labels: Record<string, string> } };
    return { object, data: JSON.parse(object.spec.inlineConfiguration.content) as { luigiConfigFragment: { data: { nodes: Record<string, unknown>[]; texts: { locale: string; textDictionary: object }[] } } } };
  };

  test("keeps to the closed schema", () => {
    const check = ajv.compile(JSON.parse(read("schema/contentconfiguration.schema.json")) as object);
    expect(check(content().data), JSON.stringify(check.errors)).toBe(true);
  });
  test.each(["badgeCounter", "viewUrl", "tooltipText", "urlSuffix"])("the schema refuses %s, as Platform Mesh does or as inline content must", (word) => {
    const check = ajv.compile(JSON.parse(read("schema/contentconfiguration.schema.json")) as object);
    const { data } = content();
    data.luigiConfigFragment.data.nodes[0]![word] = "x";
    expect(check(data)).toBe(false);
  });
  test("has a page for the workspace, one for the namespace and a tile, all templated by one address", () => {
    const { object, data } = content();
    const nodes = data.luigiConfigFragment.data.nodes;
    expect(nodes.map((n) => n.entityType)).toEqual(["main.core_platform-mesh_io_account", "main.core_platform-mesh_io_account.namespace", "main.core_platform-mesh_io_account::compound"]);
    for (const n of nodes) expect(n.url).toMatch(/^\$\{CONSOLE_URL\}\//);
    expect(object.metadata.labels).toMatchObject({ "ui.platform-mesh.io/content-for": "openkcm.io", "ui.platform-mesh.io/entity": "core_platform-mesh_io_account" });
  });
  test("every text is there in every language", () => {
    const { object, data } = content();
    const used = new Set([...object.spec.inlineConfiguration.content.matchAll(/\{\{([^}]+)\}\}/g)].map((m) => m[1]!));
    for (const t of data.luigiConfigFragment.data.texts) expect([t.locale, Object.keys(t.textDictionary).sort()]).toEqual([t.locale, [...used].sort()]);
    expect(data.luigiConfigFragment.data.texts.map((t) => t.locale)).toEqual(["", "en", "de"]);
  });
  test("the marketplace's tile is named like the export and keeps to its schema", () => {
    const object = parse(read("providermetadata.yaml")) as { metadata: { name: string }; spec: object };
    expect(object.metadata.name).toBe("openkcm.io");
    const check = ajv.compile(JSON.parse(read("schema/providermetadata.schema.json")) as object);
    expect(check(object.spec), JSON.stringify(check.errors)).toBe(true);
  });
});
