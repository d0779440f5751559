import { html, nothing, type TemplateResult } from "lit";
import { t } from "../i18n/index.js";
import type { Happening } from "../model/kinds.js";
import { skeleton, when } from "./bits.js";

const SHOWN = 20;

/** Events as a diary, newest first. */
export function history(events: Happening[] | undefined, failed: string, now: number): TemplateResult {
  if (!events) return skeleton(3);
  return html`
    ${failed ? html`<p class="muted small" role="status">${t("history.failed")} ${failed}</p>` : nothing}
    ${events.length === 0 && !failed ? html`<p class="muted">${t("history.none")}</p>` : nothing}
    <ol class="timeline">
      ${events.slice(0, SHOWN).map(
        (e) =>
          html`<li class=${e.type === "Warning" ? "warning" : ""}>
            <ui5-icon class="dot" name=${e.type === "Warning" ? "status-critical" : "information"}></ui5-icon>
            <div class="row">
              <strong><bdi>${e.reason}</bdi></strong>${e.type === "Warning" ? html`<span class="sr">${t("history.warning")}</span>` : nothing}<span class="muted small">${when(e.time, now)}</span>
              ${e.count > 1 ? html`<span class="muted small">×${e.count}</span>` : nothing}
            </div>
            <p><bdi>${e.message}</bdi></p>
            ${e.source ? html`<p class="muted small"><bdi>${e.source}</bdi></p>` : nothing}
          </li>`,
      )}
    </ol>
  `;
}
