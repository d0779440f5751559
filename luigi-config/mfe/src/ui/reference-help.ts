import { html, nothing, type TemplateResult } from "lit";
import { t, type Key } from "../i18n/index.js";
import type { ProviderType } from "../model/kinds.js";
import { EXAMPLE, type Parsed } from "../model/reference.js";

/** What the reference says so far, read aloud as it is typed. */
export function referenceHelp(provider: ProviderType, parsed: Parsed, region: string): TemplateResult {
  return html`<div class="stack" style="gap: 0.5rem">
    <p class="muted small">${t(`reference.form.${provider}` as Key)} ${t("reference.example")} <bdi class="mono" dir="ltr">${EXAMPLE[provider](region)}</bdi></p>
    <div role="status">
      ${parsed.ok
        ? html`<p class="row small"><ui5-icon name="status-positive" style="color: var(--sapPositiveElementColor)"></ui5-icon>${t("reference.ok")}</p>`
        : parsed.problem && parsed.problem !== "empty"
          ? html`<p class="row small"><ui5-icon name="status-critical" style="color: var(--sapCriticalElementColor)"></ui5-icon>${t(`reference.problem.${parsed.problem}` as Key)}</p>`
          : nothing}
      ${parsed.hint ? html`<p class="muted small">${t(`reference.hint.${parsed.hint}` as Key)}</p>` : nothing}
    </div>
    ${parsed.parts.length
      ? html`<dl class="facts small">
          ${parsed.parts.map(
            (p) =>
              html`<div>
                <dt>${t(`reference.part.${p.part}` as Key)}</dt>
                <dd class="mono"><bdi>${p.value}</bdi></dd>
              </div>`,
          )}
        </dl>`
      : nothing}
  </div>`;
}
