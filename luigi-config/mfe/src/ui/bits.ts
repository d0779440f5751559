import { html, nothing, type TemplateResult } from "lit";
import { absolute, number, relative, t, tv, type Key } from "../i18n/index.js";
import type { AccountPhase, KeyState, ProviderType, TenantPhase } from "../model/kinds.js";

type Tone = "positive" | "negative" | "critical" | "info" | "neutral";
const TONE: Record<TenantPhase | AccountPhase | KeyState, [Tone, string]> = {
  Provisioning: ["neutral", "pending"],
  Active: ["positive", "status-positive"],
  Suspended: ["negative", "status-error"],
  Pending: ["neutral", "pending"],
  Ready: ["positive", "status-positive"],
  Rekeying: ["info", "refresh"],
  Unavailable: ["negative", "status-error"],
  Deleting: ["critical", "delete"],
  Disabled: ["neutral", "status-inactive"],
  PendingDeletion: ["critical", "delete"],
};

export const toneOf = (state: string): Tone => TONE[state as KeyState]?.[0] ?? "neutral";
export const iconOf = (state: string): string => TONE[state as KeyState]?.[1] ?? "hint";

/** Colour, icon and word: never the colour alone. */
export function badge(state: string): TemplateResult {
  return html`<span class="badge ${toneOf(state)}"><ui5-icon name=${iconOf(state)}></ui5-icon>${tv("state", state)}</span>`;
}

export function tag(tone: Tone, icon: string, text: string): TemplateResult {
  return html`<span class="badge ${tone}"><ui5-icon name=${icon}></ui5-icon>${text}</span>`;
}

/** A store's sign: letters on one of the theme's own pairs of colours. */
const MARK: Record<ProviderType, [string, number]> = { AWSKMS: ["aws", 1], AzureKeyVault: ["Az", 6], GCPKMS: ["G", 8], ThalesHSM: ["HSM", 9] };
export function mark(provider: ProviderType, large = false): TemplateResult {
  const [text, pair] = MARK[provider] ?? ["?", 10];
  const colour = (part: string) => `var(--sapAvatar_${pair}_${part})`;
  return html`<span class="mark ${large ? "large" : ""}" aria-hidden="true" style="background:${colour("Background")};color:${colour("TextColor")};border-color:${colour("BorderColor")}">${text}</span>`;
}

/** Parts of a whole by state, in the order given; the words are in the text beside it or in each part's title. */
export function shares(counts: ReadonlyMap<string, number>): TemplateResult | typeof nothing {
  if (counts.size === 0) return nothing;
  const said = [...counts].map(([s, n]) => `${tv("state", s)}: ${number(n)}`);
  return html`<div class="shares" role="img" aria-label=${said.join(", ")}>
    ${[...counts].map(([s, n], i) => html`<i class="tone-${toneOf(s)}" style="flex-grow:${n}" title=${said[i]!}></i>`)}
  </div>`;
}

/** Relative for reading, absolute on hover and for copying. */
export function when(time: string | undefined, now: number, both = false): TemplateResult {
  if (!time) return html`<span class="muted">–</span>`;
  return both
    ? html`<time datetime=${time}>${relative(time, now)} <span class="muted small nowrap">${absolute(time)}</span></time>`
    : html`<time datetime=${time} title=${absolute(time, true)} class="nowrap">${relative(time, now)}</time>`;
}

export function fact(label: Key, value: unknown, wide = false): TemplateResult {
  return html`<div class=${wide ? "wide" : ""}>
    <dt>${t(label)}</dt>
    <dd>${value ?? "–"}</dd>
  </div>`;
}

export function empty(o: { icon: string; title: string; text?: string; action?: unknown }): TemplateResult {
  return html`<div class="empty" role="status">
    <div class="picture"><ui5-icon name=${o.icon}></ui5-icon></div>
    <h2>${o.title}</h2>
    ${o.text ? html`<p class="muted">${o.text}</p>` : nothing}
    ${o.action ?? nothing}
  </div>`;
}

export function skeleton(rows: number, height = "2.75rem"): TemplateResult {
  return html`<div class="stack" role="status" aria-label=${t("load.loading")}>
    ${Array.from({ length: rows }, () => html`<div class="skeleton" style="height:${height}"></div>`)}
  </div>`;
}

export function progress(done: number, total: number, label: string): TemplateResult {
  const share = total > 0 ? Math.min(100, (100 * done) / total) : 0;
  return html`<div class="progress" role="progressbar" aria-label=${label} aria-valuemin="0" aria-valuemax=${total} aria-valuenow=${done}>
    <div class=${share >= 100 ? "full" : ""} style="width:${share}%"></div>
  </div>`;
}

export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // The shell may not grant the clipboard; the text is on the screen to be selected.
    return false;
  }
}
