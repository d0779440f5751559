import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import "@ui5/webcomponents/dist/SuggestionItem.js";
import "@ui5/webcomponents/dist/features/InputSuggestions.js";
import { html, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { t, tn, tv, type Key } from "../i18n/index.js";
import { accountPhase, type ClientRef } from "../model/kinds.js";
import { keyObject, nameProblem } from "../model/manifest.js";
import { parseSchedule, PRESETS } from "../model/schedule.js";
import { badge, empty } from "../ui/bits.js";
import { scheduleText } from "../ui/texts.js";
import { hintOrProblem, nameProblemText, Wizard } from "./wizard.js";

@customElement("kc-key-wizard")
export class KeyWizard extends Wizard {
  @state() private account = "";
  @state() private name = "";
  @state() private chosenNamespace = "";
  @state() private schedule = "30 Days";
  @state() private clients: ClientRef[] = [];

  override connectedCallback(): void {
    super.connectedCallback();
    this.account = this.params.account ?? "";
  }

  private get namespace(): string {
    return this.ctx.session.namespace ?? this.chosenNamespace;
  }

  protected heading(): string {
    return t("keys.create");
  }
  protected titles(): string[] {
    return [t("wizard.parent"), t("wizard.policy"), t("wizard.review")];
  }
  protected object(): unknown {
    return keyObject({
      name: this.name,
      namespace: this.namespace,
      account: this.account,
      rotationSchedule: this.schedule,
      clients: this.clients.filter((c) => c.issuer || c.subject),
    });
  }

  protected blocked(n: number): string | undefined {
    if (n === 1) {
      if (!this.account) return t("wizard.needAccount");
      const name = nameProblem(this.name);
      if (name) return t(`name.${name}` as Key);
      if (!this.namespace) return t("wizard.needNamespace");
      if (this.ctx.fleet.keys.get(`${this.namespace}/${this.name}`)) return t("name.taken");
    }
    if (n === 2 && !parseSchedule(this.schedule)) return t("schedule.grammar");
    return undefined;
  }

  protected async create(dryRun: boolean): Promise<void> {
    const made = await this.ctx.port.create("ServiceEncryptionKey", this.object(), { dryRun });
    if (!dryRun) this.ctx.fleet.keys.learn(made);
  }
  protected done(): void {
    this.ctx.say(t("keys.created"));
    this.go(["keys", this.namespace, this.name]);
  }
  protected back(): void {
    this.go(["keys"]);
  }
  protected aside() {
    return { title: t("wizard.then"), points: [t("wizard.then.version"), t("wizard.then.edges"), t("wizard.then.rotation"), t("wizard.then.usage")] };
  }

  private input(id: string, label: string, value: string, on: (v: string) => void, o: { hint?: string; suggestions?: string[]; problem?: string } = {}): TemplateResult {
    const take = (e: Event) => on((e.target as HTMLInputElement).value.trim());
    return html`<div class="field">
      <ui5-label for=${id} required>${label}</ui5-label>
      <ui5-input id=${id} accessible-name=${label} maxlength="512" .value=${value} ?show-suggestions=${!!o.suggestions} @input=${take} @change=${take}>
        ${o.suggestions?.map((s) => html`<ui5-suggestion-item text=${s}></ui5-suggestion-item>`) ?? nothing}
      </ui5-input>
      ${hintOrProblem(o.hint, o.problem)}
    </div>`;
  }

  private parent(): TemplateResult {
    const accounts = [...this.ctx.fleet.accounts.items.values()].sort((a, b) => a.metadata.name.localeCompare(b.metadata.name));
    if (accounts.length === 0) {
      return empty({ icon: "shield", title: t("accounts.none"), text: t("wizard.noAccount"), action: html`<ui5-button @click=${() => this.go(["accounts", "new"])}>${t("accounts.create")}</ui5-button>` });
    }
    const namespaces = [...new Set(["default", ...[...this.ctx.fleet.keys.items.values()].map((k) => k.metadata.namespace ?? "")])].filter(Boolean).sort();
    return html`
      <fieldset>
        <legend>${t("wizard.parentText")}</legend>
        <div class="choices" style="max-height: 20rem; overflow: auto; padding: 3px">
          ${accounts.map((a) => {
            const name = a.metadata.name;
            const usable = accountPhase(a) !== "Deleting";
            return html`<label>
              <input type="radio" name="account" value=${name} ?disabled=${!usable} .checked=${this.account === name} @change=${() => (this.account = name)} />
              <span class="grow"
                ><bdi>${name}</bdi><br /><span class="muted small">${tv("provider", a.spec.providerType)} · ${tn("account.keys", a.status?.dependents ?? 0)}</span></span
              >
              ${badge(accountPhase(a))}
            </label>`;
          })}
        </div>
      </fieldset>
      ${this.input("name", t("wizard.name"), this.name, (v) => (this.name = v), { hint: t("name.hint"), problem: nameProblemText(this.name) })}
      ${this.ctx.session.namespace
        ? nothing
        : this.input("namespace", t("col.namespace"), this.chosenNamespace, (v) => (this.chosenNamespace = v), { suggestions: namespaces, hint: t("wizard.namespaceHint") })}
    `;
  }

  private policy(): TemplateResult {
    const preset = PRESETS.includes(this.schedule);
    return html`
      <fieldset>
        <legend>${t("wizard.policyText")}</legend>
        <div class="choices">
          ${PRESETS.map(
            (p) =>
              html`<label><input type="radio" name="schedule" value=${p} .checked=${this.schedule === p} @change=${() => (this.schedule = p)} /><span>${scheduleText(p)}</span></label>`,
          )}
          <label><input type="radio" name="schedule" value="custom" .checked=${!preset} @change=${() => (this.schedule = "14 Days")} /><span>${t("schedule.custom")}</span></label>
        </div>
      </fieldset>
      ${preset ? nothing : this.input("schedule", t("key.schedule"), this.schedule, (v) => (this.schedule = v), { hint: t("schedule.grammar"), problem: parseSchedule(this.schedule) ? undefined : t("schedule.grammar") })}
      ${this.schedule === "Never" ? html`<ui5-message-strip design="Critical" hide-close-button>${t("schedule.neverText")}</ui5-message-strip>` : nothing}
      <details ?open=${this.clients.length > 0}>
        <summary>${t("wizard.clients")}</summary>
        <div class="stack" style="margin-block-start: 0.75rem">
          <p class="muted small">${t("wizard.clientsText")}</p>
          ${this.clients.map((c, i) => {
            const set = (change: Partial<ClientRef>) => (this.clients = this.clients.map((x, j) => (j === i ? { ...x, ...change } : x)));
            return html`<div class="row" style="align-items: end">
              ${this.input(`issuer-${i}`, t("wizard.issuer"), c.issuer, (v) => set({ issuer: v }))}
              ${this.input(`subject-${i}`, t("wizard.subject"), c.subject, (v) => set({ subject: v }))}
              <ui5-button icon="decline" design="Transparent" tooltip=${t("wizard.removeClient")} @click=${() => (this.clients = this.clients.filter((_, j) => j !== i))}></ui5-button>
            </div>`;
          })}
          <div><ui5-button icon="add" design="Transparent" @click=${() => (this.clients = [...this.clients, { issuer: "", subject: "" }])}>${t("wizard.addClient")}</ui5-button></div>
        </div>
      </details>
    `;
  }

  protected step(n: number): TemplateResult {
    if (n === 1) return this.parent();
    if (n === 2) return this.policy();
    return this.review([
      { label: t("col.name"), value: html`<bdi>${this.name}</bdi>` },
      { label: t("col.namespace"), value: html`<bdi>${this.namespace}</bdi>` },
      { label: t("col.account"), value: html`<bdi>${this.account}</bdi>` },
      { label: t("key.schedule"), value: scheduleText(this.schedule) },
      { label: t("key.algorithm"), value: html`<span class="mono">AES-GCM-256</span>` },
      { label: t("wizard.clients"), value: this.clients.length || "–" },
    ]);
  }
}
