import { en } from "./en.js";

export type Key = keyof typeof en;
export type Texts = Record<Key, string>;

let texts: Texts = en;
let language = "en";
let plurals = new Intl.PluralRules("en");
let formatLocale = "en";

/** Loads the language's texts; English is always there. Returns whether anything changed. */
export async function setLocale(locale: string): Promise<boolean> {
  const wanted = locale.toLowerCase().startsWith("de") ? "de" : "en";
  const valid = supported(locale);
  if (wanted === language && valid === formatLocale) return false;
  texts = wanted === "de" ? (await import("./de.js")).de : en;
  language = wanted;
  formatLocale = valid;
  plurals = new Intl.PluralRules(wanted);
  return true;
}

/**
 * The shell's locale may be anything; a wrong tag would make Intl throw. Where it says a language only, the browser knows
 * the region: a reader of English in Europe is not served with American dates.
 */
function supported(locale: string): string {
  try {
    const tag = locale.replace("_", "-");
    const regional = tag.includes("-") ? undefined : globalThis.navigator?.languages?.find((l) => l.startsWith(`${tag}-`));
    return Intl.DateTimeFormat.supportedLocalesOf([regional ?? tag, tag])[0] ?? "en";
  } catch {
    return "en";
  }
}

export const lang = (): string => language;
export const locale = (): string => formatLocale;

export function t(key: Key, args?: Record<string, string | number>): string {
  const text = texts[key] ?? en[key] ?? key;
  if (!args) return text;
  return text.replace(/\{(\w+)\}/g, (all, name: string) => {
    const v = args[name];
    return v === undefined ? all : typeof v === "number" ? number(v) : v;
  });
}

/** `key.one` or `key.other`, with `{n}` filled in. */
export function tn(key: string, n: number, args: Record<string, string | number> = {}): string {
  const form = plurals.select(n) === "one" ? "one" : "other";
  return t(`${key}.${form}` as Key, { n, ...args });
}

/** A text whose key is made of a value from the API, with the value itself for what has no text. */
export function tv(prefix: string, value: string): string {
  return texts[`${prefix}.${value}` as Key] ?? value;
}

export function number(n: number): string {
  return new Intl.NumberFormat(formatLocale).format(n);
}

export function absolute(time: string | number | undefined, seconds = false): string {
  const at = typeof time === "number" ? time : Date.parse(time ?? "");
  if (Number.isNaN(at)) return "–";
  return new Intl.DateTimeFormat(formatLocale, { dateStyle: "medium", timeStyle: seconds ? "medium" : "short" }).format(at);
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

export function relative(time: string | number | undefined, now: number): string {
  const at = typeof time === "number" ? time : Date.parse(time ?? "");
  if (Number.isNaN(at)) return "–";
  const seconds = (at - now) / 1_000;
  const format = new Intl.RelativeTimeFormat(formatLocale === "en" || language === "en" ? "en" : formatLocale, { numeric: "always" });
  for (const [unit, size] of STEPS) {
    if (Math.abs(seconds) >= size) return format.format(Math.trunc(seconds / size), unit);
  }
  return Math.abs(seconds) < 10 ? t("time.now") : format.format(Math.trunc(seconds), "second");
}
