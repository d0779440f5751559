/** Seconds since 1970 at which a JWT ends; `Infinity` for a token that names no end; `0` for none at all. */
export function expiry(token: string | undefined): number {
  if (!token) return 0;
  const payload = token.split(".")[1];
  if (!payload) return Infinity;
  try {
    const json = atob(payload.replaceAll("-", "+").replaceAll("_", "/"));
    const exp = (JSON.parse(json) as { exp?: unknown }).exp;
    return typeof exp === "number" ? exp : Infinity;
  } catch {
    // Opaque tokens are legal; the server knows.
    return Infinity;
  }
}

/** The one of the two that ends later. The portal's refresh can leave either of its copies behind. */
export function newest(...tokens: (string | undefined)[]): string | undefined {
  let best: string | undefined;
  for (const t of tokens) if (t && (best === undefined || expiry(t) > expiry(best))) best = t;
  return best;
}

/** Ends within a minute, or has ended. */
export function ending(token: string | undefined, now: number): boolean {
  return expiry(token) * 1_000 < now + 60_000;
}
