import "@ui5/webcomponents/dist/Option.js";
import "@ui5/webcomponents/dist/Select.js";
import { html, LitElement } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { Ctx } from "../ctx.js";
import { t, tn, tv } from "../i18n/index.js";
import { blastRadius } from "../model/fleet.js";
import { PROVIDER_TYPES, type Account, type ProviderType } from "../model/kinds.js";
import { parseReference, type Parsed } from "../model/reference.js";
import { confirm, type Confirm } from "./dialogs.js";
import { referenceHelp } from "./reference-help.js";
import { styles } from "./styles.js";

/** The new root key: where it is and what it is called. */
@customElement("kc-new-root")
export class NewRoot extends LitElement {
  @property({ attribute: false }) account!: Account;
  @state() provider: ProviderType = "AWSKMS";
  @state() reference = "";
  static override styles = styles;

  override connectedCallback(): void {
    super.connectedCallback();
    if (!this.reference) this.provider = this.account.spec.providerType;
  }

  get parsed(): Parsed {
    return parseReference(this.provider, this.reference);
  }

  protected override render() {
    return html`<div class="stack">
      <div class="field">
        <ui5-label for="provider">${t("col.provider")}</ui5-label>
        <ui5-select
          id="provider"
          accessible-name=${t("col.provider")}
          @change=${(e: CustomEvent) => (this.provider = (e.detail as { selectedOption: { value: string } }).selectedOption.value as ProviderType)}
        >
          ${PROVIDER_TYPES.map((p) => html`<ui5-option value=${p} ?selected=${p === this.provider}>${tv("provider", p)}</ui5-option>`)}
        </ui5-select>
      </div>
      <div class="field">
        <ui5-label for="reference" required>${t("rekey.reference")}</ui5-label>
        <ui5-input
          id="reference"
          accessible-name=${t("rekey.reference")}
          maxlength="512"
          .value=${this.reference}
          @input=${(e: Event) => (this.reference = (e.target as HTMLInputElement).value.trim())}
        ></ui5-input>
      </div>
      ${referenceHelp(this.provider, this.parsed, "")}
    </div>`;
  }
}

/** Asks for the new root, says what it touches, and has the name typed. The old root goes on if the new one is bad. */
export async function rekey(ctx: Ctx, a: Account): Promise<boolean> {
  const blast = blastRadius(a.metadata.name, ctx.fleet.keys.items.values());
  const form = Object.assign(new NewRoot(), { account: a });
  return confirm(ctx, {
    heading: t("rekey.title"),
    body: html`${form}
      <ui5-message-strip design="Critical" hide-close-button>
        ${blast.keys
          ? t("rekey.blast", { keys: tn("count.keys", blast.keys), namespaces: tn("count.namespaces", blast.namespaces), clients: tn("count.clients", blast.clients) })
          : t("rekey.blastNone")}
      </ui5-message-strip>
      <p class="muted small">${t("rekey.safe")}</p>`,
    expect: a.metadata.name,
    confirmText: t("action.rekey"),
    harmful: true,
    act: async () => {
      const parsed = form.parsed;
      if (!parsed.ok) throw new Error(t(`reference.problem.${parsed.problem ?? "empty"}`));
      const spec = { providerType: form.provider, keyReference: form.reference, ...(form.provider === a.spec.providerType ? {} : { access: null }) };
      const ref = { name: a.metadata.name };
      await ctx.port.patch("Account", ref, { spec }, { dryRun: true });
      ctx.fleet.accounts.learn(await ctx.port.patch("Account", ref, { spec }));
    },
  } satisfies Partial<Confirm>);
}
