import { t, tn } from "../i18n/index.js";
import { parseSchedule } from "../model/schedule.js";

/** A schedule in words; a text that is no schedule as it stands. */
export function scheduleText(text: string): string {
  const s = parseSchedule(text);
  if (!s) return text || "–";
  if (s.kind === "never") return t("schedule.Never");
  return tn(`schedule.${s.unit}`, s.n);
}
