/** The kinds of group `openkcm.io/v1alpha1`, as the console reads them. All integers are 32-bit. */

export const GROUP = "openkcm.io";
export const VERSION = "v1alpha1";

export interface Meta {
  name: string;
  namespace?: string;
  uid?: string;
  resourceVersion?: string;
  generation?: number;
  creationTimestamp?: string;
  deletionTimestamp?: string;
}

export interface Condition {
  type: string;
  status: "True" | "False" | "Unknown";
  reason?: string;
  message?: string;
  lastTransitionTime?: string;
}

export interface Resource {
  apiVersion?: string;
  kind?: string;
  metadata: Meta;
}

export type TenantPhase = "Provisioning" | "Active" | "Suspended";

export interface Tenant extends Resource {
  status?: {
    phase?: TenantPhase;
    path?: string;
    logicalCluster?: string;
    recovered?: boolean;
    accounts?: number;
    serviceEncryptionKeys?: number;
    conditions?: Condition[];
  };
}

export const PROVIDER_TYPES = ["AWSKMS", "AzureKeyVault", "GCPKMS", "ThalesHSM"] as const;
export type ProviderType = (typeof PROVIDER_TYPES)[number];
export const ACCOUNT_PHASES = ["Pending", "Ready", "Rekeying", "Unavailable", "Deleting"] as const;
export type AccountPhase = (typeof ACCOUNT_PHASES)[number];

export interface Account extends Resource {
  spec: { providerType: ProviderType; keyReference: string };
  status?: {
    phase?: AccountPhase;
    rootKey?: { reference?: string; version?: string; algorithm?: string; lastVerified?: string };
    accountKeyVersion?: number;
    rewrap?: {
      from?: number;
      to?: number;
      total?: number;
      done?: number;
      failed?: number;
      /** The first of those that cannot be re-wrapped, as `namespace/name vN`. */
      lost?: string[];
      startedAt?: string;
      finishedAt?: string;
    };
    dependents?: number;
    /** What a re-key, disable or delete would touch now, as the provider counts it. */
    impact?: { keys?: number; namespaces?: number; activeClients?: number };
    conditions?: Condition[];
  };
}

export const KEY_STATES = ["Provisioning", "Active", "Disabled", "Unavailable", "PendingDeletion"] as const;
export type KeyState = (typeof KEY_STATES)[number];

export interface ClientRef {
  issuer: string;
  subject: string;
}

export interface KeyVersion {
  version: string;
  state?: string;
  created?: string;
  accountKeyVersion?: number;
}

export interface ServiceKey extends Resource {
  spec: {
    accountRef: { name: string };
    algorithm?: string;
    rotationSchedule?: string;
    rotationRequest?: string;
    state?: "Enabled" | "Disabled";
    clients?: ClientRef[];
  };
  status?: {
    state?: KeyState;
    currentVersion?: string;
    lastRotation?: string;
    nextRotation?: string;
    rotationRequest?: string;
    activeClients?: number;
    edges?: { total?: number; current?: number; evicted?: number };
    versions?: KeyVersion[];
    conditions?: Condition[];
  };
}

/** A Kubernetes event about one object, from whichever events API served it. */
export interface Happening {
  id: string;
  time: string;
  type: string;
  reason: string;
  message: string;
  source: string;
  count: number;
}

export interface Kinds {
  Tenant: Tenant;
  Account: Account;
  ServiceEncryptionKey: ServiceKey;
}
export type KindName = keyof Kinds;

export const PLURAL: Record<KindName, string> = {
  Tenant: "tenants",
  Account: "accounts",
  ServiceEncryptionKey: "serviceencryptionkeys",
};
export const NAMESPACED: Record<KindName, boolean> = {
  Tenant: false,
  Account: false,
  ServiceEncryptionKey: true,
};

/** `namespace/name`, or the name alone: unique among the objects of one kind in one workspace. */
export function idOf(o: Resource): string {
  return o.metadata.namespace ? `${o.metadata.namespace}/${o.metadata.name}` : o.metadata.name;
}

export function condition(o: { status?: { conditions?: Condition[] } }, type: string): Condition | undefined {
  return o.status?.conditions?.find((c) => c.type === type);
}

/** The effective state; an object that the provider has not seen yet is being provisioned. */
export function keyState(k: ServiceKey): KeyState {
  return k.status?.state ?? "Provisioning";
}

export function accountPhase(a: Account): AccountPhase {
  if (a.metadata.deletionTimestamp) return "Deleting";
  return a.status?.phase ?? "Pending";
}

/** The spec asks for something that the status does not confirm yet. */
export function rotationPending(k: ServiceKey): boolean {
  return !!k.spec.rotationRequest && k.spec.rotationRequest !== k.status?.rotationRequest;
}
