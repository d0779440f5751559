import type { Ctx } from "../ctx.js";
import type { ServiceKey } from "./kinds.js";

const ref = (k: ServiceKey) => ({ name: k.metadata.name, namespace: k.metadata.namespace });

/** Every action of the console is a patch of the spec: what a person can click, kubectl and Git can do too. */
async function patch(ctx: Ctx, k: ServiceKey, spec: Partial<ServiceKey["spec"]>): Promise<void> {
  ctx.fleet.keys.learn(await ctx.port.patch("ServiceEncryptionKey", ref(k), { spec }));
}

/** Any new value asks for exactly one rotation; the time says when it was asked. */
export function rotateNow(ctx: Ctx, k: ServiceKey, now: number): Promise<void> {
  return patch(ctx, k, { rotationRequest: new Date(now).toISOString() });
}

export function setState(ctx: Ctx, k: ServiceKey, state: "Enabled" | "Disabled"): Promise<void> {
  return patch(ctx, k, { state });
}

export function setSchedule(ctx: Ctx, k: ServiceKey, rotationSchedule: string): Promise<void> {
  return patch(ctx, k, { rotationSchedule });
}
