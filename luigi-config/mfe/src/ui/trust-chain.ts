import { css, html, nothing, type TemplateResult } from "lit";
import { number, t, tn, tv } from "../i18n/index.js";
import { condition, keyState, KEY_STATES, type Account, type KeyState, type ServiceKey } from "../model/kinds.js";
import { iconOf, mark, shares, tag, toneOf, when } from "./bits.js";

/** So many keys are shown; the list has the rest. */
const SHOWN = 4;

export const chainStyles = css`
  .chain {
    display: grid;
    grid-template-columns: minmax(0, 1fr) 5rem minmax(0, 0.75fr) 5rem minmax(0, 1.15fr);
    align-items: stretch;
  }
  .chain .link {
    display: flex;
    flex-direction: column;
    gap: 0.75rem;
    border: 1px solid var(--sapGroup_ContentBorderColor);
    border-radius: 0.75rem;
    padding: 1rem;
    min-width: 0;
  }
  .chain .link.broken {
    border-color: var(--sapErrorBorderColor);
  }
  .chain .head {
    display: flex;
    align-items: center;
    gap: 0.75rem;
    min-width: 0;
  }
  .chain .head p {
    line-height: 1.25;
    min-width: 0;
  }
  .chain .end {
    margin-block-start: auto;
  }
  .chain .big {
    font-size: 1.75rem;
    line-height: 1;
    font-variant-numeric: tabular-nums;
  }
  .chain .wraps {
    align-self: center;
    position: relative;
    text-align: center;
    margin-inline: 0.375rem;
    padding-block-end: 0.5rem;
    color: var(--sapContent_LabelColor);
    font-size: var(--sapFontSmallSize);
    border-block-end: 2px solid var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
  }
  .chain .wraps::after {
    content: "";
    position: absolute;
    inset-inline-end: 0;
    bottom: -0.375rem;
    width: 0.5rem;
    height: 0.5rem;
    border-block-start: 2px solid var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
    border-inline-end: 2px solid var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
    transform: rotate(45deg);
  }
  :host(:dir(rtl)) .chain .wraps::after {
    transform: rotate(-45deg);
  }
  .chain .wraps.broken::after {
    border-color: var(--sapErrorBorderColor);
  }
  .chain .wraps.broken {
    border-block-end-style: dashed;
    border-block-end-color: var(--sapErrorBorderColor);
  }
  .chain li {
    display: grid;
    grid-template-columns: 1rem minmax(0, 1fr) auto;
    gap: 0.5rem;
    align-items: center;
    padding-block: 0.25rem;
  }
  .chain li ui5-icon {
    width: 0.875rem;
    height: 0.875rem;
  }
  .chain li > span {
    min-width: 0;
    overflow: hidden;
    text-overflow: ellipsis;
    white-space: nowrap;
  }
  .chain li bdi {
    overflow-wrap: normal;
  }
  @media (max-width: 64rem) {
    .chain {
      grid-template-columns: minmax(0, 1fr);
    }
    .chain .wraps {
      border: none;
      padding: 0.375rem;
    }
    .chain .wraps::after {
      display: none;
    }
    .chain .wraps::before {
      content: "↓ ";
    }
  }
`;

/** Root key → account key → service keys: who protects whom, and where the chain is broken. */
export function trustChain(a: Account, keys: ServiceKey[], now: number, link: { key(k: ServiceKey): TemplateResult; all(text: string): TemplateResult }): TemplateResult {
  const root = a.status?.rootKey;
  const verified = condition(a, "RootKeyVerified");
  const version = a.status?.accountKeyVersion;
  // The root in use is another one than the spec names: a re-key that is under way, or that its new root does not allow.
  const next = root?.reference && version !== undefined && root.reference !== a.spec.keyReference ? a.spec.keyReference : undefined;
  const broken = a.status?.phase === "Unavailable" || (a.status?.phase === "Pending" && verified?.status === "False");
  const badge =
    verified?.status === "True"
      ? tag("positive", "status-positive", t("account.verified"))
      : tag(verified?.status === "False" ? "negative" : "neutral", verified?.status === "False" ? "status-error" : "pending", verified?.status === "False" ? tv("reason", verified.reason ?? "") : t("account.unverified"));
  const counts = new Map<KeyState, number>();
  for (const s of KEY_STATES) {
    const n = keys.filter((k) => keyState(k) === s).length;
    if (n) counts.set(s, n);
  }
  const wraps = (down: boolean) => html`<div class="wraps ${down ? "broken" : ""}">${t("account.wraps")}</div>`;
  const reference = (text: string) => html`<p class="mono"><bdi dir="ltr">${text}</bdi></p>`;
  return html`<div class="chain">
    <div class="link ${broken ? "broken" : ""}">
      <div class="head">
        ${mark(a.spec.providerType, true)}
        <p><strong>${t("account.rootKey")}</strong><br /><span class="muted small">${tv("provider", a.spec.providerType)}</span></p>
      </div>
      ${reference(root?.reference ?? a.spec.keyReference)}
      ${next ? html`<div><p class="muted small">${t("account.nextRoot")}</p>${reference(next)}</div>` : nothing}
      <p class="row end">${badge}${verified?.status === "True" ? html`<span class="muted small">${when(root?.lastVerified, now)}</span>` : nothing}</p>
    </div>
    ${wraps(broken)}
    <div class="link">
      <div class="head">
        <span class="mark large"><ui5-icon name="locked"></ui5-icon></span>
        <p><strong>${t("account.accountKey")}</strong><br /><span class="muted small mono">AES-256</span></p>
      </div>
      ${version === undefined ? html`<p class="muted">${t("account.noAccountKey")}</p>` : html`<p class="big mono">v${version}</p>`}
      <p class="muted small end">${t("account.keyText")}</p>
    </div>
    ${wraps(a.status?.phase === "Unavailable")}
    <div class="link">
      <div class="head">
        <span class="mark large"><ui5-icon name="key"></ui5-icon></span>
        <p class="grow"><strong>${t("tab.keys")}</strong><br /><span class="muted small">${tn("account.keys", keys.length)}</span></p>
        <span class="big">${number(keys.length)}</span>
      </div>
      ${shares(counts)}
      ${keys.length === 0
        ? html`<p class="muted">${t("account.noKeys")}</p>`
        : html`<ul>
            ${keys.slice(0, SHOWN).map(
              (k) =>
                html`<li>
                  <ui5-icon class="tone-${toneOf(keyState(k))}" name=${iconOf(keyState(k))} mode="Image" accessible-name=${tv("state", keyState(k))}></ui5-icon>
                  <span><bdi class="muted">${k.metadata.namespace}/</bdi>${link.key(k)}</span>
                  <span class="mono muted">${k.status?.currentVersion ?? "–"}</span>
                </li>`,
            )}
          </ul>`}
      ${keys.length ? html`<p class="end">${link.all(tn("account.allKeys", keys.length))}</p>` : nothing}
    </div>
  </div>`;
}
