import "@ui5/webcomponents/dist/Input.js";
import "@ui5/webcomponents/dist/Label.js";
import "@ui5/webcomponents/dist/Option.js";
import "@ui5/webcomponents/dist/Select.js";
import { css, html, nothing, type PropertyValues, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { asApiError } from "../data/port.js";
import { absolute, number, t, tn, tv, type Key } from "../i18n/index.js";
import { rotateNow, setSchedule, setState } from "../model/actions.js";
import { condition, keyState, rotationPending, type Happening, type ServiceKey } from "../model/kinds.js";
import { toYaml } from "../model/manifest.js";
import { parseSchedule } from "../model/schedule.js";
import { badge, empty, fact, progress, skeleton, tag, when } from "../ui/bits.js";
import { history } from "../ui/history.js";
import { styles } from "../ui/styles.js";
import { scheduleText } from "../ui/texts.js";
import { faultText, View } from "../ui/view.js";

/** An action of this page that the edges have not all followed yet. */
interface Pending {
  what: "rotate" | "disable" | "enable";
  started: number;
  from?: string;
  took?: number;
}

@customElement("kc-key")
export class KeyScreen extends View {
  @state() private events?: Happening[];
  @state() private eventsFailed = "";
  @state() private busy = "";
  @state() private editing = false;
  @state() private draft = "";
  @state() private pending?: Pending;
  private eventsFor = "";

  static override styles = [
    styles,
    css`
      .hero {
        display: flex;
        flex-wrap: wrap;
        gap: 0.75rem 1rem;
        align-items: flex-start;
      }
      .schedule {
        display: flex;
        flex-wrap: wrap;
        gap: 0.5rem;
        align-items: end;
      }
    `,
  ];

  private get key(): ServiceKey | undefined {
    return this.ctx.fleet.keys.get(`${this.path[1] ?? ""}/${this.path[2] ?? ""}`);
  }

  protected override willUpdate(_changed: PropertyValues<this>): void {
    const k = this.key;
    if (!k) return;
    // Events have no stream of their own: they are asked for when the object itself changed.
    const mark = `${k.metadata.namespace}/${k.metadata.name}@${k.metadata.resourceVersion}`;
    if (this.eventsFor !== mark) {
      this.eventsFor = mark;
      void this.loadEvents(k, mark);
    }
    if (this.pending && this.pending.took === undefined && this.reached(k, this.pending)) {
      this.pending = { ...this.pending, took: performance.now() - this.pending.started };
    }
  }

  private async loadEvents(k: ServiceKey, mark: string): Promise<void> {
    try {
      const found = await this.ctx.port.events("ServiceEncryptionKey", { name: k.metadata.name, namespace: k.metadata.namespace });
      if (this.eventsFor === mark) {
        this.events = found;
        this.eventsFailed = "";
      }
    } catch (e) {
      this.events ??= [];
      this.eventsFailed = faultText(asApiError(e));
    }
  }

  private reached(k: ServiceKey, p: Pending): boolean {
    const e = k.status?.edges;
    const total = e?.total ?? 0;
    switch (p.what) {
      case "rotate":
        return !rotationPending(k) && k.status?.currentVersion !== p.from && (e?.current ?? 0) >= total;
      case "disable":
        return keyState(k) === "Disabled" && (e?.evicted ?? 0) >= total;
      case "enable":
        return keyState(k) === "Active" && (e?.current ?? 0) >= total;
    }
  }

  private async act(what: Pending["what"], k: ServiceKey, run: () => Promise<void>): Promise<void> {
    this.busy = what;
    try {
      const started = performance.now();
      await run();
      this.pending = { what, started, from: k.status?.currentVersion };
    } finally {
      this.busy = "";
    }
  }

  private async rotate(k: ServiceKey): Promise<void> {
    try {
      await this.act("rotate", k, () => rotateNow(this.ctx, k, Date.now()));
      this.ctx.say(t("key.rotateAsked"));
    } catch (e) {
      this.ctx.say(faultText(asApiError(e)), "negative");
    }
  }

  private async toggle(k: ServiceKey): Promise<void> {
    if (k.spec.state === "Disabled") {
      try {
        await this.act("enable", k, () => setState(this.ctx, k, "Enabled"));
      } catch (e) {
        this.ctx.say(faultText(asApiError(e)), "negative");
      }
      return;
    }
    const { confirm } = await import("../ui/dialogs.js");
    await confirm(this.ctx, {
      heading: t("key.disableTitle"),
      body: html`<p>${t("key.disableText")}</p>
        <p>${tn("blast.clients", k.status?.activeClients ?? 0)}</p>`,
      confirmText: t("action.disable"),
      harmful: true,
      act: () => this.act("disable", k, () => setState(this.ctx, k, "Disabled")),
    });
  }

  private async erase(k: ServiceKey): Promise<void> {
    const { confirm } = await import("../ui/dialogs.js");
    const ref = { name: k.metadata.name, namespace: k.metadata.namespace };
    const done = await confirm(this.ctx, {
      heading: t("key.deleteTitle"),
      body: html`<p>${t("key.deleteText")}</p>
        <p>${tn("blast.clients", k.status?.activeClients ?? 0)}</p>`,
      expect: k.metadata.name,
      confirmText: t("action.delete"),
      harmful: true,
      act: () => this.ctx.port.remove("ServiceEncryptionKey", ref),
    });
    if (done) {
      this.ctx.say(t("key.deleteAsked"));
      this.go(["keys"]);
    }
  }

  private async saveSchedule(k: ServiceKey): Promise<void> {
    if (!parseSchedule(this.draft)) return;
    this.busy = "schedule";
    try {
      await setSchedule(this.ctx, k, this.draft);
      this.editing = false;
      this.ctx.say(t("key.scheduleSaved"));
    } catch (e) {
      this.ctx.say(faultText(asApiError(e)), "negative");
    } finally {
      this.busy = "";
    }
  }

  private async showYaml(k: ServiceKey): Promise<void> {
    const { code } = await import("../ui/dialogs.js");
    const { name, namespace } = k.metadata;
    await code(this.ctx, {
      heading: t("action.yaml"),
      text: toYaml({ apiVersion: "openkcm.io/v1alpha1", kind: "ServiceEncryptionKey", metadata: { name, namespace }, spec: k.spec }),
      file: `${name.slice(0, 60)}.yaml`,
    });
  }

  private schedule(k: ServiceKey): TemplateResult {
    const now = k.spec.rotationSchedule ?? "";
    const denied = this.denied("patch", "ServiceEncryptionKey", k.metadata.namespace);
    if (!this.editing) {
      return html`<span class="row">
        <span>${scheduleText(now)}</span>
        <ui5-button
          id="edit-schedule"
          style="margin-block: -0.5rem"
          design="Transparent"
          icon="edit"
          tooltip=${denied ?? t("key.editSchedule")}
          ?disabled=${!!denied}
          @click=${() => {
            this.draft = now;
            this.editing = true;
          }}
        ></ui5-button>
      </span>`;
    }
    const ok = !!parseSchedule(this.draft);
    return html`<div class="schedule">
      <ui5-input
        id="schedule"
        accessible-name=${t("key.schedule")}
        .value=${this.draft}
        @input=${(e: Event) => (this.draft = (e.target as HTMLInputElement).value)}
        @keydown=${(e: KeyboardEvent) => {
          if (e.key === "Enter") void this.saveSchedule(k);
          if (e.key === "Escape") this.editing = false;
        }}
      ></ui5-input>
      ${this.button({ id: "save-schedule", text: t("action.save"), design: "Emphasized", disabled: !ok, busy: this.busy === "schedule", click: () => void this.saveSchedule(k) })}
      <ui5-button design="Transparent" @click=${() => (this.editing = false)}>${t("action.cancel")}</ui5-button>
      <p role="status" class="small ${ok ? "muted" : "row"}">${ok ? nothing : html`<ui5-icon name="status-critical" style="color: var(--sapCriticalElementColor)"></ui5-icon>`}${t("schedule.grammar")}</p>
    </div>`;
  }

  private edges(k: ServiceKey): TemplateResult {
    const e = k.status?.edges ?? {};
    const total = e.total ?? 0;
    const off = keyState(k) !== "Active" || k.spec.state === "Disabled";
    const n = off ? (e.evicted ?? 0) : (e.current ?? 0);
    const c = condition(k, off ? "Evicted" : "Distributed");
    // How long an eviction took is the provider's word: from its decision to the last edge's acknowledgement.
    const took = off && n >= total ? / edges in ([\d.]+) ms$/.exec(c?.message ?? "")?.[1] : undefined;
    const label = took ? t("keys.edgesEvictedIn", { n, total, ms: Number(took) }) : t(off ? "keys.edgesEvicted" : "keys.edgesCurrent", { n, total });
    return html`<section class="card" aria-labelledby="edges">
      <div class="head"><h3 id="edges" class="grow">${t("key.edges")}</h3>
        ${total === 0 ? nothing : n >= total ? tag("positive", "status-positive", t("key.edgesAll")) : tag("critical", "status-critical", t("key.edgesSome"))}</div>
      ${total === 0
        ? html`<p class="muted">${t("key.noEdges")}</p>`
        : html`<div class="stack" style="gap: 0.5rem">
            <p role="status">${label}${this.pending?.took !== undefined && n >= total ? html` <span class="muted">${t("key.took", { ms: Math.round(this.pending.took) })}</span>` : nothing}</p>
            ${progress(n, total, label)}
            ${c?.message && !took ? html`<p class="muted small"><bdi>${c.message}</bdi></p>` : nothing}
          </div>`}
    </section>`;
  }

  private usage(k: ServiceKey): TemplateResult {
    const { name, namespace } = k.metadata;
    const tenant = this.ctx.fleet.tenants.items.values().next().value?.metadata.name ?? "TENANT";
    const sample = `kubectl create token app -n ${namespace} --audience openkcm-edge > token
echo "hello" | openkcm-edge encrypt --socket /run/openkcm/edge.sock \\
  --token-file token --tenant ${tenant} --key ${namespace}/${name} > secret
openkcm-edge decrypt --socket /run/openkcm/edge.sock \\
  --token-file token --tenant ${tenant} --key ${namespace}/${name} < secret`;
    return html`<section class="card" aria-labelledby="usage">
      <div class="head">
        <h3 id="usage" class="grow">${t("key.usage")}</h3>
        <ui5-button
          design="Transparent"
          icon="copy"
          @click=${async () => {
            const { copy } = await import("../ui/bits.js");
            const ok = await copy(sample);
            this.ctx.say(t(ok ? "action.copied" : "action.copyFailed"), ok ? "positive" : "negative");
          }}
          >${t("action.copy")}</ui5-button
        >
      </div>
      <p class="muted" style="margin-block-end: 0.75rem">${t("key.usageText")}</p>
      <pre dir="ltr" tabindex="0" aria-label=${t("key.usage")}>${sample}</pre>
    </section>`;
  }

  private versions(k: ServiceKey): TemplateResult {
    const versions = k.status?.versions ?? [];
    return html`<section class="card" aria-labelledby="versions">
      <div class="head"><h3 id="versions" class="grow">${t("key.versions")}</h3><span class="muted small">${t("key.versionsNewest")}</span></div>
      ${versions.length === 0
        ? html`<p class="muted">${t("key.noVersions")}</p>`
        : html`<ol class="timeline">
            ${versions.map((v) => {
              const current = v.version === k.status?.currentVersion;
              return html`<li class=${current ? "now" : ""}>
                <ui5-icon class="dot" name=${current ? "status-positive" : "history"}></ui5-icon>
                <div class="row">
                  <strong class="mono">${v.version}</strong>
                  ${current ? tag("positive", "accept", t("key.current")) : v.state ? html`<span class="muted">${tv("versionState", v.state)}</span>` : nothing}
                </div>
                <p class="muted small">
                  ${absolute(v.created, true)}${v.accountKeyVersion !== undefined ? html` · ${t("key.wrappedBy", { version: `v${v.accountKeyVersion}` })}` : nothing}
                </p>
              </li>`;
            })}
          </ol>`}
    </section>`;
  }

  protected override render() {
    const { keys } = this.ctx.fleet;
    if (keys.phase === "failed") return this.failure(keys.error);
    const k = this.key;
    if (!k) {
      if (keys.phase === "loading") return skeleton(6, "5rem");
      return empty({ icon: "search", title: t("key.gone"), text: t("key.goneText"), action: html`<ui5-button @click=${() => this.go(["keys"])}>${t("key.back")}</ui5-button>` });
    }
    const state = keyState(k);
    const denied = this.denied("patch", "ServiceEncryptionKey", k.metadata.namespace);
    const off = k.spec.state === "Disabled";
    const ready = condition(k, "Ready");
    const recovered = condition(k, "Recovered");
    const pending = rotationPending(k);
    const rotatable = state === "Active" && !off;
    return html`<article class="stack" aria-labelledby="name">
      <div class="small">${this.link(["keys"], t("tab.keys"))} <span class="muted">/ <bdi>${k.metadata.namespace}</bdi></span></div>
      <div class="hero">
        <div class="grow" style="flex-basis: 20rem">
          <h2 id="name"><bdi>${k.metadata.name}</bdi></h2>
          <div class="row" style="margin-block-start: 0.5rem">
            ${badge(state)} ${pending ? tag("info", "refresh", t("keys.rotating")) : nothing}
            ${recovered?.status === "True" ? tag("info", "history", t("key.recovered")) : nothing}
          </div>
        </div>
        <div class="row">
          ${this.button({ id: "rotate", text: t("action.rotate"), icon: "refresh", design: "Emphasized", denied, disabled: !rotatable, busy: this.busy === "rotate", click: () => void this.rotate(k) })}
          ${this.button({ id: "toggle", text: off ? t("action.enable") : t("action.disable"), denied, busy: this.busy === "enable", click: () => void this.toggle(k) })}
          ${this.button({ id: "yaml", text: t("action.yaml"), design: "Transparent", click: () => void this.showYaml(k) })}
          ${this.button({ id: "delete", text: t("action.delete"), icon: "delete", design: "Transparent", denied: this.denied("delete", "ServiceEncryptionKey", k.metadata.namespace), click: () => void this.erase(k) })}
        </div>
      </div>
      ${denied ? html`<p class="muted small"><ui5-icon name="locked"></ui5-icon> ${denied}</p>` : nothing}
      ${ready?.status === "False" && state !== "Disabled"
        ? html`<ui5-message-strip design=${state === "Unavailable" ? "Negative" : "Critical"} hide-close-button>
            ${ready.reason ? `${tv("reason", ready.reason)}: ` : ""}${ready.message ?? ""}
          </ui5-message-strip>`
        : nothing}
      <section class="card" aria-label=${t("key.facts")}>
        <dl class="facts">
          ${fact("col.account", this.accountLink(k.spec.accountRef.name))}
          ${fact("col.version", html`<span class="mono">${k.status?.currentVersion ?? "–"}</span>`)}
          ${fact("key.schedule", this.schedule(k))} ${fact("col.next", state === "Active" ? when(k.status?.nextRotation, this.now, true) : "–")}
          ${fact("key.last", when(k.status?.lastRotation, this.now, true))}
          ${fact("col.clients", number(k.status?.activeClients ?? 0))} ${fact("key.algorithm", html`<span class="mono">${k.spec.algorithm ?? "AES-GCM-256"}</span>`)}
          ${fact("key.created", when(k.metadata.creationTimestamp, this.now, true))}
        </dl>
      </section>
      <div class="columns">
        <div class="stack">
          ${this.edges(k)}
          <section class="card" aria-labelledby="events">
            <div class="head"><h3 id="events" class="grow">${t("key.events")}</h3></div>
            ${history(this.events, this.eventsFailed, this.now)}
          </section>
          ${this.usage(k)}
        </div>
        <div class="stack">
          ${this.versions(k)}
          <section class="card" aria-labelledby="clients">
            <div class="head"><h3 id="clients" class="grow">${t("key.clients")}</h3></div>
            <ul class="stack" style="gap: 0.75rem">
              <li><p>${t("key.clientsOwn")}</p><p class="muted small mono"><bdi>system:serviceaccount:${k.metadata.namespace}:*</bdi></p></li>
              ${(k.spec.clients ?? []).map((c) => html`<li><p class="mono"><bdi>${c.subject}</bdi></p><p class="muted small"><bdi>${c.issuer}</bdi></p></li>`)}
            </ul>
          </section>
        </div>
      </div>
    </article>`;
  }
}

export type { Key };
