import { css, html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { asApiError } from "../data/port.js";
import { number, t, tn, tv } from "../i18n/index.js";
import { blastRadius } from "../model/fleet.js";
import { accountPhase, condition, KEY_STATES, keyState, type Account, type Happening, type ServiceKey } from "../model/kinds.js";
import { toYaml } from "../model/manifest.js";
import { badge, empty, fact, mark, progress, skeleton, tag, when } from "../ui/bits.js";
import { history } from "../ui/history.js";
import { styles } from "../ui/styles.js";
import { chainStyles, trustChain } from "../ui/trust-chain.js";
import { faultText, View } from "../ui/view.js";

@customElement("kc-account")
export class AccountScreen extends View {
  @state() private events?: Happening[];
  @state() private eventsFailed = "";
  private eventsFor = "";

  static override styles = [
    styles,
    chainStyles,
    css`
      .hero {
        display: flex;
        flex-wrap: wrap;
        gap: 0.75rem 1rem;
        align-items: flex-start;
      }
    `,
  ];

  private get account(): Account | undefined {
    return this.ctx.fleet.accounts.get(this.path[1] ?? "");
  }

  protected override willUpdate(_changed: PropertyValues<this>): void {
    const a = this.account;
    if (!a) return;
    const mark = `${a.metadata.name}@${a.metadata.resourceVersion}`;
    if (this.eventsFor === mark) return;
    this.eventsFor = mark;
    this.ctx.port.events("Account", { name: a.metadata.name }).then(
      (found) => {
        if (this.eventsFor === mark) [this.events, this.eventsFailed] = [found, ""];
      },
      (e) => {
        this.events ??= [];
        this.eventsFailed = faultText(asApiError(e));
      },
    );
  }

  private keys(name: string): ServiceKey[] {
    return [...this.ctx.fleet.keys.items.values()].filter((k) => k.spec.accountRef.name === name);
  }

  private async rekey(a: Account): Promise<void> {
    const { rekey } = await import("../ui/rekey.js");
    if (await rekey(this.ctx, a)) this.ctx.say(t("rekey.asked"));
  }

  private async erase(a: Account): Promise<void> {
    const { confirm, code } = await import("../ui/dialogs.js");
    const name = a.metadata.name;
    const blast = blastRadius(name, this.ctx.fleet.keys.items.values());
    if (blast.keys > 0) {
      await code(this.ctx, {
        heading: t("account.blockedTitle"),
        intro: tn("account.blockedText", blast.keys),
        text: blast.names.join("\n"),
      });
      return;
    }
    const done = await confirm(this.ctx, {
      heading: t("account.deleteTitle"),
      body: html`<p>${t("account.deleteText")}</p>`,
      expect: name,
      confirmText: t("action.delete"),
      harmful: true,
      // The API server has the last word: a key may have been created a moment ago.
      act: () => this.ctx.port.remove("Account", { name }),
    });
    if (done) {
      this.ctx.say(t("account.deleteAsked"));
      this.go(["accounts"]);
    }
  }

  private async showYaml(a: Account): Promise<void> {
    const { code } = await import("../ui/dialogs.js");
    const name = a.metadata.name;
    await code(this.ctx, {
      heading: t("action.yaml"),
      text: toYaml({ apiVersion: "openkcm.io/v1alpha1", kind: "Account", metadata: { name }, spec: a.spec }),
      file: `${name.slice(0, 60)}.yaml`,
    });
  }

  private chain(a: Account, keys: ServiceKey[]): TemplateResult {
    return html`<section class="card" aria-labelledby="chain">
      <div class="head"><h3 id="chain" class="grow">${t("account.chain")}</h3></div>
      ${trustChain(a, keys, this.now, { key: (k) => this.keyLink(k), all: (text) => this.link(["keys"], text, { account: a.metadata.name }) })}
    </section>`;
  }

  private rewrap(a: Account): TemplateResult | typeof nothing {
    const w = a.status?.rewrap;
    if (!w?.total && !w?.startedAt) return nothing;
    const c = condition(a, "RewrapComplete");
    // The condition has the last word; the counts may be those of a moment ago.
    const complete = c?.status === "True" || !!w.finishedAt;
    const running = accountPhase(a) === "Rekeying" || !complete;
    const total = w.total ?? 0;
    const done = complete && !w.failed ? total : (w.done ?? 0);
    return html`<section class="card" aria-labelledby="rewrap">
      <div class="head">
        <h3 id="rewrap" class="grow">${t("account.rewrap", { from: `v${w.from ?? "?"}`, to: `v${w.to ?? "?"}` })}</h3>
        ${running ? tag("info", "refresh", t("account.running")) : w.failed ? tag("negative", "status-error", t("account.failed")) : tag("positive", "status-positive", t("account.finished"))}
      </div>
      <div class="stack" style="gap: 0.5rem">
        <p role="status">${t("account.rewrapped", { done, total })}${w.failed ? html` – <strong>${tn("account.lost", w.failed)}</strong>` : nothing}</p>
        ${running ? progress(done, total, t("account.rewrapped", { done, total })) : nothing}
        ${c?.message ? html`<p class="muted small"><bdi>${c.message}</bdi></p>` : nothing}
        ${w.lost?.length ? html`<pre tabindex="0" aria-label=${tn("account.lost", w.failed ?? 0)}>${w.lost.join("\n")}</pre>` : nothing}
        <p class="muted small">${t("account.started")} ${when(w.startedAt, this.now, true)}${w.finishedAt ? html` · ${t("account.ended")} ${when(w.finishedAt, this.now, true)}` : nothing}</p>
      </div>
    </section>`;
  }

  protected override render() {
    const { accounts, keys } = this.ctx.fleet;
    if (accounts.phase === "failed") return this.failure(accounts.error);
    const a = this.account;
    if (!a) {
      if (accounts.phase === "loading") return skeleton(6, "5rem");
      return empty({ icon: "search", title: t("account.gone"), text: t("account.goneText"), action: html`<ui5-button @click=${() => this.go(["accounts"])}>${t("account.back")}</ui5-button>` });
    }
    const phase = accountPhase(a);
    const mine = this.keys(a.metadata.name);
    const states = new Map<string, number>();
    for (const k of mine) states.set(keyState(k), (states.get(keyState(k)) ?? 0) + 1);
    const ordered = KEY_STATES.filter((s) => states.has(s)).map((s) => [s, states.get(s)!] as const);
    const ready = condition(a, "Ready") ?? condition(a, "RootKeyVerified");
    const blocked = condition(a, "DeletionBlocked");
    const denied = this.denied("patch", "Account");
    return html`<article class="stack" aria-labelledby="name">
      <div class="small">${this.link(["accounts"], t("tab.accounts"))}</div>
      <div class="hero">
        <div class="grow" style="flex-basis: 20rem">
          <h2 id="name"><bdi>${a.metadata.name}</bdi></h2>
          <div class="row" style="margin-block-start: 0.5rem">${badge(phase)}</div>
        </div>
        <div class="row">
          ${this.button({ id: "new-key", text: t("keys.create"), icon: "add", design: "Emphasized", denied: this.denied("create", "ServiceEncryptionKey"), click: () => this.go(["keys", "new"], { account: a.metadata.name }) })}
          ${this.button({ id: "rekey", text: t("action.rekey"), icon: "refresh", denied, disabled: phase === "Deleting", click: () => void this.rekey(a) })}
          ${this.button({ id: "yaml", text: t("action.yaml"), design: "Transparent", click: () => void this.showYaml(a) })}
          ${this.button({ id: "delete", text: t("action.delete"), icon: "delete", design: "Transparent", denied: this.denied("delete", "Account"), disabled: phase === "Deleting", click: () => void this.erase(a) })}
        </div>
      </div>
      ${denied ? html`<p class="muted small"><ui5-icon name="locked"></ui5-icon> ${denied}</p>` : nothing}
      ${ready?.status === "False"
        ? html`<ui5-message-strip design=${phase === "Unavailable" ? "Negative" : "Critical"} hide-close-button>
            ${ready.reason ? `${tv("reason", ready.reason)}: ` : ""}${ready.message ?? ""}
          </ui5-message-strip>`
        : nothing}
      ${blocked?.status === "True" ? html`<ui5-message-strip design="Critical" hide-close-button>${blocked.message ?? ""}</ui5-message-strip>` : nothing}
      <section class="card" aria-label=${t("key.facts")}>
        <dl class="facts">
          ${fact("col.provider", html`<span class="provider">${mark(a.spec.providerType)}${tv("provider", a.spec.providerType)}</span>`)}
          ${fact("col.reference", html`<bdi class="mono" dir="ltr">${a.spec.keyReference}</bdi>`, true)}
          ${fact("key.algorithm", html`<span class="mono">${a.status?.rootKey?.algorithm || "–"}</span>`)}
          ${a.status?.rootKey?.version ? fact("account.rootVersion", html`<span class="mono">${a.status.rootKey.version}</span>`) : nothing}
          ${fact("col.verified", when(a.status?.rootKey?.lastVerified, this.now, true))}
          ${fact("col.dependents", number(a.status?.dependents ?? mine.length))}
          ${fact("key.created", when(a.metadata.creationTimestamp, this.now, true))}
        </dl>
      </section>
      ${this.rewrap(a)} ${this.chain(a, keys.phase === "loading" ? [] : mine)}
      <div class="columns">
        <section class="card" aria-labelledby="events">
          <div class="head"><h3 id="events" class="grow">${t("account.history")}</h3></div>
          ${history(this.events, this.eventsFailed, this.now)}
        </section>
        <section class="card" aria-labelledby="states">
          <div class="head"><h3 id="states" class="grow">${t("account.byState")}</h3></div>
          ${states.size === 0 ? html`<p class="muted">${t("account.noKeys")}</p>` : nothing}
          <ul class="stack" style="gap: 0.5rem">
            ${ordered.map(
              ([s, n]) => html`<li class="row"><span class="grow">${badge(s)}</span>${this.link(["keys"], number(n), { account: a.metadata.name, state: s }, `${tv("state", s)}: ${number(n)}`)}</li>`,
            )}
          </ul>
        </section>
      </div>
    </article>`;
  }
}
