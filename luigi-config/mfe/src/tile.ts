import { css, html, LitElement, nothing } from "lit";
import { state } from "lit/decorators.js";
import { Fleet } from "./ctx.js";
import { gatewayUrl, GraphqlPort } from "./data/graphql.js";
import type { TokenSource } from "./data/port.js";
import { RestPort } from "./data/rest.js";
import { shared } from "./data/shared.js";
import { number, setLocale, t, tv, type Key } from "./i18n/index.js";
import { newest } from "./luigi/token.js";
import { attention, overview } from "./model/fleet.js";

interface Context extends Record<string, unknown> {
  token?: string;
  kcpPath?: string;
  userEmail?: string;
  locale?: string;
  portalContext?: { crdGatewayApiUrl?: string; kcpWorkspaceUrl?: string };
}
interface Client {
  linkManager?(): { fromParent(): { navigate(path: string): void } };
  getCurrentLocale?(): string;
}
/** Luigi's core, which shares the page with a web component. */
interface Core {
  auth(): { store: { getAuthData(): { accessToken?: string } | undefined } };
  i18n(): { getCurrentLocale(): string };
}

/**
 * The dashboard's tile: the same model and data as the pages, and nothing of UI5. It lives in the shell's own document, so it
 * registers no element but itself, sets no theme, and takes its colours from the shell's parameters.
 */
export default class OpenKcmTile extends LitElement implements TokenSource {
  @state() private revision = 0;
  private fleet?: Fleet;
  private address = "";
  private closePort: () => void = () => undefined;
  private held: Context = {};
  private client?: Client;

  static override styles = css`
    :host {
      display: block;
      padding: 1rem;
      color: var(--sapTextColor, #131e29);
      font-family: var(--sapFontFamily, "72", Arial, sans-serif);
      font-size: var(--sapFontSize, 0.875rem);
    }
    section {
      max-width: 34rem;
      padding: 1rem;
      border: 1px solid var(--sapTile_BorderColor, transparent);
      border-radius: var(--sapTile_BorderCornerRadius, 1rem);
      background: var(--sapTile_Background, #fff);
      box-shadow: var(--sapContent_Shadow0, 0 0 0.125rem 0 #0003);
    }
    header {
      display: flex;
      justify-content: space-between;
      gap: 1rem;
      align-items: baseline;
      margin-block-end: 1rem;
    }
    h2 {
      margin: 0;
      font-size: 1rem;
      color: var(--sapTile_TitleTextColor, inherit);
    }
    ul {
      display: grid;
      grid-template-columns: repeat(4, 1fr);
      gap: 0.75rem;
      margin: 0;
      padding: 0;
      list-style: none;
    }
    strong {
      display: block;
      font-size: 1.5rem;
      font-weight: normal;
      font-variant-numeric: tabular-nums;
    }
    .bad strong {
      color: var(--sapNegativeTextColor, #aa0808);
    }
    .muted {
      color: var(--sapContent_LabelColor, #556b82);
      font-size: var(--sapFontSmallSize, 0.75rem);
    }
    p {
      margin: 0.75rem 0 0;
    }
    a {
      color: var(--sapLinkColor, #0064d9);
    }
    .dot {
      display: inline-block;
      width: 0.625rem;
      height: 0.625rem;
      border-radius: 50%;
      margin-inline-end: 0.375rem;
      background: var(--sapNeutralElementColor, #788fa6);
    }
    .Active {
      background: var(--sapPositiveElementColor, #30914c);
    }
    .Suspended {
      background: var(--sapNegativeElementColor, #f53232);
    }
  `;

  /** Luigi sets it before `LuigiClient`, and again with every change. */
  override set context(value: Context) {
    this.held = value ?? {};
    this.connect();
  }
  override get context(): Context {
    return this.held;
  }
  set LuigiClient(value: Client) {
    this.client = value;
    this.connect();
  }

  private get core(): Core | undefined {
    return (window as unknown as { Luigi?: Core }).Luigi;
  }

  token(): string | undefined {
    return newest(this.held.token, this.core?.auth().store.getAuthData()?.accessToken);
  }
  /** A tile asks for nothing: the shell's refresh reaches its store by itself. */
  renew(): Promise<boolean> {
    return Promise.resolve(false);
  }

  override connectedCallback(): void {
    super.connectedCallback();
    this.fleet?.start();
  }
  override disconnectedCallback(): void {
    super.disconnectedCallback();
    this.fleet?.close();
  }

  private connect(): void {
    const locale = this.core?.i18n().getCurrentLocale() ?? this.client?.getCurrentLocale?.() ?? navigator.language;
    void setLocale(locale).then((changed) => changed && this.revision++);
    const graph = gatewayUrl(this.held.portalContext?.crdGatewayApiUrl, this.held.kcpPath);
    const rest = this.held.portalContext?.kcpWorkspaceUrl;
    const address = graph ?? rest ?? "";
    if (!address || address === this.address) return;
    this.address = address;
    this.fleet?.close();
    this.closePort();
    const { port, close } = shared(graph ? new GraphqlPort(graph, this) : new RestPort(rest!, this), `${address} ${this.held.userEmail ?? ""}`);
    this.closePort = close;
    this.fleet = new Fleet(port);
    this.fleet.addEventListener("change", () => this.revision++);
    if (this.isConnected) this.fleet.start();
  }

  /** The page is the dashboard's neighbour: both belong to the workspace. */
  private readonly open = (e: Event): void => {
    e.preventDefault();
    this.client?.linkManager?.().fromParent().navigate("openkcm");
  };

  protected override render() {
    const f = this.fleet;
    const failed = f?.all.find((c) => c.phase === "failed");
    const tenant = f?.tenants.items.values().next().value;
    const phase = tenant?.status?.phase ?? "Provisioning";
    const loaded = f && f.keys.phase === "ready" && f.accounts.phase === "ready";
    const now = Date.now();
    const o = loaded ? overview(f.accounts.items.values(), f.keys.items.values(), now) : undefined;
    const todo = loaded ? attention(f.accounts.items.values(), f.keys.items.values(), now).length : 0;
    const cell = (label: Key, n: number, bad = false) => html`<li class=${bad ? "bad" : ""}><strong>${number(n)}</strong><span class="muted">${t(label)}</span></li>`;
    return html`<section aria-label=${t("app.title")}>
      <header>
        <h2>${t("app.title")}</h2>
        ${tenant ? html`<span><i class="dot ${phase}"></i>${tv("state", phase)}</span>` : nothing}
      </header>
      ${failed
        ? html`<p class="muted" role="status">${t(`fault.${failed.error?.fault ?? "server"}` as Key)}</p>`
        : o
          ? html`<ul>
                ${cell("tile.accounts", o.accounts.ready)} ${cell("tile.keys", o.keys.active)} ${cell("tile.due24", o.due["24h"])}
                ${cell("overview.todo", todo, todo > 0)}
              </ul>
              ${o.accounts.unavailable ? html`<p class="muted">${t("tile.rootsDown")}: ${number(o.accounts.unavailable)}</p>` : nothing}
              ${this.client?.linkManager ? html`<p><a href="#" @click=${this.open}>${t("tile.open")}</a></p>` : nothing}`
          : html`<p class="muted" role="status">${t("load.loading")} …</p>`}
    </section>`;
  }
}
