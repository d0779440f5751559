import { GROUP, VERSION, type ClientRef, type ProviderType } from "./kinds.js";

/** Always quoted: a name or reference from a person must not become YAML syntax. JSON strings are YAML strings. */
const q = (s: string) => JSON.stringify(s).replace(/[\u007f-\u009f\u2028\u2029\ufeff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** How the provider gets at the key; the member has to fit the provider type. */
export interface Access {
  aws?: { roleArn: string };
  azure?: { clientId: string; tenantId: string };
  gcp?: { serviceAccount: string };
}
export interface AccountDraft {
  name: string;
  providerType: ProviderType;
  keyReference: string;
  access?: Access;
}
export interface KeyDraft {
  name: string;
  namespace: string;
  account: string;
  rotationSchedule: string;
  clients: ClientRef[];
}

export function accountObject(d: AccountDraft) {
  return {
    apiVersion: `${GROUP}/${VERSION}`,
    kind: "Account",
    metadata: { name: d.name },
    spec: { providerType: d.providerType, keyReference: d.keyReference, ...(d.access ? { access: d.access } : {}) },
  };
}

export function keyObject(d: KeyDraft) {
  return {
    apiVersion: `${GROUP}/${VERSION}`,
    kind: "ServiceEncryptionKey",
    metadata: { name: d.name, namespace: d.namespace },
    spec: {
      accountRef: { name: d.account },
      algorithm: "AES-GCM-256",
      rotationSchedule: d.rotationSchedule,
      state: "Enabled",
      ...(d.clients.length ? { clients: d.clients } : {}),
    },
  };
}

/** Block-style YAML of plain data, strings always quoted. */
export function toYaml(value: unknown, indent = ""): string {
  if (Array.isArray(value)) {
    return value.map((v) => `${indent}- ${toYaml(v, `${indent}  `).trimStart()}`).join("");
  }
  if (value !== null && typeof value === "object") {
    return Object.entries(value)
      .filter(([, v]) => v !== undefined)
      .map(([k, v]) => {
        const key = /^[A-Za-z_][A-Za-z0-9_]*$/.test(k) ? k : q(k);
        if (v !== null && typeof v === "object") {
          const empty = Array.isArray(v) ? v.length === 0 : Object.keys(v).length === 0;
          if (empty) return `${indent}${key}: ${Array.isArray(v) ? "[]" : "{}"}\n`;
          return `${indent}${key}:\n${toYaml(v, `${indent}  `)}`;
        }
        return `${indent}${key}: ${toYaml(v)}`;
      })
      .join("");
  }
  return `${typeof value === "string" ? q(value) : String(value)}\n`;
}

/** A line to paste into a POSIX shell; a quoted here-document passes every character through. */
export function kubectlApply(object: unknown): string {
  return `kubectl apply -f - <<'OPENKCM'\n${toYaml(object)}OPENKCM\n`;
}

/** `undefined` when the name is legal: a DNS-1123 subdomain of at most 63 characters. */
export function nameProblem(name: string): "empty" | "long" | "form" | undefined {
  if (!name) return "empty";
  if (name.length > 63) return "long";
  return /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name) ? undefined : "form";
}
