import { css, html, nothing, type TemplateResult } from "lit";
import { state } from "lit/decorators.js";
import { asApiError, type ApiError } from "../data/port.js";
import { t, type Key } from "../i18n/index.js";
import { kubectlApply, nameProblem, toYaml } from "../model/manifest.js";
import { copy } from "../ui/bits.js";
import { styles } from "../ui/styles.js";
import { faultText, View } from "../ui/view.js";

/** Under a field and not over what follows it, as UI5's own message would be. */
export function hintOrProblem(hint?: string, problem?: string): TemplateResult {
  return html`<span role="status" class="small ${problem ? "row" : "muted"}"
    >${problem ? html`<ui5-icon name="status-critical" style="color: var(--sapCriticalElementColor)"></ui5-icon>${problem}` : hint}</span
  >`;
}

/** Nothing is wrong with a name that nobody has typed yet. */
export function nameProblemText(name: string): string | undefined {
  const problem = name && nameProblem(name);
  return problem ? t(`name.${problem}` as Key) : undefined;
}

/** Steps with a review at the end: a server dry run, the YAML and the kubectl line before anything is made. */
export abstract class Wizard extends View {
  @state() protected trial?: "running" | "ok" | ApiError;
  @state() protected busy = false;
  @state() protected problem = "";
  private tried = "";

  static override styles = [
    styles,
    css`
      ol.steps {
        display: flex;
        flex-wrap: wrap;
        gap: 0.5rem 0;
        margin-block-end: 0.5rem;
      }
      ol.steps li {
        display: flex;
        align-items: center;
        gap: 0.5rem;
        color: var(--sapContent_LabelColor);
      }
      ol.steps li:not(:last-child)::after {
        content: "";
        width: clamp(0.75rem, 3vw, 3rem);
        height: 1px;
        background: var(--sapGroup_ContentBorderColor);
        margin-inline: 0.25rem 0.75rem;
      }
      ol.steps .n {
        width: 1.75rem;
        height: 1.75rem;
        border-radius: 50%;
        display: grid;
        place-items: center;
        border: 1px solid var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
        background: var(--sapTile_Background);
        font-variant-numeric: tabular-nums;
        flex: none;
      }
      ol.steps li[aria-current] {
        color: var(--sapTextColor);
        font-family: var(--sapFontBoldFamily);
      }
      ol.steps li[aria-current] .n {
        border-color: var(--sapSelectedColor);
        box-shadow: inset 0 0 0 1px var(--sapSelectedColor);
        color: var(--sapSelectedColor);
      }
      ol.steps li.done .n {
        border-color: var(--sapSuccessBorderColor);
        color: var(--sapPositiveTextColor);
      }
      .panes {
        display: grid;
        grid-template-columns: minmax(0, 52rem) minmax(0, 24rem);
        gap: 1rem;
        align-items: start;
      }
      @media (max-width: 66rem) {
        .panes {
          grid-template-columns: minmax(0, 1fr);
        }
      }
      .aside ul {
        display: flex;
        flex-direction: column;
        gap: 0.75rem;
      }
      .aside li {
        display: grid;
        grid-template-columns: 1rem minmax(0, 1fr);
        gap: 0.5rem;
      }
      .aside li ui5-icon {
        margin-block-start: 0.125rem;
        color: var(--sapContent_NonInteractiveIconColor);
      }
      .aside p {
        overflow-wrap: anywhere;
      }
      .foot {
        display: flex;
        flex-wrap: wrap;
        gap: 0.5rem;
        padding-block-start: 1rem;
        margin-block-start: 0.5rem;
        border-block-start: 1px solid var(--sapGroup_ContentBorderColor);
      }
      .field {
        max-width: 36rem;
      }
      fieldset {
        border: 0;
        margin: 0;
        padding: 0;
        min-width: 0;
      }
      legend {
        padding: 0;
        margin-block-end: 0.5rem;
        color: var(--sapContent_LabelColor);
        font-size: var(--sapFontSmallSize);
      }
      .choices {
        display: grid;
        grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
        gap: 0.75rem;
      }
      .choices label {
        position: relative;
        display: flex;
        gap: 0.75rem;
        align-items: flex-start;
        padding: 0.875rem 1rem;
        border: 1px solid var(--sapGroup_ContentBorderColor);
        border-radius: 0.75rem;
        cursor: pointer;
        min-width: 0;
      }
      .choices label:hover {
        background: var(--sapList_Hover_Background);
      }
      .choices label:has(:checked) {
        border-color: var(--sapSelectedColor);
        box-shadow: inset 0 0 0 1px var(--sapSelectedColor);
        background: var(--sapList_SelectionBackgroundColor);
      }
      .choices label:has(:disabled) {
        cursor: not-allowed;
        opacity: 0.6;
      }
      .choices label:has(:focus-visible) {
        outline: var(--sapContent_FocusWidth, 2px) solid var(--sapContent_FocusColor);
        outline-offset: 2px;
      }
      .choices input {
        accent-color: var(--sapSelectedColor);
        width: 1.125rem;
        height: 1.125rem;
        margin: 0.125rem 0 0;
        flex: none;
        outline: none;
      }
    `,
  ];

  protected abstract titles(): string[];
  protected abstract step(n: number): TemplateResult;
  /** Why the step is not finished; `undefined` when it is. */
  protected abstract blocked(n: number): string | undefined;
  protected abstract object(): unknown;
  protected abstract create(dryRun: boolean): Promise<void>;
  protected abstract done(): void;
  protected abstract heading(): string;
  protected abstract back(): void;
  /** What is good to know beside the form; `undefined` when there is nothing to say yet. */
  protected abstract aside(): { title: string; points: unknown[] } | undefined;

  /** The first step that is not finished bounds the address: a link to the review of an empty wizard starts at its begin. */
  private get at(): number {
    const wanted = Math.min(Math.max(Number(this.params.step) || 1, 1), this.titles().length);
    for (let n = 1; n < wanted; n++) if (this.blocked(n)) return n;
    return wanted;
  }

  private to(n: number): void {
    this.problem = "";
    this.setParams({ step: n > 1 ? String(n) : undefined });
    void this.updateComplete.then(() => this.renderRoot.querySelector<HTMLElement>("#step-title")?.focus());
  }

  private next(n: number): void {
    const why = this.blocked(n);
    if (why) this.problem = why;
    else this.to(n + 1);
  }

  private async tryOut(): Promise<void> {
    const mark = JSON.stringify(this.object());
    if (this.tried === mark) return;
    this.tried = mark;
    this.trial = "running";
    try {
      await this.create(true);
      if (this.tried === mark) this.trial = "ok";
    } catch (e) {
      if (this.tried === mark) this.trial = asApiError(e);
    }
  }

  private async finish(): Promise<void> {
    this.busy = true;
    this.problem = "";
    try {
      await this.create(false);
      this.done();
    } catch (e) {
      this.problem = faultText(asApiError(e));
    } finally {
      this.busy = false;
    }
  }

  protected override updated(): void {
    if (this.at === this.titles().length) void this.tryOut();
  }

  protected review(rows: { label: string; value: unknown; wide?: boolean }[]): TemplateResult {
    const object = this.object();
    const yaml = toYaml(object);
    return html`<div class="stack">
      <dl class="facts">
        ${rows.map(
          (r) =>
            html`<div class=${r.wide ? "wide" : ""}>
              <dt>${r.label}</dt>
              <dd>${r.value}</dd>
            </div>`,
        )}
      </dl>
      <div role="status">
        ${this.trial === "ok"
          ? html`<ui5-message-strip design="Positive" hide-close-button>${t("wizard.trialOk")}</ui5-message-strip>`
          : this.trial === "running" || this.trial === undefined
            ? html`<ui5-message-strip design="Information" hide-close-button>${t("wizard.trialRunning")}</ui5-message-strip>`
            : html`<ui5-message-strip design="Negative" hide-close-button>${t("wizard.trialFailed")} ${faultText(this.trial)}</ui5-message-strip>`}
      </div>
      <details>
        <summary>${t("action.yaml")}</summary>
        <pre dir="ltr" tabindex="0" aria-label=${t("action.yaml")} style="margin-block-start: 0.5rem">${yaml}</pre>
      </details>
      <div class="row">
        <ui5-button
          icon="copy"
          design="Transparent"
          @click=${async () => {
            const ok = await copy(kubectlApply(object));
            this.ctx.say(t(ok ? "action.copied" : "action.copyFailed"), ok ? "positive" : "negative");
          }}
          >${t("action.kubectl")}</ui5-button
        >
      </div>
    </div>`;
  }

  protected override render() {
    const at = this.at;
    const titles = this.titles();
    const last = at === titles.length;
    const beside = this.aside();
    return html`<section class="stack" aria-labelledby="heading">
      <h2 id="heading">${this.heading()}</h2>
      <ol class="steps" aria-label=${t("wizard.steps")}>
        ${titles.map(
          (title, i) =>
            html`<li class=${i + 1 < at ? "done" : ""} aria-current=${i + 1 === at ? "step" : nothing}>
              <span class="n">${i + 1 < at ? html`<ui5-icon name="accept" mode="Image" accessible-name=${t("wizard.done")}></ui5-icon>` : i + 1}</span><span>${title}</span>
            </li>`,
        )}
      </ol>
      <div class="panes">
      <div
        class="card"
        @keydown=${(e: KeyboardEvent) => {
          if (e.key === "Enter" && !last && (e.target as HTMLElement).localName === "ui5-input") this.next(at);
        }}
      >
        <div class="stack">
          <h3 id="step-title" tabindex="-1" style="outline: none">${t("wizard.step", { n: at, total: titles.length })} ${titles[at - 1]}</h3>
          ${this.step(at)}
          ${this.problem ? html`<ui5-message-strip design="Negative" hide-close-button role="alert">${this.problem}</ui5-message-strip>` : nothing}
          <div class="foot">
            ${last
              ? html`<ui5-button id="finish" design="Emphasized" ?loading=${this.busy} ?disabled=${this.trial !== "ok"} @click=${() => void this.finish()}>${t("action.create")}</ui5-button>`
              : html`<ui5-button id="next" design="Emphasized" @click=${() => this.next(at)}>${t("action.next")}</ui5-button>`}
            ${at > 1 ? html`<ui5-button id="previous" @click=${() => this.to(at - 1)}>${t("action.previous")}</ui5-button>` : nothing}
            <span class="grow"></span>
            <ui5-button id="cancel" design="Transparent" @click=${() => this.back()}>${t("action.cancel")}</ui5-button>
          </div>
        </div>
      </div>
      ${beside
        ? html`<aside class="card aside" aria-labelledby="beside">
            <div class="head"><h3 id="beside">${beside.title}</h3></div>
            <ul>
              ${beside.points.map((p) => html`<li><ui5-icon name="information"></ui5-icon><p class="small">${p}</p></li>`)}
            </ul>
          </aside>`
        : nothing}
      </div>
    </section>`;
  }
}
