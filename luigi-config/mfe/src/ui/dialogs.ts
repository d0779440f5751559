import "@ui5/webcomponents/dist/Button.js";
import "@ui5/webcomponents/dist/Dialog.js";
import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, property, state } from "lit/decorators.js";
import type { Ctx } from "../ctx.js";
import { asApiError } from "../data/port.js";
import { t } from "../i18n/index.js";
import { copy, tag } from "./bits.js";
import { styles } from "./styles.js";
import { faultText } from "./view.js";

/** The frame of every dialog: dims the shell as well, and gives the focus back on every way out. */
abstract class Base extends LitElement {
  @property({ attribute: false }) ctx!: Ctx;
  @property() heading = "";
  private settle?: (done: boolean) => void;
  private opener: Element | null = null;

  static override styles = [
    styles,
    css`
      ui5-dialog::part(content) {
        padding: 1rem clamp(1rem, 5vw, 2rem);
      }
      ui5-dialog {
        /* As dark as the shell's own, which dims the rest of the page. */
        --_ui5_popup_block_layer_opacity: 0.5;
        width: min(38rem, calc(100vw - 2rem));
      }
      .foot {
        display: flex;
        justify-content: flex-end;
        gap: 0.5rem;
        width: 100%;
        padding-block: 0.25rem;
      }
    `,
  ];

  show(): Promise<boolean> {
    let at: Element | null = document.activeElement;
    while (at?.shadowRoot?.activeElement && !at.localName.startsWith("ui5-")) at = at.shadowRoot.activeElement;
    this.opener = at;
    document.body.append(this);
    this.ctx.session.dialogOpened();
    return new Promise((resolve) => (this.settle = resolve));
  }

  /** Idempotent: the Escape key, the buttons and a changed address all end here. */
  close(done: boolean): void {
    if (!this.settle) return;
    const settle = this.settle;
    this.settle = undefined;
    this.ctx.session.dialogClosed();
    this.remove();
    (this.opener as HTMLElement | null)?.focus?.();
    settle(done);
  }

  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.close(false);
  }

  protected frame(body: unknown, foot: TemplateResult, tone: "None" | "Critical" | "Negative" = "None"): TemplateResult {
    return html`<ui5-dialog open header-text=${this.heading} state=${tone} accessible-name=${this.heading} @close=${() => this.close(false)}>
      <div class="stack">${body}</div>
      <div slot="footer" class="foot">${foot}</div>
    </ui5-dialog>`;
  }
}

/** Asks before something that hurts; with `expect` the name has to be typed. `act` runs inside, so a refusal is read here. */
@customElement("kc-confirm")
export class Confirm extends Base {
  @property({ attribute: false }) body: unknown;
  @property() expect = "";
  @property() confirmText = "";
  @property({ type: Boolean }) harmful = false;
  @property({ attribute: false }) act: () => Promise<void> = () => Promise.resolve();
  @state() private typed = "";
  @state() private busy = false;
  @state() private problem = "";

  private async confirm(): Promise<void> {
    if (this.busy || (this.expect && this.typed !== this.expect)) return;
    this.busy = true;
    this.problem = "";
    try {
      await this.act();
      this.close(true);
    } catch (e) {
      this.problem = faultText(asApiError(e));
    } finally {
      this.busy = false;
    }
  }

  protected override render() {
    return this.frame(
      html`
        ${this.body}
        ${this.expect
          ? html`<div class="field">
              <ui5-label for="typed" show-colon wrapping-type="Normal">${t("confirm.type")}</ui5-label>
              <bdi class="mono" style="user-select: all">${this.expect}</bdi>
              <ui5-input
                id="typed"
                accessible-name=${t("confirm.typeName", { name: this.expect })}
                autocomplete="off"
                .value=${this.typed}
                @input=${(e: Event) => (this.typed = (e.target as HTMLInputElement).value)}
                @keydown=${(e: KeyboardEvent) => e.key === "Enter" && void this.confirm()}
              ></ui5-input>
            </div>`
          : nothing}
        ${this.problem ? html`<ui5-message-strip design="Negative" hide-close-button role="alert">${this.problem}</ui5-message-strip>` : nothing}
      `,
      html`<ui5-button
          id="confirm"
          design=${this.harmful ? "Negative" : "Emphasized"}
          ?disabled=${!!this.expect && this.typed !== this.expect}
          ?loading=${this.busy}
          @click=${() => void this.confirm()}
          >${this.confirmText}</ui5-button
        ><ui5-button id="cancel" @click=${() => this.close(false)}>${t("action.cancel")}</ui5-button>`,
      this.harmful ? "Critical" : "None",
    );
  }
}

/** Shows text to take away. */
@customElement("kc-code")
export class Code extends Base {
  @property() intro = "";
  @property() text = "";
  @property() file = "";
  @state() private copied?: boolean;

  private download(): void {
    const url = URL.createObjectURL(new Blob([this.text], { type: "application/yaml" }));
    const a = document.createElement("a");
    a.href = url;
    a.download = this.file;
    a.click();
    setTimeout(() => URL.revokeObjectURL(url), 1_000);
  }

  protected override render() {
    return this.frame(
      html`
        ${this.intro ? html`<p class="muted">${this.intro}</p>` : nothing}
        <pre dir="ltr" tabindex="0" aria-label=${this.heading}>${this.text}</pre>
        <p role="status" class="small muted">
          ${this.copied === undefined ? nothing : this.copied ? t("action.copied") : t("action.copyFailed")}
        </p>
      `,
      html`<ui5-button icon="copy" design="Emphasized" @click=${async () => (this.copied = await copy(this.text))}>${t("action.copy")}</ui5-button>
        ${this.file ? html`<ui5-button @click=${() => this.download()}>${t("action.download")}</ui5-button>` : nothing}
        <ui5-button @click=${() => this.close(true)}>${t("action.close")}</ui5-button>`,
    );
  }
}

/** One action on many objects, with a result for each. */
@customElement("kc-bulk")
export class Bulk extends Base {
  @property({ attribute: false }) body: unknown;
  @property() confirmText = "";
  @property({ type: Boolean }) harmful = false;
  @property({ attribute: false }) ids: string[] = [];
  @property({ attribute: false }) act: (id: string) => Promise<void> = () => Promise.resolve();
  @state() private results = new Map<string, string | true>();
  @state() private running = false;

  private async run(): Promise<void> {
    this.running = true;
    const queue = [...this.ids];
    // Four at a time: enough to be quick, too few to be throttled.
    const worker = async () => {
      for (let id = queue.shift(); id !== undefined; id = queue.shift()) {
        try {
          await this.act(id);
          this.results.set(id, true);
        } catch (e) {
          this.results.set(id, faultText(asApiError(e)));
        }
        this.requestUpdate();
      }
    };
    await Promise.all(Array.from({ length: 4 }, worker));
    this.running = false;
  }

  protected override render() {
    const done = this.results.size;
    const failed = [...this.results.values()].filter((r) => r !== true).length;
    const over = done === this.ids.length;
    return this.frame(
      html`
        ${done === 0 && !this.running ? this.body : html`<p role="status">${t("bulk.done", { done, total: this.ids.length, failed })}</p>`}
        <div class="scroll" style="max-height: 20rem; border: 1px solid var(--sapList_BorderColor); border-radius: 0.5rem" tabindex="0" role="group" aria-label=${t("bulk.list")}>
          <table>
            <tbody>
              ${this.ids.map((id) => {
                const r = this.results.get(id);
                return html`<tr>
                  <td class="name"><bdi>${id}</bdi></td>
                  <td>
                    ${r === undefined
                      ? tag("neutral", this.running ? "status-in-process" : "pending", this.running ? t("bulk.running") : t("bulk.waiting"))
                      : r === true
                        ? tag("positive", "status-positive", t("bulk.ok"))
                        : html`${tag("negative", "status-error", t("bulk.failed"))}
                            <p class="small">${r}</p>`}
                  </td>
                </tr>`;
              })}
            </tbody>
          </table>
        </div>
      `,
      over
        ? html`<ui5-button id="done" design="Emphasized" @click=${() => this.close(true)}>${t("action.close")}</ui5-button>`
        : html`<ui5-button id="confirm" design=${this.harmful ? "Negative" : "Emphasized"} ?loading=${this.running} @click=${() => void this.run()}>${this.confirmText}</ui5-button>
            <ui5-button id="cancel" @click=${() => this.close(done > 0)}>${t("action.cancel")}</ui5-button>`,
      this.harmful ? "Critical" : "None",
    );
  }
}

export function confirm(ctx: Ctx, o: Partial<Pick<Confirm, "body" | "expect" | "confirmText" | "harmful" | "act" | "heading">>): Promise<boolean> {
  return Object.assign(new Confirm(), { ctx }, o).show();
}
export function code(ctx: Ctx, o: Partial<Pick<Code, "heading" | "intro" | "text" | "file">>): Promise<boolean> {
  return Object.assign(new Code(), { ctx }, o).show();
}
export function bulk(ctx: Ctx, o: Partial<Pick<Bulk, "heading" | "body" | "confirmText" | "harmful" | "ids" | "act">>): Promise<boolean> {
  return Object.assign(new Bulk(), { ctx }, o).show();
}
