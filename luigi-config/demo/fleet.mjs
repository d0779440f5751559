// Writes fleet.yaml: a workspace worth looking at, from nothing but plain objects. `node fleet.mjs > fleet.yaml`
// The Account aws-production is the demo's own; two others are broken on purpose, so that the console has something to say.
const NAMESPACES = ["payments", "checkout", "identity", "analytics", "warehouse", "mobile-backend"];
const WORDS = ["db", "cards", "tokens", "ledger", "sessions", "profiles", "events", "archive", "cache", "reports", "mail", "uploads"];
const SCHEDULES = ["Hourly", "Daily", "Weekly", "30 Days", "90 Days", "Never", "12 Hours", "365 Days"];
const KEYS = 300;

const api = "apiVersion: openkcm.io/v1alpha1";
const lines = ["# Made by fleet.mjs: do not edit."];
const add = (text) => lines.push("---", text);

for (const name of NAMESPACES) add(`{apiVersion: v1, kind: Namespace, metadata: {name: ${name}}}`);
const account = (name, type, reference) => add(`{${api}, kind: Account, metadata: {name: ${name}}, spec: {providerType: ${type}, keyReference: "${reference}"}}`);
account("aws-legacy", "AWSKMS", "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000000");
account("azure-trial", "AzureKeyVault", "https://openkcm-demo-trial.vault.azure.net/keys/root");
for (let i = 0; i < KEYS; i++) {
  const round = Math.floor(i / (NAMESPACES.length * WORDS.length)) + 1;
  const name = `${WORDS[Math.floor(i / NAMESPACES.length) % WORDS.length]}-${String(round).padStart(2, "0")}`;
  const namespace = NAMESPACES[i % NAMESPACES.length];
  // One in forty hangs on the broken Account, one in twenty-five is switched off.
  const parent = i % 40 === 39 ? "aws-legacy" : "aws-production";
  const state = i % 25 === 24 ? "Disabled" : "Enabled";
  add(
    `{${api}, kind: ServiceEncryptionKey, metadata: {name: ${name}, namespace: ${namespace}}, spec: {accountRef: {name: ${parent}}, ` +
      `rotationSchedule: "${SCHEDULES[(i * 5) % SCHEDULES.length]}", state: ${state}}}`,
  );
}
console.log(lines.join("\n"));
