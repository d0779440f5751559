export const THEMES = ["sap_horizon", "sap_horizon_dark", "sap_horizon_hcb", "sap_horizon_hcw"] as const;
export type Theme = (typeof THEMES)[number];

/** Maps whatever id a shell uses to one of the four that we carry. */
export function mapTheme(id: unknown, prefersDark: boolean): Theme {
  const name = typeof id === "string" ? id : (id as { id?: unknown } | undefined)?.id;
  if (typeof name !== "string" || !name) return prefersDark ? "sap_horizon_dark" : "sap_horizon";
  if (/hcb/.test(name)) return "sap_horizon_hcb";
  if (/hcw/.test(name)) return "sap_horizon_hcw";
  return /dark|evening/.test(name) ? "sap_horizon_dark" : "sap_horizon";
}
