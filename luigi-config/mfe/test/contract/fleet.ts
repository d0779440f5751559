import type { Account, ServiceKey, Tenant } from "../../src/model/kinds.js";

/** A fleet worth looking at: Accounts in every state, keys on every schedule. The same for the same numbers. */
export function fleet(o: { now: number; keys?: number; hostile?: boolean }): { tenant: Tenant; accounts: Account[]; keys: ServiceKey[] } {
  const { now } = o;
  let seed = 42;
  const random = () => {
    // Mulberry32: small, and the same everywhere.
    seed = (seed + 0x6d2b79f5) | 0;
    let x = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    x = (x + Math.imul(x ^ (x >>> 7), 61 | x)) ^ x;
    return ((x ^ (x >>> 14)) >>> 0) / 4_294_967_296;
  };
  const iso = (ms: number) => new Date(Math.round(ms / 1000) * 1000).toISOString().replace(".000Z", "Z");
  const HOUR = 3_600_000;
  let rv = 1_000;
  const meta = (name: string, age: number, namespace?: string) => ({
    name,
    namespace,
    uid: `uid-${++rv}`,
    resourceVersion: String(rv),
    generation: 1,
    creationTimestamp: iso(now - age),
  });
  const yes = (type: string, reason: string, message = "") => ({ type, status: "True" as const, reason, message, lastTransitionTime: iso(now - HOUR) });
  const no = (type: string, reason: string, message: string) => ({ type, status: "False" as const, reason, message, lastTransitionTime: iso(now - HOUR) });

  const tenant: Tenant = {
    apiVersion: "openkcm.io/v1alpha1",
    kind: "Tenant",
    metadata: meta("tenant-root-demo", 40 * 24 * HOUR),
    status: { phase: "Active", path: "root:demo", logicalCluster: "2p6yhx0r8jyk4z1c", accounts: 7, serviceEncryptionKeys: o.keys ?? 320, conditions: [yes("Ready", "Active", "Accounts and keys of this workspace are served.")] },
  };
  const account = (name: string, providerType: Account["spec"]["providerType"], keyReference: string, status: Account["status"]): Account => ({
    apiVersion: "openkcm.io/v1alpha1",
    kind: "Account",
    metadata: meta(name, 30 * 24 * HOUR),
    spec: { providerType, keyReference },
    status,
  });
  const ready = (reference: string, version: string, algorithm: string): Account["status"] => ({
    phase: "Ready",
    rootKey: { reference, version, algorithm, lastVerified: iso(now - 42_000) },
    accountKeyVersion: 1,
    conditions: [yes("Ready", "Verified"), yes("RootKeyVerified", "Verified", "A wrap and an unwrap succeeded.")],
  });
  const aws = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
  const azure = "https://acme-prod.vault.azure.net/keys/openkcm-root";
  const gcp = "projects/acme-prod/locations/europe-west3/keyRings/openkcm/cryptoKeys/root";
  const hsm = "pkcs11:token=luna-prod;object=openkcm-root";
  const accounts: Account[] = [
    account("aws-root-production", "AWSKMS", aws, { ...ready(aws, "", "SYMMETRIC_DEFAULT"), accountKeyVersion: 3 }),
    account("azure-root-emea", "AzureKeyVault", azure, ready(azure, "78deebed173b48e48f55abf87ed4cf71", "RSA-OAEP-256")),
    account("gcp-root-analytics", "GCPKMS", gcp, ready(gcp, "4", "GOOGLE_SYMMETRIC_ENCRYPTION")),
    account("hsm-root-payments", "ThalesHSM", hsm, {
      ...ready(hsm, "", "CKM_AES_KEY_WRAP_KWP"),
      phase: "Rekeying",
      accountKeyVersion: 2,
      rewrap: { from: 1, to: 2, total: 412, done: 268, failed: 0, startedAt: iso(now - 9_000) },
      conditions: [yes("Ready", "Verified"), yes("RootKeyVerified", "Verified"), no("RewrapComplete", "Running", "268 of 412 keys; about 5 s left.")],
    }),
    account("aws-root-legacy", "AWSKMS", "arn:aws:kms:us-east-1:444455556666:alias/legacy", {
      phase: "Unavailable",
      rootKey: { reference: "arn:aws:kms:us-east-1:444455556666:alias/legacy", algorithm: "SYMMETRIC_DEFAULT", lastVerified: iso(now - 26 * HOUR) },
      accountKeyVersion: 1,
      conditions: [
        no("Ready", "AccessDenied", "The role may not use the key: allow kms:Decrypt and kms:Encrypt for arn:aws:iam::444455556666:role/openkcm in the key's policy."),
        no("RootKeyVerified", "AccessDenied", "The role may not use the key: allow kms:Decrypt and kms:Encrypt for arn:aws:iam::444455556666:role/openkcm in the key's policy."),
      ],
    }),
    account("azure-root-trial", "AzureKeyVault", "https://acme-trial.vault.azure.net/keys/root", {
      phase: "Pending",
      conditions: [no("Ready", "NotFound", "There is no key named root in acme-trial.vault.azure.net."), no("RootKeyVerified", "NotFound", "There is no key named root in acme-trial.vault.azure.net.")],
    }),
    account("gcp-root-new", "GCPKMS", "projects/acme-lab/locations/global/keyRings/lab/cryptoKeys/root", undefined),
  ];

  const namespaces = ["payments", "checkout", "identity", "analytics", "warehouse", "mobile-backend"];
  const words = ["db", "cards", "tokens", "ledger", "sessions", "profiles", "events", "archive", "cache", "reports", "mail", "uploads"];
  const schedules = ["Hourly", "Daily", "Weekly", "30 Days", "90 Days", "Never", "12 Hours", "365 Days"];
  const period: Record<string, number> = { Hourly: 1, Daily: 24, Weekly: 168, "30 Days": 720, "90 Days": 2160, "12 Hours": 12, "365 Days": 8760 };
  const total = o.keys ?? 320;
  const keys: ServiceKey[] = [];
  for (let i = 0; i < total; i++) {
    const a = accounts[Math.min(Math.floor(random() * random() * 6), 5)]!;
    const namespace = namespaces[i % namespaces.length]!;
    const name = `${words[Math.floor(i / namespaces.length) % words.length]!}-${String(Math.floor(i / (namespaces.length * words.length)) + 1).padStart(2, "0")}`;
    const rotationSchedule = schedules[Math.floor(random() * schedules.length)]!;
    const down = a.metadata.name === "aws-root-legacy";
    const pending = a.metadata.name === "azure-root-trial";
    const off = !down && !pending && random() < 0.06;
    const state = down ? "Unavailable" : pending ? "Provisioning" : off ? "Disabled" : "Active";
    const age = (random() * 0.999 + (random() < 0.008 ? 1.02 : 0)) * (period[rotationSchedule] ?? 4000) * HOUR;
    const version = 1 + Math.floor(random() * 60);
    const behind = state === "Active" && random() < 0.012;
    keys.push({
      apiVersion: "openkcm.io/v1alpha1",
      kind: "ServiceEncryptionKey",
      metadata: meta(name, 25 * 24 * HOUR, namespace),
      spec: {
        accountRef: { name: a.metadata.name },
        algorithm: "AES-GCM-256",
        rotationSchedule,
        state: off ? "Disabled" : "Enabled",
        ...(i % 17 === 0 ? { clients: [{ issuer: "https://issuer.prod.example", subject: "system:serviceaccount:batch:exporter" }] } : {}),
      },
      status: pending
        ? { state: "Provisioning", conditions: [no("Ready", "AccountNotReady", `Account ${a.metadata.name} is not ready.`)] }
        : {
            state,
            currentVersion: `v${version}`,
            lastRotation: iso(now - age),
            ...(period[rotationSchedule] ? { nextRotation: iso(now - age + period[rotationSchedule]! * HOUR) } : {}),
            activeClients: state === "Active" ? Math.floor(random() * random() * 24) : 0,
            edges: state === "Disabled" ? { total: 3, current: 0, evicted: 3 } : { total: 3, current: down ? 0 : behind ? 2 : 3, evicted: down ? 3 : 0 },
            versions: Array.from({ length: Math.min(10, version) }, (_, j) => ({
              version: `v${version - j}`,
              state: j === 0 ? "Active" : "Deactivated",
              created: iso(now - age - j * (period[rotationSchedule] ?? 2000) * HOUR),
              accountKeyVersion: a.status?.accountKeyVersion ?? 1,
            })),
            conditions: [
              down ? no("Ready", "AccountUnavailable", `The root key of ${a.metadata.name} cannot be used.`) : yes("Ready", state),
              behind ? no("Distributed", "EdgeBehind", "1 of 3 edges has not acknowledged yet.") : yes("Distributed", "Current"),
            ],
          },
    });
  }
  if (o.hostile) {
    // What the API server would take and what it would not: the console must survive both.
    const odd = structuredClone(keys[0]!);
    odd.metadata = meta("x".repeat(253), HOUR, "n".repeat(63));
    odd.spec.accountRef.name = "<img src=x onerror=alert(1)>";
    const rtl = structuredClone(keys[0]!);
    rtl.metadata = meta("מפתח-תשלומים-\u202eevil", HOUR, "تجربة");
    keys.push(odd, rtl);
    accounts.push(account("<script>alert(1)</script>", "AWSKMS", `${aws}${"a".repeat(400)}`, undefined));
  }
  for (const a of accounts) {
    const n = keys.filter((k) => k.spec.accountRef.name === a.metadata.name).length;
    if (a.status) a.status.dependents = n;
  }
  return { tenant, accounts, keys };
}
