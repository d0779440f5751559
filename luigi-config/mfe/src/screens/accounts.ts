import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import "@ui5/webcomponents/dist/Option.js";
import "@ui5/webcomponents/dist/Select.js";
import { css, html, nothing } from "lit";
import { customElement } from "lit/decorators.js";
import { number, t, tv } from "../i18n/index.js";
import { filterAccounts, paged, sortAccounts, view } from "../model/filter.js";
import { ACCOUNT_PHASES, accountPhase, condition, PROVIDER_TYPES, type Account } from "../model/kinds.js";
import { badge, empty, mark, progress, skeleton, when } from "../ui/bits.js";
import { choice, headRow, pager, search, type Column } from "../ui/list.js";
import { styles } from "../ui/styles.js";
import { View } from "../ui/view.js";

@customElement("kc-accounts")
export class AccountsScreen extends View {
  static override styles = [
    styles,
    css`
      .reference {
        max-width: 26rem;
        min-width: 12rem;
      }
      .reference bdi {
        display: -webkit-box;
        -webkit-box-orient: vertical;
        -webkit-line-clamp: 2;
        overflow: hidden;
      }
      .why {
        max-width: 18rem;
      }
    `,
  ];

  private row(a: Account) {
    const phase = accountPhase(a);
    const ready = condition(a, "Ready") ?? condition(a, "RootKeyVerified");
    const w = a.status?.rewrap;
    return html`<tr>
      <td class="name">${this.accountLink(a.metadata.name)}</td>
      <td><span class="provider">${mark(a.spec.providerType)}${tv("provider", a.spec.providerType)}</span></td>
      <td class="reference mono"><bdi dir="ltr">${a.spec.keyReference}</bdi></td>
      <td class="why">
        ${badge(phase)}
        ${phase === "Rekeying" && w?.total
          ? html`<div style="margin-block-start: 0.375rem">${progress(w.done ?? 0, w.total, t("account.rewrapped", { done: w.done ?? 0, total: w.total }))}</div>`
          : ready?.status === "False" && ready.reason
            ? html`<p class="muted small">${tv("reason", ready.reason)}</p>`
            : nothing}
      </td>
      <td class="num">${number(a.status?.dependents ?? 0)}</td>
      <td>${when(a.status?.rootKey?.lastVerified, this.now)}</td>
    </tr>`;
  }

  protected override render() {
    const { accounts } = this.ctx.fleet;
    if (accounts.phase === "failed") return this.failure(accounts.error);
    if (accounts.phase === "loading" && accounts.items.size === 0) return skeleton(8);
    const create = this.button({
      id: "create",
      text: t("accounts.create"),
      design: "Emphasized",
      icon: "add",
      denied: this.denied("create", "Account"),
      click: () => this.go(["accounts", "new"]),
    });
    if (accounts.items.size === 0) {
      return html`<section class="card">${empty({ icon: "shield", title: t("accounts.none"), text: t("accounts.noneText"), action: create })}</section>`;
    }
    const v = view(this.params);
    const found = sortAccounts(filterAccounts(accounts.items.values(), this.params), v);
    const { rows, page, pages } = paged(found, v);
    const set = (c: Record<string, string | undefined>) => this.setParams(c);
    const columns: Column[] = [
      { id: "name", label: t("col.name"), sortable: true },
      { id: "provider", label: t("col.provider"), sortable: true },
      { id: "reference", label: t("col.reference") },
      { id: "state", label: t("col.state"), sortable: true },
      { id: "dependents", label: t("col.dependents"), sortable: true, num: true },
      { id: "verified", label: t("col.verified"), sortable: true },
    ];
    return html`<section class="stack" aria-label=${t("tab.accounts")}>
      <div class="toolbar">
        ${search(v.q, t("accounts.search"), set)}
        ${choice({
          id: "phase",
          label: t("col.state"),
          value: this.params.phase ?? "",
          all: t("filter.all"),
          options: ACCOUNT_PHASES.map((s) => ({ value: s, text: tv("state", s) })),
          set: (s) => set({ phase: s, page: undefined }),
        })}
        ${choice({
          id: "provider",
          label: t("col.provider"),
          value: this.params.provider ?? "",
          all: t("filter.all"),
          options: PROVIDER_TYPES.map((s) => ({ value: s, text: tv("provider", s) })),
          set: (s) => set({ provider: s, page: undefined }),
        })}
        ${["q", "phase", "provider"].some((f) => this.params[f])
          ? html`<ui5-button design="Transparent" @click=${() => set({ q: undefined, phase: undefined, provider: undefined, page: undefined })}>${t("filter.clear")}</ui5-button>`
          : nothing}
        <span class="grow"></span>
        ${create}
      </div>
      <div class="card flush">
        ${found.length === 0
          ? empty({ icon: "search", title: t("list.nothing"), text: t("list.nothingText") })
          : html`<div class="scroll">
                <table>
                  <caption class="sr">
                    ${t("tab.accounts")}
                  </caption>
                  <thead>
                    ${headRow(columns, v, set)}
                  </thead>
                  <tbody>
                    ${rows.map((a) => this.row(a))}
                  </tbody>
                </table>
              </div>
              ${pager(v, page, pages, rows.length, found.length, set)}`}
      </div>
    </section>`;
  }
}
