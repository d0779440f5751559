import { html, LitElement, nothing, type CSSResultGroup, type TemplateResult } from "lit";
import { property } from "lit/decorators.js";
import type { Ctx } from "../ctx.js";
import type { ApiError, Verb } from "../data/port.js";
import { t, tv, type Key } from "../i18n/index.js";
import { pathOf } from "../luigi/session.js";
import type { Params } from "../model/filter.js";
import type { KindName, Resource } from "../model/kinds.js";
import { empty } from "./bits.js";
import { styles } from "./styles.js";

/** A screen: redrawn when the fleet, the address, the clock or the user's rights change. */
export abstract class View extends LitElement {
  @property({ attribute: false }) ctx!: Ctx;
  @property({ attribute: false }) path: string[] = [];
  @property({ attribute: false }) params: Params = {};
  /** Grows with every change of what is loaded. */
  @property({ type: Number }) revision = 0;
  @property({ type: Number }) now = Date.now();

  static override styles: CSSResultGroup = styles;

  protected go(path: string[], params: Params = {}): void {
    this.ctx.session.navigate(path, params);
  }

  protected setParams(change: Record<string, string | undefined>): void {
    const next: Params = {};
    for (const [k, v] of Object.entries({ ...this.params, ...change })) if (v) next[k] = v;
    this.ctx.session.replaceParams(next);
  }

  /** A real link, so that it can be read, focused and opened elsewhere. */
  protected link(path: string[], content: unknown, params: Params = {}, label?: string): TemplateResult {
    return html`<a
      href="#${pathOf(path)}"
      aria-label=${label ?? nothing}
      @click=${(e: MouseEvent) => {
        if (e.ctrlKey || e.metaKey || e.shiftKey || e.button !== 0) return;
        e.preventDefault();
        this.go(path, params);
      }}
      >${content}</a
    >`;
  }

  protected accountLink(name: string): TemplateResult {
    return this.link(["accounts", name], html`<bdi>${name}</bdi>`);
  }

  protected keyLink(o: Resource): TemplateResult {
    return this.link(["keys", o.metadata.namespace ?? "", o.metadata.name], html`<bdi>${o.metadata.name}</bdi>`);
  }

  /** `undefined` when the action is open; else why it is not. */
  protected denied(verb: Verb, kind: KindName, namespace?: string): string | undefined {
    const v = this.ctx.rights.may(verb, kind, namespace);
    return v.allowed === "no" ? t("rights.denied", { verb: tv("verb", verb), kind: tv("kind", kind) }) : undefined;
  }

  protected button(o: {
    text: string;
    icon?: string;
    design?: "Default" | "Emphasized" | "Transparent" | "Negative" | "Attention";
    denied?: string;
    disabled?: boolean;
    busy?: boolean;
    id?: string;
    click: () => void;
  }): TemplateResult {
    return html`<ui5-button
      id=${o.id ?? nothing}
      icon=${o.icon ?? nothing}
      design=${o.design ?? "Default"}
      ?disabled=${!!o.denied || !!o.disabled}
      ?loading=${!!o.busy}
      tooltip=${o.denied ?? nothing}
      @click=${o.click}
      >${o.text}</ui5-button
    >`;
  }

  /** Why a list cannot be shown. Not enabled, not allowed and broken are three different things. */
  protected failure(error: ApiError | undefined): TemplateResult {
    switch (error?.fault) {
      case "notBound":
        return empty({ icon: "chain-link", title: t("load.notBound"), text: t("load.notBoundText") });
      case "forbidden":
        return empty({ icon: "locked", title: t("load.forbidden"), text: error.message || t("load.forbiddenText") });
      case "session":
        return empty({ icon: "locked", title: t("session.expired"), text: t("session.expiredText") });
      default:
        return empty({
          icon: "disconnected",
          title: t("load.failed"),
          text: faultText(error),
          action: html`<ui5-button icon="refresh" @click=${() => this.ctx.fleet.retry()}>${t("load.retry")}</ui5-button>`,
        });
    }
  }
}

/** What went wrong, in the user's language, with the server's own words after it. */
export function faultText(error: ApiError | undefined): string {
  if (!error) return "";
  const own = t(`fault.${error.fault}` as Key);
  return error.message ? `${own} ${error.message}` : own;
}
