import "@ui5/webcomponents/dist/Button.js";
import "@ui5/webcomponents/dist/Icon.js";
import "@ui5/webcomponents/dist/MessageStrip.js";
import "./ui/icons.js";
import "./screens/overview.js";
import { css, html, LitElement, nothing, type TemplateResult } from "lit";
import { customElement, state } from "lit/decorators.js";
import { Fleet, Rights, type Ctx } from "./ctx.js";
import { GraphqlPort } from "./data/graphql.js";
import type { DataPort } from "./data/port.js";
import { RestPort } from "./data/rest.js";
import { shared } from "./data/shared.js";
import { absolute, lang, setLocale, t, type Key } from "./i18n/index.js";
import { pathOf, type Session } from "./luigi/session.js";
import { badge, empty } from "./ui/bits.js";
import { styles } from "./ui/styles.js";
import { applyTheme } from "./ui/theme.js";

type Tab = "overview" | "accounts" | "keys" | "topology";
const TABS: Tab[] = ["overview", "accounts", "keys", "topology"];

/** Milliseconds out of sight after which the streams are closed; a list brings everything up to date on return. */
const HIDDEN_FOR = 5 * 60_000;

/** Screens by the first segment; all but the first one are loaded when they are wanted. */
const LOAD: Record<string, () => Promise<unknown>> = {
  accounts: () => import("./screens/accounts.js"),
  account: () => import("./screens/account.js"),
  "account-wizard": () => import("./screens/account-wizard.js"),
  keys: () => import("./screens/keys.js"),
  key: () => import("./screens/key.js"),
  "key-wizard": () => import("./screens/key-wizard.js"),
  topology: () => import("./screens/topology.js"),
};

@customElement("kc-app")
export class App extends LitElement {
  @state() private revision = 0;
  @state() private now = Date.now();
  @state() private offline = !navigator.onLine;
  @state() private toast?: { text: string; tone: "positive" | "negative" };
  @state() private readonly loaded = new Set<string>(["overview"]);
  private ctx?: Ctx;
  private closePort: () => void = () => undefined;
  private address = "";
  private toastTimer?: ReturnType<typeof setTimeout>;
  private shown = "";

  static override styles = [
    styles,
    css`
      :host {
        min-height: 100vh;
        background: var(--sapBackgroundColor);
      }
      .bar {
        background: var(--sapObjectHeader_Background);
        padding: 1rem 2rem 0;
        border-block-end: 1px solid var(--sapObjectHeader_BorderColor, var(--sapGroup_TitleBorderColor));
        box-shadow: var(--sapContent_HeaderShadow, none);
      }
      .title {
        display: flex;
        flex-wrap: wrap;
        align-items: center;
        gap: 0.5rem 0.75rem;
        min-height: 2.25rem;
      }
      .title h1 {
        font-size: var(--sapObjectHeader_Title_FontSize, var(--sapFontHeader2Size));
        font-family: var(--sapObjectHeader_Title_FontFamily, var(--sapFontHeaderFamily));
        color: var(--sapObjectHeader_Title_TextColor, var(--sapTitleColor));
      }
      nav {
        display: flex;
        gap: 0.25rem;
        margin-block-start: 0.5rem;
        margin-inline-start: -0.75rem;
        overflow-x: auto;
      }
      nav a {
        position: relative;
        padding: 0.625rem 0.75rem 0.75rem;
        color: var(--sapTab_TextColor, var(--sapTextColor));
        white-space: nowrap;
      }
      nav a:hover {
        text-decoration: none;
        color: var(--sapLinkColor);
      }
      nav a:focus-visible {
        outline-offset: -3px;
      }
      nav a[aria-current] {
        color: var(--sapTab_Selected_TextColor, var(--sapSelectedColor));
        font-family: var(--sapFontBoldFamily);
      }
      nav a[aria-current]::after {
        content: "";
        position: absolute;
        inset-inline: 0.75rem;
        bottom: 0;
        height: 0.1875rem;
        border-radius: 0.1875rem 0.1875rem 0 0;
        background: var(--sapTab_Selected_Indicator_Color, var(--sapSelectedColor));
      }
      main {
        padding: 1.5rem 2rem 3rem;
        max-width: 100rem;
        margin-inline: auto;
        outline: none;
      }
      .strips {
        display: flex;
        flex-direction: column;
        gap: 0.5rem;
        padding: 1rem 2rem 0;
        max-width: 100rem;
        margin-inline: auto;
      }
      .live {
        display: inline-flex;
        align-items: center;
        gap: 0.375rem;
        color: var(--sapContent_LabelColor);
        font-size: var(--sapFontSmallSize);
        margin-inline-start: auto;
      }
      .live i {
        width: 0.5rem;
        height: 0.5rem;
        border-radius: 50%;
        background: var(--sapPositiveElementColor, var(--sapPositiveColor));
      }
      .live.stale i {
        background: var(--sapCriticalElementColor, var(--sapCriticalColor));
      }
      .toast {
        position: fixed;
        inset-block-end: 2rem;
        inset-inline: 0;
        margin: 0 auto;
        width: fit-content;
        max-width: min(36rem, calc(100vw - 2rem));
        padding: 0.75rem 1rem;
        border-radius: 0.75rem;
        background: var(--sapList_Background);
        color: var(--sapList_TextColor);
        border: 1px solid var(--sapContent_ForegroundBorderColor, var(--sapList_BorderColor));
        box-shadow: var(--sapContent_Shadow2);
        z-index: 10;
        overflow-wrap: anywhere;
        display: flex;
        gap: 0.5rem;
        align-items: center;
      }
      .toast ui5-icon.positive {
        color: var(--sapPositiveElementColor, var(--sapPositiveColor));
      }
      .toast ui5-icon.negative {
        color: var(--sapNegativeElementColor, var(--sapNegativeColor));
      }
      @media (max-width: 40rem) {
        .bar,
        main,
        .strips {
          padding-inline: 1rem;
        }
      }
    `,
  ];

  constructor(private readonly session: Session) {
    super();
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.session.addEventListener("change", () => void this.follow());
    window.addEventListener("online", () => {
      this.offline = false;
      this.ctx?.fleet.retry();
    });
    window.addEventListener("offline", () => (this.offline = true));
    setInterval(() => (this.now = Date.now()), 10_000);
    // The gateway has few streams for everybody: a page that nobody looks at gives its own back.
    let idle: ReturnType<typeof setTimeout> | undefined;
    document.addEventListener("visibilitychange", () => {
      clearTimeout(idle);
      if (document.hidden) idle = setTimeout(() => this.ctx?.fleet.close(), HIDDEN_FOR);
      else this.ctx?.fleet.start();
    });
    void this.follow();
  }

  /** Takes what the shell says now: language, theme, workspace, address. */
  private async follow(): Promise<void> {
    // The lists are on their way while texts, theme and screen are loaded.
    this.connect();
    const screen = this.screenName();
    await Promise.all([setLocale(this.session.locale), applyTheme(this.session.theme), this.loaded.has(screen) || LOAD[screen]?.()]);
    this.loaded.add(screen);
    document.documentElement.lang = lang();
    this.revision++;
  }

  /** One port and one fleet per workspace; another workspace gets new ones. */
  private connect(): void {
    const { graphqlUrl, restUrl, namespace } = this.session;
    const address = `${graphqlUrl ?? ""} ${restUrl ?? ""} ${namespace ?? ""}`;
    if (address !== this.address) {
      this.address = address;
      this.ctx?.fleet.close();
      this.ctx = undefined;
      this.closePort();
      const own: DataPort | undefined = graphqlUrl
        ? new GraphqlPort(graphqlUrl, this.session)
        : restUrl
          ? new RestPort(restUrl, this.session)
          : undefined;
      if (own) {
        const { port, close } = shared(own, `${graphqlUrl ?? restUrl} ${this.session.user ?? ""}`);
        this.closePort = close;
        const fleet = new Fleet(port, namespace);
        const redraw = () => {
          // The shell's newer token may come before the refusal of the old one has been noticed.
          if (!this.session.expired && fleet.all.some((c) => c.error?.fault === "session")) fleet.retry();
          this.revision++;
        };
        fleet.addEventListener("change", () => {
          if (this.ctx?.fleet === fleet) redraw();
        });
        this.ctx = { session: this.session, port, fleet, rights: new Rights(port, redraw), say: (text, tone) => this.say(text, tone) };
        fleet.start();
      }
    } else if (!this.session.expired && this.ctx?.fleet.all.some((c) => c.error?.fault === "session")) {
      this.ctx.fleet.retry();
    }
  }

  private say(text: string, tone: "positive" | "negative" = "positive"): void {
    clearTimeout(this.toastTimer);
    this.toast = { text, tone };
    this.toastTimer = setTimeout(() => (this.toast = undefined), tone === "negative" ? 12_000 : 5_000);
  }

  private get tab(): Tab {
    const first = this.session.route.path[0] as Tab | undefined;
    const start: Tab = this.session.namespace ? "keys" : "overview";
    return first && TABS.includes(first) ? first : start;
  }

  private screenName(): string {
    const { path } = this.session.route;
    const tab = this.tab;
    if (tab === "accounts" && path[1]) return path[1] === "new" && path.length === 2 ? "account-wizard" : "account";
    if (tab === "keys" && path[1]) return path[1] === "new" && path.length === 2 ? "key-wizard" : path[2] ? "key" : "keys";
    return tab;
  }

  private screen(): TemplateResult {
    const { route } = this.session;
    const name = this.screenName();
    if (!this.ctx) return empty({ icon: "chain-link", title: t("load.noWorkspace"), text: t("load.noWorkspaceText") });
    if (!this.loaded.has(name)) return html``;
    const at = { ctx: this.ctx, path: route.path, params: route.params, revision: this.revision, now: this.now };
    switch (name) {
      case "accounts":
        return html`<kc-accounts .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-accounts>`;
      case "account":
        return html`<kc-account .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-account>`;
      case "account-wizard":
        return html`<kc-account-wizard .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-account-wizard>`;
      case "keys":
        return html`<kc-keys .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-keys>`;
      case "key":
        return html`<kc-key .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-key>`;
      case "key-wizard":
        return html`<kc-key-wizard .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-key-wizard>`;
      case "topology":
        return html`<kc-topology .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-topology>`;
      default:
        return html`<kc-overview .ctx=${at.ctx} .path=${at.path} .params=${at.params} .revision=${at.revision} .now=${at.now}></kc-overview>`;
    }
  }

  private strips(): TemplateResult | typeof nothing {
    const found: TemplateResult[] = [];
    const strip = (design: string, text: string, retry = false) =>
      found.push(
        html`<ui5-message-strip design=${design} hide-close-button>
          ${text}${retry ? html` <a href="#" @click=${(e: Event) => (e.preventDefault(), this.ctx?.fleet.retry())}>${t("load.retry")}</a>` : nothing}
        </ui5-message-strip>`,
      );
    const fleet = this.ctx?.fleet;
    const session = this.session.expired || fleet?.all.some((c) => c.error?.fault === "session");
    if (session) strip("Negative", `${t("session.expired")} ${t("session.expiredText")}`);
    else if (this.offline) strip("Critical", t("load.offline"));
    else {
      const since = fleet?.all.map((c) => c.staleSince).filter((s) => s !== undefined);
      if (since?.length) strip("Critical", t("load.stale", { time: absolute(Math.min(...since), true) }), true);
    }
    const tenant = fleet?.tenants.items.values().next().value;
    if (tenant?.status?.phase === "Suspended") {
      const why = tenant.status.conditions?.find((c) => c.type === "Ready" && c.status === "False");
      strip("Negative", why?.message ? `${t("tenant.suspended")} ${why.message}` : t("tenant.suspended"));
    } else if (tenant?.status?.recovered && this.tab === "overview") {
      strip("Positive", t("tenant.recovered"));
    }
    return found.length ? html`<div class="strips">${found}</div>` : nothing;
  }

  protected override render() {
    const fleet = this.ctx?.fleet;
    const tenant = fleet?.tenants.items.values().next().value;
    const stale = this.offline || fleet?.all.some((c) => c.staleSince !== undefined || c.phase === "failed");
    const loading = fleet?.all.some((c) => c.phase === "loading");
    const hidden = fleet?.all.every((c) => c.phase === "failed");
    const tabs = this.session.namespace ? (["keys"] as Tab[]) : TABS;
    return html`
      <header class="bar">
        <div class="title">
          <h1>${this.session.namespace ? t("tab.keys") : t("app.title")}</h1>
          <bdi class="muted mono">${this.session.namespace ?? this.session.workspace}</bdi>
          ${tenant ? badge(tenant.status?.phase ?? "Provisioning") : nothing}
          ${fleet && !loading && !hidden
            ? html`<span class="live ${stale ? "stale" : ""}" title=${t(stale ? "live.staleText" : "live.liveText")}><i></i>${t(stale ? "live.stale" : "live.live")}</span>`
            : nothing}
        </div>
        <nav aria-label=${t("app.sections")}>
          ${tabs.map(
            (tab) =>
              html`<a
                href="#${pathOf([tab])}"
                aria-current=${tab === this.tab ? "page" : nothing}
                @click=${(e: MouseEvent) => {
                  if (e.ctrlKey || e.metaKey || e.shiftKey) return;
                  e.preventDefault();
                  this.session.navigate([tab]);
                }}
                >${t(`tab.${tab}` as Key)}</a
              >`,
          )}
        </nav>
      </header>
      ${this.strips()}
      <main tabindex="-1">${this.screen()}</main>
      <div role="status" aria-live="polite">
        ${this.toast
          ? html`<div class="toast">
              <ui5-icon class=${this.toast.tone} name=${this.toast.tone === "positive" ? "sys-enter-2" : "error"}></ui5-icon><span>${this.toast.text}</span>
            </div>`
          : nothing}
      </div>
    `;
  }

  /** A new screen starts at its top and takes the focus; an update of the same one moves nothing. */
  protected override updated(): void {
    const at = pathOf(this.session.route.path);
    if (this.shown !== at) {
      const first = this.shown === "";
      this.shown = at;
      if (!first) {
        window.scrollTo(0, 0);
        this.renderRoot.querySelector("main")?.focus({ preventScroll: true });
      }
    }
  }
}
