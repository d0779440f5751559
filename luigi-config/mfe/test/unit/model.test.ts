import { describe, expect, test } from "vitest";
import { attention, blastRadius, isDue, overview } from "../../src/model/fleet.js";
import { filterKeys, matches, paged, sortKeys, view } from "../../src/model/filter.js";
import { forest, place } from "../../src/model/forest.js";
import type { Account, ServiceKey } from "../../src/model/kinds.js";
import { keyObject, kubectlApply, nameProblem, toYaml } from "../../src/model/manifest.js";
import { EXAMPLE, parseReference } from "../../src/model/reference.js";
import { parseSchedule, PRESETS } from "../../src/model/schedule.js";
import { parse } from "yaml";
import { fleet } from "../contract/fleet.js";

const NOW = Date.parse("2026-11-21T12:00:00Z");
const in_ = (hours: number) => new Date(NOW + hours * 3_600_000).toISOString();

function key(name: string, change: Partial<ServiceKey["status"]> & { account?: string; namespace?: string } = {}): ServiceKey {
  const { account = "a", namespace = "n", ...status } = change;
  return { metadata: { name, namespace }, spec: { accountRef: { name: account } }, status: { state: "Active", ...status } };
}

describe("schedule", () => {
  test.each(["Hourly", "Daily", "Weekly", "Never", "1 Hours", "30 Days", "9999 Hours", "9999 Days", ...PRESETS])("%s is one", (s) => {
    expect(parseSchedule(s)).toBeDefined();
  });
  test.each(["", "hourly", "0 Days", "01 Days", "10000 Days", "-1 Days", "30 days", "30  Days", "30 Days ", "1.5 Days", "Monthly"])("%j is none", (s) => {
    expect(parseSchedule(s)).toBeUndefined();
  });
});

describe("key reference", () => {
  test.each(["AWSKMS", "AzureKeyVault", "GCPKMS", "ThalesHSM"] as const)("the example of %s is complete", (p) => {
    expect(parseReference(p, EXAMPLE[p](""))).toMatchObject({ ok: true });
  });
  test("the region is read from it", () => {
    expect(parseReference("AWSKMS", "arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/openkcm")).toMatchObject({ ok: true, region: "us-gov-west-1", hint: "alias" });
    expect(parseReference("GCPKMS", "projects/my-project/locations/europe/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3")).toMatchObject({ ok: true, region: "europe", hint: "pinnedVersion" });
  });
  test.each([
    ["AWSKMS", "", "empty"],
    ["AWSKMS", "arn:aws:kms:eu-central-1: 1", "whitespace"],
    ["AWSKMS", "arm:aws", "awsArn"],
    ["AWSKMS", "arn:azure:kms", "awsPartition"],
    ["AWSKMS", "arn:aws:s3:::bucket", "awsService"],
    ["AWSKMS", "arn:aws:kms:frankfurt:1", "awsRegion"],
    ["AWSKMS", "arn:aws:kms:eu-central-1:1111", "awsAccount"],
    ["AWSKMS", "arn:aws:kms:eu-central-1:111122223333:key/nouuid", "awsResource"],
    ["AzureKeyVault", "http://v.vault.azure.net/keys/k", "azureHttps"],
    ["AzureKeyVault", "https://169.254.169.254/keys/k", "azureHost"],
    ["AzureKeyVault", "https://vault.azure.net.evil.example/keys/k", "azureHost"],
    ["AzureKeyVault", "https://contoso.vault.azure.net/secrets/k", "azurePath"],
    ["GCPKMS", "projects/p/cryptoKeys/k", "gcpPath"],
    ["ThalesHSM", "luna:token=x", "hsmScheme"],
    ["ThalesHSM", "pkcs11:token=x", "hsmParts"],
    ["ThalesHSM", "pkcs11:token=x;object=y?pin-value=1234", "hsmSecret"],
  ] as const)("%s %j: %s", (provider, text, problem) => {
    expect(parseReference(provider, text)).toMatchObject({ ok: false, problem });
  });
});

describe("fleet", () => {
  test("buckets of due overlap, and what is off is never due", () => {
    const keys = [key("late", { nextRotation: in_(-1) }), key("soon", { nextRotation: in_(2) }), key("week", { nextRotation: in_(100) }), key("far", { nextRotation: in_(1_000) }), key("off", { nextRotation: in_(-5), state: "Disabled" }), key("never")];
    expect(overview([], keys, NOW).due).toEqual({ overdue: 1, "24h": 2, "7d": 3 });
    expect(isDue(keys[4]!, "overdue", NOW)).toBe(false);
  });
  test("keys of an Account that is down are one item and not many", () => {
    const down: Account = {
      metadata: { name: "a" },
      spec: { providerType: "AWSKMS", keyReference: "x" },
      status: { phase: "Unavailable", conditions: [{ type: "Ready", status: "False", reason: "AccessDenied", message: "no" }] },
    };
    const keys = [key("x", { state: "Unavailable" }), key("y", { state: "Unavailable" }), key("z", { state: "Unavailable", account: "b" })];
    expect(attention([down], keys, NOW).map((a) => `${a.what} ${a.id}`)).toEqual(["accountUnavailable a", "keyUnavailable n/z"]);
  });
  test("the blast radius counts keys, namespaces and clients of this Account only", () => {
    const keys = [key("x", { activeClients: 3 }), key("y", { activeClients: 4, namespace: "m" }), key("z", { activeClients: 9, account: "b" })];
    expect(blastRadius("a", keys)).toEqual({ keys: 2, namespaces: 2, clients: 7, names: ["m/y", "n/x"] });
  });
});

describe("lists", () => {
  test("every word of a search must occur, in any case", () => {
    expect(matches("DB pay", "payments/db-01")).toBe(true);
    expect(matches("db x", "payments/db-01")).toBe(false);
    expect(matches("", "anything")).toBe(true);
  });
  test("filters of an address combine", () => {
    const keys = [key("x", { nextRotation: in_(1) }), key("y", { state: "Disabled" }), key("z", { nextRotation: in_(1), account: "b" })];
    expect(filterKeys(keys, { account: "a", due: "24h" }, NOW).map((k) => k.metadata.name)).toEqual(["x"]);
    expect(filterKeys(keys, { state: "Disabled" }, NOW).map((k) => k.metadata.name)).toEqual(["y"]);
  });
  test("versions sort as numbers, and what has no value comes last both ways", () => {
    const keys = [key("ten", { currentVersion: "v10" }), key("nine", { currentVersion: "v9" })];
    expect(sortKeys(keys, view({ sort: "version" })).map((k) => k.metadata.name)).toEqual(["nine", "ten"]);
    const due = [key("none"), key("b", { nextRotation: in_(2) }), key("a", { nextRotation: in_(1) })];
    expect(sortKeys(due, view({ sort: "next" })).map((k) => k.metadata.name)).toEqual(["a", "b", "none"]);
    expect(sortKeys(due, view({ sort: "next", dir: "desc" })).map((k) => k.metadata.name)).toEqual(["b", "a", "none"]);
  });
  test("an address with nonsense in it is read as the default", () => {
    expect(view({ page: "-3", size: "7", sort: "" })).toMatchObject({ page: 1, size: 25, sort: "name" });
    expect(paged([1, 2, 3], view({ page: "99" }))).toEqual({ rows: [1, 2, 3], page: 1, pages: 1 });
  });
});

describe("manifest", () => {
  test("what is shown as YAML reads back as what is sent, whatever the text", () => {
    const nasty = ["plain", 'a"b', "a: b # c", "- x", "yes", "1e3", "line\nbreak", "\u2028", "OPENKCM", "$(rm -rf /)", "'", "\\", "{{x}}", "مرحبا", "\u202e"];
    const object = { kind: "X", "odd key:": nasty, nested: [{ a: nasty[3], b: [1, true, null] }], none: {}, list: [] };
    expect(parse(toYaml(object))).toEqual(object);
  });
  test("no text ends the here-document early", () => {
    const line = kubectlApply(keyObject({ name: "k", namespace: "n", account: "OPENKCM\nOPENKCM", rotationSchedule: "Daily", clients: [] }));
    expect(line.split("\n").filter((l) => l === "OPENKCM")).toHaveLength(1);
  });
  test.each([
    ["", "empty"],
    ["a".repeat(64), "long"],
    ["Upper", "form"],
    ["-x", "form"],
    ["a..b", "form"],
    ["a".repeat(63), undefined],
    ["a.b-c", undefined],
  ] as const)("name %j: %s", (name, problem) => {
    expect(nameProblem(name)).toBe(problem);
  });
});

describe("topology", () => {
  test("every node has one row of its own level and 5,000 keys are 5,000 rows", () => {
    const f = fleet({ now: NOW, keys: 5_000 });
    const root = forest({ name: "w", state: "Active" }, f.accounts, f.keys);
    const placed = place(root, new Set(root.children.map((a) => a.id)));
    const leaves = placed.filter((p) => !p.open);
    expect(new Set(leaves.map((p) => p.y)).size).toBe(leaves.length);
    expect(placed.filter((p) => p.node.level === 3)).toHaveLength(5_000);
    for (const p of placed) if (p.parent) expect(p.y).toBeGreaterThanOrEqual(p.parent.first);
  });
  test("a key whose Account is gone still hangs somewhere", () => {
    const root = forest({ name: "w", state: "Active" }, [], [key("orphan", { account: "gone" })]);
    expect(root.children.map((c) => [c.name, c.total])).toEqual([["gone", 1]]);
  });
  test("closed Accounts take one row", () => {
    const f = fleet({ now: NOW, keys: 100 });
    const root = forest({ name: "w", state: "Active" }, f.accounts, f.keys);
    expect(place(root, new Set())).toHaveLength(1 + root.children.length);
  });
});
