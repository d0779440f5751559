import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import "@ui5/webcomponents/dist/Option.js";
import "@ui5/webcomponents/dist/Select.js";
import "@ui5/webcomponents/dist/SuggestionItem.js";
import "@ui5/webcomponents/dist/features/InputSuggestions.js";
import { html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { t, tv, type Key } from "../i18n/index.js";
import { PROVIDER_TYPES, type ProviderType } from "../model/kinds.js";
import { accountObject, nameProblem, type Access } from "../model/manifest.js";
import { parseReference, REGIONS } from "../model/reference.js";
import { mark } from "../ui/bits.js";
import { referenceHelp } from "../ui/reference-help.js";
import { hintOrProblem, nameProblemText, Wizard } from "./wizard.js";

@customElement("kc-account-wizard")
export class AccountWizard extends Wizard {
  @state() private provider?: ProviderType;
  @state() private region = "";
  @state() private reference = "";
  @state() private name = "";
  /** By the name of the member of `access`. */
  @state() private grant: Record<string, string> = {};

  protected heading(): string {
    return t("accounts.create");
  }
  protected titles(): string[] {
    return [t("wizard.provider"), t("wizard.region"), t("wizard.reference"), t("wizard.review")];
  }

  private access(): Access | undefined {
    const g = this.grant;
    if (this.provider === "AWSKMS" && g.roleArn) return { aws: { roleArn: g.roleArn } };
    if (this.provider === "AzureKeyVault" && (g.clientId || g.tenantId)) return { azure: { clientId: g.clientId ?? "", tenantId: g.tenantId ?? "" } };
    if (this.provider === "GCPKMS" && g.serviceAccount) return { gcp: { serviceAccount: g.serviceAccount } };
    return undefined;
  }

  protected object(): unknown {
    return accountObject({ name: this.name, providerType: this.provider ?? "AWSKMS", keyReference: this.reference, access: this.access() });
  }

  protected blocked(n: number): string | undefined {
    switch (n) {
      case 1:
        return this.provider ? undefined : t("wizard.needProvider");
      case 2:
        return undefined;
      case 3: {
        const parsed = parseReference(this.provider!, this.reference);
        if (!parsed.ok) return t(`reference.problem.${parsed.problem ?? "empty"}` as Key);
        const name = nameProblem(this.name);
        if (name) return t(`name.${name}` as Key);
        if (this.ctx.fleet.accounts.get(this.name)) return t("name.taken");
        return undefined;
      }
      default:
        return undefined;
    }
  }

  protected async create(dryRun: boolean): Promise<void> {
    const made = await this.ctx.port.create("Account", this.object(), { dryRun });
    if (!dryRun) this.ctx.fleet.accounts.learn(made);
  }
  protected done(): void {
    this.ctx.say(t("accounts.created"));
    this.go(["accounts", this.name]);
  }
  protected back(): void {
    this.go(["accounts"]);
  }
  protected aside() {
    if (!this.provider) return { title: t("wizard.what"), points: [t("wizard.what.root"), t("wizard.what.account"), t("wizard.what.keys")] };
    const cluster = this.ctx.fleet.tenants.items.values().next().value?.status?.logicalCluster;
    const points: unknown[] = [t(`needs.${this.provider}.key`), t(`needs.${this.provider}.access`)];
    if (this.provider !== "ThalesHSM" && cluster) points.push(html`${t("needs.cluster")} <bdi class="mono">${cluster}</bdi>`);
    return { title: t("needs.title", { provider: tv("provider", this.provider) }), points: [...points, t("needs.probe")] };
  }

  private input(id: string, label: string, value: string, on: (v: string) => void, o: { required?: boolean; hint?: string; suggestions?: string[]; problem?: string } = {}): TemplateResult {
    const take = (e: Event) => on((e.target as HTMLInputElement).value.trim());
    return html`<div class="field">
      <ui5-label for=${id} ?required=${!!o.required}>${label}</ui5-label>
      <ui5-input
        id=${id}
        accessible-name=${label}
        maxlength="512"
        .value=${value}
        ?show-suggestions=${!!o.suggestions}
        @input=${take}
        @change=${take}
      >
        ${o.suggestions?.map((s) => html`<ui5-suggestion-item text=${s}></ui5-suggestion-item>`) ?? nothing}
      </ui5-input>
      ${hintOrProblem(o.hint, o.problem)}
    </div>`;
  }

  protected step(n: number): TemplateResult {
    const provider = this.provider;
    switch (n) {
      case 1:
        return html`<fieldset>
          <legend>${t("wizard.providerText")}</legend>
          <div class="choices">
            ${PROVIDER_TYPES.map(
              (p) => html`<label>
                <input
                  type="radio"
                  name="provider"
                  value=${p}
                  .checked=${provider === p}
                  @change=${() => {
                    this.provider = p;
                    this.region = "";
                    this.grant = {};
                    this.problem = "";
                  }}
                />
                ${mark(p, true)}
                <span><span>${tv("provider", p)}</span><br /><span class="muted small">${t(`wizard.provider.${p}` as Key)}</span></span>
              </label>`,
            )}
          </div>
        </fieldset>`;
      case 2:
        return REGIONS[provider!].length
          ? html`<p class="muted">${t("wizard.regionText")}</p>
              ${this.input("region", t("wizard.region"), this.region, (v) => (this.region = v), { suggestions: REGIONS[provider!] })}`
          : html`<p>${t(provider === "ThalesHSM" ? "wizard.regionHsm" : "wizard.regionVault")}</p>`;
      case 3: {
        const parsed = parseReference(provider!, this.reference);
        const differs = parsed.region && this.region && parsed.region !== this.region;
        return html`
          ${this.input("reference", t("wizard.reference"), this.reference, (v) => (this.reference = v), { required: true })}
          ${referenceHelp(provider!, parsed, this.region)}
          ${differs
            ? html`<ui5-message-strip design="Critical" hide-close-button>${t("wizard.regionDiffers", { chosen: this.region, found: parsed.region! })}</ui5-message-strip>`
            : nothing}
          ${this.input("name", t("wizard.name"), this.name, (v) => (this.name = v), { required: true, hint: t("name.hint"), problem: nameProblemText(this.name) })}
          ${this.accessFields(provider!)}
        `;
      }
      default:
        return this.review([
          { label: t("col.name"), value: html`<bdi>${this.name}</bdi>` },
          { label: t("col.provider"), value: html`<span class="provider">${mark(provider!)}${tv("provider", provider!)}</span>` },
          { label: t("wizard.region"), value: parseReference(provider!, this.reference).region ?? "–" },
          { label: t("col.reference"), value: html`<bdi class="mono" dir="ltr">${this.reference}</bdi>`, wide: true },
        ]);
    }
  }

  private accessFields(provider: ProviderType): TemplateResult | typeof nothing {
    const set = (k: string) => (v: string) => (this.grant = { ...this.grant, [k]: v });
    const g = this.grant;
    if (provider === "ThalesHSM") return html`<p class="muted small">${t("access.hsm")}</p>`;
    return html`<details ?open=${!!this.access()}>
      <summary>${t("access.title")}</summary>
      <div class="stack" style="margin-block-start: 0.75rem">
        <p class="muted small">${t("access.text")}</p>
        ${provider === "AWSKMS" ? this.input("roleArn", t("access.roleArn"), g.roleArn ?? "", set("roleArn"), { hint: "arn:aws:iam::111122223333:role/openkcm" }) : nothing}
        ${provider === "AzureKeyVault"
          ? html`${this.input("clientId", t("access.clientId"), g.clientId ?? "", set("clientId"))} ${this.input("tenantId", t("access.tenantId"), g.tenantId ?? "", set("tenantId"))}`
          : nothing}
        ${provider === "GCPKMS" ? this.input("serviceAccount", t("access.serviceAccount"), g.serviceAccount ?? "", set("serviceAccount"), { hint: "openkcm@my-project.iam.gserviceaccount.com" }) : nothing}
      </div>
    </details>`;
  }
}

