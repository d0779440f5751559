import { html, nothing, type TemplateResult } from "lit";
import { number, t } from "../i18n/index.js";
import { PAGE_SIZES, type View as ListView } from "../model/filter.js";

export interface Column {
  id: string;
  label: string;
  sortable?: boolean;
  num?: boolean;
}

type SetParams = (change: Record<string, string | undefined>) => void;

export function headRow(columns: Column[], v: ListView, set: SetParams, first?: TemplateResult): TemplateResult {
  return html`<tr>
    ${first ?? nothing}
    ${columns.map((c) => {
      if (!c.sortable) return html`<th scope="col" class=${c.num ? "num" : ""}>${c.label}</th>`;
      const mine = v.sort === c.id;
      const order = mine ? (v.descending ? "descending" : "ascending") : "none";
      return html`<th scope="col" aria-sort=${order} class=${c.num ? "num" : ""}>
        <button @click=${() => set({ sort: c.id, dir: mine && !v.descending ? "desc" : undefined, page: undefined })}>
          ${c.label}${mine ? html`<ui5-icon name=${v.descending ? "sort-descending" : "sort-ascending"}></ui5-icon>` : nothing}
        </button>
      </th>`;
    })}
  </tr>`;
}

export function pager(v: ListView, page: number, pages: number, shown: number, total: number, set: SetParams): TemplateResult {
  const from = total === 0 ? 0 : (page - 1) * v.size + 1;
  return html`<div class="row pager" style="padding: 0.5rem 1rem; border-block-start: 1px solid var(--sapList_BorderColor)">
    <span class="muted grow" role="status">${t("list.range", { from, to: from + Math.max(shown - 1, 0), total })}</span>
    <ui5-select
      accessible-name=${t("list.pageSize")}
      style="min-width: 5rem; width: 6.5rem"
      @change=${(e: CustomEvent) => set({ size: (e.detail as { selectedOption: { value: string } }).selectedOption.value, page: undefined })}
    >
      ${PAGE_SIZES.map((s) => html`<ui5-option value=${s} ?selected=${s === v.size}>${number(s)}</ui5-option>`)}
    </ui5-select>
    <ui5-button
      design="Transparent"
      icon="navigation-left-arrow"
      tooltip=${t("list.previous")}
      ?disabled=${page <= 1}
      @click=${() => set({ page: page > 2 ? String(page - 1) : undefined })}
    ></ui5-button>
    <span class="nowrap">${t("list.page", { page, pages })}</span>
    <ui5-button
      design="Transparent"
      icon="navigation-right-arrow"
      tooltip=${t("list.next")}
      ?disabled=${page >= pages}
      @click=${() => set({ page: String(page + 1) })}
    ></ui5-button>
  </div>`;
}

export function search(value: string, label: string, set: SetParams): TemplateResult {
  return html`<div class="field" style="flex: 2 1 14rem; max-width: 24rem">
    <ui5-label for="search">${label}</ui5-label>
    <ui5-input
      id="search"
      type="Search"
      show-clear-icon
      .value=${value}
      maxlength="253"
      @input=${(e: Event) => set({ q: (e.target as HTMLInputElement).value || undefined, page: undefined })}
    >
      <ui5-icon slot="icon" name="search"></ui5-icon>
    </ui5-input>
  </div>`;
}

export function choice(o: {
  id: string;
  label: string;
  value: string;
  all?: string;
  options: { value: string; text: string }[];
  set: (value: string | undefined) => void;
}): TemplateResult {
  // An address may carry a value that no option has; it is shown, or the filter would be invisible.
  const known = !o.value || o.options.some((x) => x.value === o.value);
  const options = known ? o.options : [...o.options, { value: o.value, text: o.value }];
  return html`<div class="field" style="flex: 1 1 9rem; max-width: 16rem">
    <ui5-label for=${o.id}>${o.label}</ui5-label>
    <ui5-select
      id=${o.id}
      accessible-name=${o.label}
      .value=${o.value}
      @change=${(e: CustomEvent) => o.set((e.detail as { selectedOption: { value: string } }).selectedOption.value || undefined)}
    >
      ${o.all !== undefined ? html`<ui5-option value="" ?selected=${!o.value}>${o.all}</ui5-option>` : nothing}
      ${options.map((x) => html`<ui5-option value=${x.value} ?selected=${x.value === o.value}>${x.text}</ui5-option>`)}
    </ui5-select>
  </div>`;
}
