import type { ProviderType } from "./kinds.js";

/** What a key reference says about itself, in the order in which a person reads it. */
export interface Parsed {
  ok: boolean;
  /** Where the key lives, when the reference says so. */
  region?: string;
  /** Parts in reading order: what it is called and its value. */
  parts: { part: Part; value: string }[];
  /** What is wrong, as a text key's suffix; only when `ok` is false and there is any text. */
  problem?: Problem;
  /** Legal but unusual. */
  hint?: "pinnedVersion" | "alias";
}
export type Part =
  | "partition"
  | "region"
  | "account"
  | "key"
  | "alias"
  | "vault"
  | "version"
  | "project"
  | "keyRing"
  | "token"
  | "object"
  | "serial"
  | "id";
export type Problem =
  | "empty"
  | "whitespace"
  | "awsArn"
  | "awsPartition"
  | "awsService"
  | "awsRegion"
  | "awsAccount"
  | "awsResource"
  | "azureHttps"
  | "azureHost"
  | "azurePath"
  | "gcpPath"
  | "hsmScheme"
  | "hsmParts"
  | "hsmSecret";

const bad = (problem: Problem, parts: Parsed["parts"] = [], region?: string): Parsed => ({
  ok: false,
  problem,
  parts,
  region,
});

function aws(text: string): Parsed {
  const f = text.split(":");
  if (f[0] !== "arn") return bad("awsArn");
  const parts: Parsed["parts"] = [];
  if (f.length < 2) return bad("awsPartition");
  if (!/^aws(-[a-z0-9-]+)?$/.test(f[1] ?? "")) return bad("awsPartition");
  parts.push({ part: "partition", value: f[1]! });
  if (f[2] !== "kms") return bad("awsService", parts);
  const region = f[3] ?? "";
  if (!/^[a-z]{2,}(-[a-z]+)+-\d+$/.test(region)) return bad("awsRegion", parts);
  parts.push({ part: "region", value: region });
  if (!/^\d{12}$/.test(f[4] ?? "")) return bad("awsAccount", parts, region);
  parts.push({ part: "account", value: f[4]! });
  const resource = f.slice(5).join(":");
  const key = /^key\/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|mrk-[0-9a-f]{32})$/.exec(resource);
  const alias = /^alias\/([A-Za-z0-9/_-]{1,250})$/.exec(resource);
  if (!key && !alias) return bad("awsResource", parts, region);
  if (key) parts.push({ part: "key", value: key[1]! });
  else parts.push({ part: "alias", value: alias![1]! });
  return { ok: true, region, parts, ...(alias ? { hint: "alias" as const } : {}) };
}

function azure(text: string): Parsed {
  if (!text.startsWith("https://")) return bad("azureHttps");
  const host = text.slice("https://".length).split("/")[0]!;
  if (!/^[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]\.(vault|managedhsm)\.(azure\.net|azure\.cn|usgovcloudapi\.net)$/.test(host)) {
    return bad("azureHost");
  }
  const m = /^https:\/\/([A-Za-z0-9.-]+)\/keys\/([A-Za-z0-9-]{1,127})(?:\/([A-Za-z0-9]{1,64}))?$/.exec(text);
  if (!m) return bad("azurePath");
  const parts: Parsed["parts"] = [
    { part: "vault", value: m[1]! },
    { part: "key", value: m[2]! },
  ];
  if (m[3]) parts.push({ part: "version", value: m[3] });
  return { ok: true, parts, ...(m[3] ? { hint: "pinnedVersion" as const } : {}) };
}

function gcp(text: string): Parsed {
  const m =
    /^projects\/([a-z0-9.:-]{1,63})\/locations\/([a-z0-9-]{1,63})\/keyRings\/([A-Za-z0-9_-]{1,63})\/cryptoKeys\/([A-Za-z0-9_-]{1,63})(?:\/cryptoKeyVersions\/(\d+))?$/.exec(
      text,
    );
  if (!m) return bad("gcpPath");
  const parts: Parsed["parts"] = [
    { part: "project", value: m[1]! },
    { part: "region", value: m[2]! },
    { part: "keyRing", value: m[3]! },
    { part: "key", value: m[4]! },
  ];
  if (m[5]) parts.push({ part: "version", value: m[5] });
  return { ok: true, region: m[2], parts, ...(m[5] ? { hint: "pinnedVersion" as const } : {}) };
}

function hsm(text: string): Parsed {
  if (!text.startsWith("pkcs11:")) return bad("hsmScheme");
  // A PIN or a library's path in a tenant's object would be a leak or an attack; both are the operator's.
  if (text.includes("?")) return bad("hsmSecret");
  const parts: Parsed["parts"] = [];
  for (const piece of text.slice("pkcs11:".length).split(";")) {
    const m = /^([a-z0-9-]+)=(.+)$/.exec(piece);
    if (!m) return bad("hsmParts", parts);
    if (/^(pin-|module-)/.test(m[1]!)) return bad("hsmSecret");
    if (m[1] === "token" || m[1] === "object" || m[1] === "serial" || m[1] === "id") parts.push({ part: m[1], value: decoded(m[2]!) });
  }
  const has = (...names: Part[]) => parts.some((p) => names.includes(p.part));
  return has("token", "serial") && has("object", "id") ? { ok: true, parts } : bad("hsmParts", parts);
}

function decoded(v: string): string {
  try {
    return decodeURIComponent(v);
  } catch {
    return v;
  }
}

/** Reads `text` as far as it can be read. Live help only: the API server and the provider decide. */
export function parseReference(provider: ProviderType, text: string): Parsed {
  if (!text) return bad("empty");
  if (/\s/.test(text)) return bad("whitespace");
  switch (provider) {
    case "AWSKMS":
      return aws(text);
    case "AzureKeyVault":
      return azure(text);
    case "GCPKMS":
      return gcp(text);
    case "ThalesHSM":
      return hsm(text);
  }
}

export const EXAMPLE: Record<ProviderType, (region: string) => string> = {
  AWSKMS: (r) => `arn:aws:kms:${r || "eu-central-1"}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab`,
  AzureKeyVault: () => "https://contoso.vault.azure.net/keys/openkcm-root",
  GCPKMS: (r) => `projects/acme-prod/locations/${r || "europe-west3"}/keyRings/openkcm/cryptoKeys/root`,
  ThalesHSM: () => "pkcs11:token=luna-prod;object=openkcm-root",
};

export const REGIONS: Record<ProviderType, string[]> = {
  AWSKMS: [
    "eu-central-1",
    "eu-central-2",
    "eu-west-1",
    "eu-west-3",
    "eu-north-1",
    "us-east-1",
    "us-east-2",
    "us-west-2",
    "ap-northeast-1",
    "ap-south-1",
    "ap-southeast-2",
    "us-gov-west-1",
    "cn-north-1",
  ],
  GCPKMS: ["europe", "europe-west3", "europe-west4", "us", "us-central1", "asia-northeast1", "global"],
  // The reference of these two names a vault or a token; neither says where it stands.
  AzureKeyVault: [],
  ThalesHSM: [],
};
