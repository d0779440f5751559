/** The rotation schedule's grammar: `Hourly | Daily | Weekly | "<n> Hours" | "<n> Days" | Never`, n from 1 to 9999. */

export type Schedule = { kind: "never" } | { kind: "every"; unit: "hour" | "day"; n: number };

const WORDS: Record<string, Schedule> = {
  Never: { kind: "never" },
  Hourly: { kind: "every", unit: "hour", n: 1 },
  Daily: { kind: "every", unit: "day", n: 1 },
  Weekly: { kind: "every", unit: "day", n: 7 },
};

export const PRESETS = ["Hourly", "Daily", "Weekly", "30 Days", "90 Days", "365 Days", "Never"];

/** `undefined` for anything that the API server would refuse. */
export function parseSchedule(text: string): Schedule | undefined {
  const word = WORDS[text];
  if (word) return word;
  const m = /^([1-9][0-9]{0,3}) (Hours|Days)$/.exec(text);
  if (!m) return undefined;
  const n = Number(m[1]);
  const unit = m[2] === "Hours" ? "hour" : "day";
  return { kind: "every", unit, n };
}
