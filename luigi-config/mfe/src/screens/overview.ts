import { css, html, nothing, type TemplateResult } from "lit";
import { customElement } from "lit/decorators.js";
import { number, t, tn, tv, type Key } from "../i18n/index.js";
import type { Params } from "../model/filter.js";
import { attention, overview, rotations, type Attention } from "../model/fleet.js";
import { condition, type ServiceKey } from "../model/kinds.js";
import { badge, empty, fact, iconOf, skeleton, toneOf, when } from "../ui/bits.js";
import { styles } from "../ui/styles.js";
import { scheduleText } from "../ui/texts.js";
import { View } from "../ui/view.js";

/** So many rows are shown; the rest is a number. */
const SHOWN = 8;
/** Rotations before and after now. */
const NEAREST = 4;

@customElement("kc-overview")
export class OverviewScreen extends View {
  static override styles = [
    styles,
    css`
      .tiles {
        display: grid;
        grid-template-columns: repeat(auto-fill, minmax(min(100%, 14rem), 1fr));
        gap: 1rem;
      }
      .tile a {
        display: flex;
        flex-direction: column;
        justify-content: space-between;
        gap: 0.75rem;
        height: 100%;
        min-height: 7rem;
        color: inherit;
        transition: box-shadow 0.15s;
      }
      .tile a:hover {
        text-decoration: none;
        box-shadow: var(--sapContent_Shadow1);
      }
      .tile .top {
        color: var(--sapTile_TitleTextColor);
        font-family: var(--sapFontBoldFamily);
      }
      .tile .value {
        display: flex;
        align-items: center;
        gap: 0.5rem;
        font-size: 2.25rem;
        line-height: 1;
        font-family: var(--sapFontLightFamily, var(--sapFontFamily));
        font-variant-numeric: tabular-nums;
        color: var(--sapNeutralTextColor, var(--sapTextColor));
      }
      .tile .value ui5-icon {
        width: 1.25rem;
        height: 1.25rem;
        color: inherit;
      }
      .tile .value.positive {
        color: var(--sapPositiveTextColor);
      }
      .tile .value.critical {
        color: var(--sapCriticalTextColor);
      }
      .tile .value.negative {
        color: var(--sapNegativeTextColor);
      }
      .todo li {
        display: grid;
        grid-template-columns: 1.25rem minmax(0, 1fr);
        gap: 0.25rem 0.75rem;
        padding: 0.75rem 1rem;
        border-block-start: 1px solid var(--sapList_BorderColor);
      }
      .todo ui5-icon {
        width: 1.125rem;
        height: 1.125rem;
        margin-block-start: 0.125rem;
      }
      .todo .error {
        color: var(--sapNegativeElementColor, var(--sapNegativeColor));
      }
      .todo .warning {
        color: var(--sapCriticalElementColor, var(--sapCriticalColor));
      }
      .todo .info {
        color: var(--sapInformativeElementColor, var(--sapInformativeColor));
      }
      .todo p {
        overflow-wrap: anywhere;
      }
      .rotations h3 {
        font-size: var(--sapFontSmallSize);
        color: var(--sapContent_LabelColor);
        margin-block: 0.5rem 0.25rem;
      }
      .rotations li {
        display: grid;
        grid-template-columns: minmax(0, 1fr) auto 6.5rem;
        gap: 0.75rem;
        align-items: center;
        padding-block: 0.375rem;
        border-block-end: 1px solid var(--sapList_BorderColor);
      }
      .rotations li:last-child {
        border-block-end: none;
      }
      .rotations li > :last-child {
        text-align: end;
      }
      .cut > * {
        display: block;
        overflow: hidden;
        text-overflow: ellipsis;
        white-space: nowrap;
      }
      .status .big {
        display: flex;
        gap: 0.75rem;
        align-items: center;
        margin-block-end: 1rem;
      }
      .status .big > ui5-icon {
        width: 2rem;
        height: 2rem;
      }
      .positive-icon {
        color: var(--sapPositiveElementColor, var(--sapPositiveColor));
      }
      .negative-icon {
        color: var(--sapNegativeElementColor, var(--sapNegativeColor));
      }
      .neutral-icon {
        color: var(--sapNeutralElementColor, var(--sapNeutralColor));
      }
    `,
  ];

  private tile(label: Key, value: number, foot: string, tone: "" | "positive" | "critical" | "negative", icon: string, to: string[], params: Params) {
    return html`<li class="tile">
      <a
        class="card"
        href="#/${to.join("/")}"
        @click=${(e: MouseEvent) => {
          if (e.ctrlKey || e.metaKey || e.shiftKey) return;
          e.preventDefault();
          this.go(to, params);
        }}
      >
        <span class="top">${t(label)}</span>
        <span class="value ${tone}">${number(value)}${tone ? html`<ui5-icon name=${icon}></ui5-icon>` : nothing}</span>
        <span class="muted small">${foot}</span>
      </a>
    </li>`;
  }

  private tenantCard(): TemplateResult {
    const tenants = this.ctx.fleet.tenants;
    const tenant = tenants.items.values().next().value;
    const phase = tenant?.status?.phase ?? "Provisioning";
    const ready = tenant && condition(tenant, "Ready");
    return html`<section class="card status" aria-labelledby="provider">
      <div class="head"><h2 id="provider" class="grow">${t("overview.provider")}</h2></div>
      <div class="big">
        <ui5-icon class="${toneOf(phase)}-icon" name=${iconOf(phase)}></ui5-icon>
        <div>
          <div>${badge(phase)}</div>
          <p class="muted small" style="margin-block-start: 0.25rem">${ready?.message || t(`tenant.${phase}` as Key)}</p>
        </div>
      </div>
      <dl class="facts">
        ${fact("overview.workspace", html`<bdi class="mono">${tenant?.status?.path ?? (this.ctx.session.workspace || "–")}</bdi>`)}
        ${fact("overview.cluster", html`<bdi class="mono">${tenant?.status?.logicalCluster ?? "–"}</bdi>`)}
        ${fact("overview.since", when(tenant?.metadata.creationTimestamp, this.now))}
      </dl>
    </section>`;
  }

  private rotationsCard(): TemplateResult {
    const { last, next } = rotations(this.ctx.fleet.keys.items.values(), this.now, NEAREST);
    const row = (k: ServiceKey, time: string | undefined, version: boolean) =>
      html`<li>
        <span class="cut">${this.keyLink(k)}<bdi class="muted small">${k.metadata.namespace}</bdi></span>
        ${version ? html`<span class="mono">${k.status?.currentVersion}</span>` : html`<span class="muted small">${scheduleText(k.spec.rotationSchedule ?? "")}</span>`}
        <span class="muted small">${when(time, this.now)}</span>
      </li>`;
    return html`<section class="card rotations" aria-labelledby="rotations">
      <div class="head"><h2 id="rotations" class="grow">${t("overview.rotations")}</h2>${next.length ? this.link(["keys"], t("overview.allRotations"), { sort: "next" }) : nothing}</div>
      ${last.length + next.length === 0
        ? html`<p class="muted">${t("overview.noRotations")}</p>`
        : html`<h3 class="muted small">${t("overview.lastRotations")}</h3>
            <ul>
              ${last.map((k) => row(k, k.status?.lastRotation, true))}
            </ul>
            ${next.length
              ? html`<h3 class="muted small">${t("overview.nextRotations")}</h3>
                  <ul>
                    ${next.map((k) => row(k, k.status?.nextRotation, false))}
                  </ul>`
              : nothing}`}
    </section>`;
  }

  private item(a: Attention): TemplateResult {
    const name = html`<bdi>${a.id}</bdi>`;
    const path = a.kind === "Account" ? ["accounts", a.id] : ["keys", ...a.id.split("/")];
    const icon = { error: "status-error", warning: "status-critical", info: "information" }[a.severity];
    return html`<li>
      <ui5-icon class=${a.severity} name=${icon} mode="Image" accessible-name=${t(`severity.${a.severity}` as Key)}></ui5-icon>
      <div>
        <p>${this.link(path, name)} <span>– ${t(`attention.${a.what}` as Key)}</span></p>
        ${a.message || a.reason
          ? html`<p class="muted small">${a.reason ? html`<strong>${tv("reason", a.reason)}</strong>${a.message ? ": " : ""}` : nothing}<bdi>${a.message ?? ""}</bdi></p>`
          : nothing}
      </div>
    </li>`;
  }

  protected override render() {
    const { accounts, keys } = this.ctx.fleet;
    const failed = [keys, accounts].find((c) => c.phase === "failed");
    if (failed) return this.failure(failed.error);
    if (keys.phase === "loading" || accounts.phase === "loading") {
      return html`<div class="stack">
        <div class="tiles" role="status" aria-label=${t("load.loading")}>${Array.from({ length: 8 }, () => html`<div class="skeleton" style="height:9rem"></div>`)}</div>
        ${skeleton(4)}
      </div>`;
    }
    if (this.ctx.fleet.tenants.items.size === 0 && accounts.items.size === 0) {
      return html`<section class="card">${empty({ icon: "pending", title: t("tenant.Provisioning"), text: t("tenant.soon") })}</section>`;
    }
    if (accounts.items.size === 0 && keys.items.size === 0) {
      return html`<div class="stack">
        <section class="card">
          ${empty({
            icon: "chain-link",
            title: t("overview.start"),
            text: t("overview.startText"),
            action: this.button({
              text: t("accounts.create"),
              design: "Emphasized",
              icon: "add",
              denied: this.denied("create", "Account"),
              click: () => this.go(["accounts", "new"]),
            }),
          })}
        </section>
        ${this.tenantCard()}
      </div>`;
    }
    const o = overview(accounts.items.values(), keys.items.values(), this.now);
    const todo = attention(accounts.items.values(), keys.items.values(), this.now);
    return html`<div class="stack" style="gap: 1.5rem">
      <h2 class="sr">${t("overview.numbers")}</h2>
      <ul class="tiles">
        ${this.tile("tile.accounts", o.accounts.ready, t("tile.accountsFoot", { total: o.accounts.total }), o.accounts.ready === o.accounts.total ? "positive" : "", "status-positive", ["accounts"], { phase: "Ready" })}
        ${this.tile("tile.rootsDown", o.accounts.unavailable, tn("tile.rootsDownFoot", o.keys.unavailable), o.accounts.unavailable ? "negative" : "positive", o.accounts.unavailable ? "status-error" : "status-positive", ["accounts"], { phase: "Unavailable" })}
        ${this.tile("tile.keys", o.keys.active, t("tile.keysFoot", { total: o.keys.total }), "", "key", ["keys"], { state: "Active" })}
        ${this.tile("tile.disabled", o.keys.disabled, t("tile.disabledFoot"), "", "status-inactive", ["keys"], { state: "Disabled" })}
        ${this.tile("tile.due24", o.due["24h"], t("tile.due24Foot"), "", "history", ["keys"], { due: "24h", sort: "next" })}
        ${this.tile("tile.due7", o.due["7d"], t("tile.due7Foot"), "", "history", ["keys"], { due: "7d", sort: "next" })}
        ${this.tile("tile.overdue", o.due.overdue, t("tile.overdueFoot"), o.due.overdue ? "critical" : "positive", o.due.overdue ? "status-critical" : "status-positive", ["keys"], { due: "overdue", sort: "next" })}
        ${this.tile("tile.edges", o.edgesBehind, t("tile.edgesFoot"), o.edgesBehind ? "critical" : "positive", o.edgesBehind ? "status-critical" : "status-positive", ["keys"], { edges: "behind" })}
      </ul>
      <div class="columns">
        <section class="card flush" aria-labelledby="todo">
          <div class="head" style="margin-block-end: 0.75rem">
            <h2 id="todo" class="grow">${t("overview.todo")}</h2>
            <span class="muted">${todo.length ? number(todo.length) : nothing}</span>
          </div>
          ${todo.length === 0
            ? empty({ icon: "accept", title: t("overview.quiet"), text: t("overview.quietText") })
            : html`<ul class="todo">
                ${todo.slice(0, SHOWN).map((a) => this.item(a))}
                ${todo.length > SHOWN ? html`<li><span></span><p class="muted">${tn("overview.more", todo.length - SHOWN)}</p></li>` : nothing}
              </ul>`}
        </section>
        <div class="stack">${this.tenantCard()} ${this.rotationsCard()}</div>
      </div>
    </div>`;
  }
}
