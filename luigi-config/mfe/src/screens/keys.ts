import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import "@ui5/webcomponents/dist/Option.js";
import "@ui5/webcomponents/dist/Select.js";
import { css, html, nothing, type PropertyValues } from "lit";
import { customElement, state } from "lit/decorators.js";
import { number, t, tn, tv } from "../i18n/index.js";
import { rotateNow, setState } from "../model/actions.js";
import { filterKeys, paged, sortKeys, view } from "../model/filter.js";
import { isDue } from "../model/fleet.js";
import { idOf, KEY_STATES, keyState, rotationPending, type ServiceKey } from "../model/kinds.js";
import { badge, empty, skeleton, tag, when } from "../ui/bits.js";
import { choice, headRow, pager, search, type Column } from "../ui/list.js";
import { styles } from "../ui/styles.js";
import { View } from "../ui/view.js";

@customElement("kc-keys")
export class KeysScreen extends View {
  @state() private selected = new Set<string>();

  static override styles = [
    styles,
    css`
      .bulk {
        display: flex;
        flex-wrap: wrap;
        gap: 0.5rem;
        align-items: center;
        padding: 0.5rem 1rem;
        background: var(--sapList_SelectionBackgroundColor);
        border-block-end: 1px solid var(--sapList_SelectionBorderColor);
      }
      .check {
        width: 2.75rem;
      }
    `,
  ];

  protected override willUpdate(changed: PropertyValues<this>): void {
    // What a filter hides must not be acted upon.
    if (changed.has("params") && this.selected.size) {
      const visible = new Set(this.found().map(idOf));
      this.selected = new Set([...this.selected].filter((id) => visible.has(id)));
    }
  }

  private found(): ServiceKey[] {
    return filterKeys(this.ctx.fleet.keys.items.values(), this.params, this.now);
  }

  private toggle(ids: string[], on: boolean): void {
    const next = new Set(this.selected);
    for (const id of ids) if (on) next.add(id);
      else next.delete(id);
    this.selected = next;
  }

  private async bulk(what: "rotate" | "disable" | "enable"): Promise<void> {
    const { bulk } = await import("../ui/dialogs.js");
    const ids = [...this.selected].sort();
    const keys = this.ctx.fleet.keys;
    const clients = ids.reduce((n, id) => n + (keys.get(id)?.status?.activeClients ?? 0), 0);
    const done = await bulk(this.ctx, {
      heading: tn(`bulk.${what}`, ids.length),
      body: html`<p>${t(`bulk.${what}Text`, { clients })}</p>`,
      confirmText: t(`action.${what}`),
      harmful: what === "disable",
      ids,
      act: async (id) => {
        const k = keys.get(id);
        if (!k) throw new Error(t("fault.notFound"));
        if (what === "rotate") await rotateNow(this.ctx, k, Date.now());
        else await setState(this.ctx, k, what === "disable" ? "Disabled" : "Enabled");
      },
    });
    if (done) this.selected = new Set();
  }

  private row(k: ServiceKey) {
    const id = idOf(k);
    const e = k.status?.edges;
    const state = keyState(k);
    const off = state !== "Active";
    const shown = off ? (e?.evicted ?? 0) : (e?.current ?? 0);
    return html`<tr class=${this.selected.has(id) ? "selected" : ""}>
      <td class="check">
        <input
          type="checkbox"
          aria-label=${t("list.select", { name: id })}
          .checked=${this.selected.has(id)}
          @change=${(ev: Event) => this.toggle([id], (ev.target as HTMLInputElement).checked)}
        />
      </td>
      <td class="name">
        ${this.keyLink(k)}${this.ctx.session.namespace ? nothing : html`<bdi class="muted small">${k.metadata.namespace}</bdi>`}
      </td>
      <td class="name">${this.accountLink(k.spec.accountRef.name)}</td>
      <td>${badge(state)}</td>
      <td class="mono">${k.status?.currentVersion ?? "–"}${rotationPending(k) ? html` ${tag("info", "refresh", t("keys.rotating"))}` : nothing}</td>
      <td>
        ${state === "Active" || state === "Unavailable"
          ? k.status?.nextRotation
            ? html`${when(k.status.nextRotation, this.now)}${isDue(k, "overdue", this.now) ? html` ${tag("critical", "status-critical", t("due.overdue"))}` : nothing}`
            : html`<span class="muted">${k.spec.rotationSchedule === "Never" ? t("schedule.Never") : "–"}</span>`
          : html`<span class="muted">–</span>`}
      </td>
      <td class="num">${number(k.status?.activeClients ?? 0)}</td>
      <td class="num nowrap">
        ${e?.total && k.status?.currentVersion
          ? html`<span title=${t(off ? "keys.edgesEvicted" : "keys.edgesCurrent", { n: shown, total: e.total })}
              >${shown < e.total ? html`<ui5-icon name="status-critical" style="width:.875rem;height:.875rem;color:var(--sapCriticalElementColor)" mode="Image" accessible-name=${t("keys.edgesBehind")}></ui5-icon> ` : nothing}${off ? html`<span class="muted small">${t("keys.evicted")}</span> ` : nothing}${number(shown)}/${number(e.total)}</span
            >`
          : html`<span class="muted">–</span>`}
      </td>
    </tr>`;
  }

  protected override render() {
    const { keys, accounts } = this.ctx.fleet;
    if (keys.phase === "failed") return this.failure(keys.error);
    if (keys.phase === "loading" && keys.items.size === 0) return skeleton(10);
    const v = view(this.params);
    const found = sortKeys(this.found(), v);
    const { rows, page, pages } = paged(found, v);
    const set = (c: Record<string, string | undefined>) => this.setParams(c);
    const names = new Set([...accounts.items.keys(), ...[...keys.items.values()].map((k) => k.spec.accountRef.name)]);
    const namespaces = new Set([...keys.items.values()].map((k) => k.metadata.namespace ?? ""));
    const filtered = ["q", "state", "account", "namespace", "due", "edges"].some((f) => this.params[f]);
    const columns: Column[] = [
      { id: "name", label: t("col.name"), sortable: true },
      { id: "account", label: t("col.account"), sortable: true },
      { id: "state", label: t("col.state"), sortable: true },
      { id: "version", label: t("col.version"), sortable: true },
      { id: "next", label: t("col.next"), sortable: true },
      { id: "clients", label: t("col.clients"), sortable: true, num: true },
      { id: "edges", label: t("col.edges"), num: true },
    ];
    const create = this.button({
      id: "create",
      text: t("keys.create"),
      design: "Emphasized",
      icon: "add",
      denied: this.denied("create", "ServiceEncryptionKey", this.ctx.session.namespace ?? this.params.namespace),
      click: () => this.go(["keys", "new"], this.params.account ? { account: this.params.account } : {}),
    });
    if (keys.items.size === 0) {
      return html`<section class="card">${empty({ icon: "key", title: t("keys.none"), text: t("keys.noneText"), action: create })}</section>`;
    }
    const ids = rows.map(idOf);
    const all = ids.length > 0 && ids.every((id) => this.selected.has(id));
    const denied = this.denied("patch", "ServiceEncryptionKey", this.ctx.session.namespace);
    return html`<section class="stack" aria-label=${t("tab.keys")}>
      <div class="toolbar">
        ${search(v.q, t("keys.search"), set)}
        ${choice({
          id: "state",
          label: t("col.state"),
          value: this.params.state ?? "",
          all: t("filter.all"),
          options: KEY_STATES.map((s) => ({ value: s, text: tv("state", s) })),
          set: (s) => set({ state: s, page: undefined }),
        })}
        ${choice({
          id: "account",
          label: t("col.account"),
          value: this.params.account ?? "",
          all: t("filter.all"),
          options: [...names].sort().map((n) => ({ value: n, text: n })),
          set: (s) => set({ account: s, page: undefined }),
        })}
        ${this.ctx.session.namespace
          ? nothing
          : choice({
              id: "namespace",
              label: t("col.namespace"),
              value: this.params.namespace ?? "",
              all: t("filter.all"),
              options: [...namespaces].sort().map((n) => ({ value: n, text: n })),
              set: (s) => set({ namespace: s, page: undefined }),
            })}
        ${choice({
          id: "due",
          label: t("filter.due"),
          value: this.params.due ?? "",
          all: t("filter.anytime"),
          options: (["overdue", "24h", "7d"] as const).map((d) => ({ value: d, text: t(`due.${d}`) })),
          set: (s) => set({ due: s, page: undefined }),
        })}
        ${filtered
          ? html`<ui5-button design="Transparent" @click=${() => set({ q: undefined, state: undefined, account: undefined, namespace: undefined, due: undefined, edges: undefined, page: undefined })}
              >${t("filter.clear")}</ui5-button
            >`
          : nothing}
        <span class="grow"></span>
        ${create}
      </div>
      ${this.params.edges === "behind" ? html`<p class="muted">${t("filter.edgesBehind")}</p>` : nothing}
      <div class="card flush">
        ${this.selected.size
          ? html`<div class="bulk" role="toolbar" aria-label=${t("bulk.toolbar")}>
              <span class="grow" role="status">${tn("bulk.selected", this.selected.size)}</span>
              ${this.button({ id: "bulk-rotate", text: t("action.rotate"), icon: "refresh", denied, click: () => void this.bulk("rotate") })}
              ${this.button({ id: "bulk-disable", text: t("action.disable"), denied, click: () => void this.bulk("disable") })}
              ${this.button({ id: "bulk-enable", text: t("action.enable"), denied, click: () => void this.bulk("enable") })}
              <ui5-button design="Transparent" @click=${() => (this.selected = new Set())}>${t("bulk.clear")}</ui5-button>
            </div>`
          : nothing}
        ${found.length === 0
          ? empty({ icon: "search", title: t("list.nothing"), text: t("list.nothingText") })
          : html`<div class="scroll">
                <table>
                  <caption class="sr">
                    ${t("tab.keys")}
                  </caption>
                  <thead>
                    ${headRow(
                      columns,
                      v,
                      set,
                      html`<th class="check">
                        <input type="checkbox" aria-label=${t("list.selectPage")} .checked=${all} @change=${(e: Event) => this.toggle(ids, (e.target as HTMLInputElement).checked)} />
                      </th>`,
                    )}
                  </thead>
                  <tbody>
                    ${rows.map((k) => this.row(k))}
                  </tbody>
                </table>
              </div>
              ${pager(v, page, pages, rows.length, found.length, set)}`}
      </div>
    </section>`;
  }
}
