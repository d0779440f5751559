import * as LuigiClient from "@luigi-project/client";
import { gatewayUrl } from "../data/graphql.js";
import type { TokenSource } from "../data/port.js";
import type { Params } from "../model/filter.js";
import { mapTheme, type Theme } from "./theme.js";
import { expiry, newest } from "./token.js";

/** What the portal puts into the context; every member may be missing. */
interface PortalContext {
  token?: string;
  kcpPath?: string;
  namespaceId?: string;
  openkcmScope?: string;
  userEmail?: string;
  portalContext?: { crdGatewayApiUrl?: string; kcpWorkspaceUrl?: string };
}

/** The node parameter that changes when the shell is asked for a newer token; it means nothing else. */
const RENEW = "r";

/** A value that still starts with a colon is a placeholder that nobody filled in. */
const given = (v: unknown): string | undefined => (typeof v === "string" && v && !v.startsWith(":") ? v : undefined);

export interface Route {
  /** Segments after the page's root, decoded. */
  path: string[];
  params: Params;
}

export function parsePath(hash: string): string[] {
  return hash
    .replace(/^#?\/*/, "")
    .split("?")[0]!
    .split("/")
    .filter(Boolean)
    .map((s) => {
      try {
        return decodeURIComponent(s);
      } catch {
        return s;
      }
    });
}

const canonical = (p: Params): string => JSON.stringify(Object.entries(p).sort(([a], [b]) => (a < b ? -1 : 1)));

export const pathOf = (path: string[]): string => `/${path.map(encodeURIComponent).join("/")}`;

/** The page's side of the shell: context, token, theme, language, address. Tells `change` of anything new. */
export class Session extends EventTarget implements TokenSource {
  private context: PortalContext = {};
  route: Route = { path: [], params: {} };
  theme: Theme = "sap_horizon";
  locale = "en";
  /** Set when the shell had no newer token after a refusal. */
  expired = false;
  /** The token that was refused when the shell had no newer one. */
  private refused?: string;
  /** Node parameters that the shell has said or that we set, newest last. */
  private heard: string[] = [];
  private backdrops = 0;
  private renewal?: Promise<boolean>;

  /** Resolves when the shell has spoken; never, when there is no shell. */
  start(): Promise<void> {
    return new Promise((resolve) => {
      LuigiClient.addInitListener((context: unknown) => {
        this.take(context);
        resolve();
      }, true);
      LuigiClient.addContextUpdateListener((context: unknown) => this.take(context));
      window.addEventListener("hashchange", () => this.take(LuigiClient.getContext()));
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.take(LuigiClient.getContext()));
    });
  }

  private take(context: unknown): void {
    this.context = (context ?? {}) as PortalContext;
    const token = this.token();
    if (token && token !== this.refused) this.expired = false;
    this.takeRoute();
    const shown = LuigiClient.uxManager().getCurrentTheme() || new URLSearchParams(location.search).get("sap-theme");
    this.theme = mapTheme(shown, matchMedia("(prefers-color-scheme: dark)").matches);
    this.locale = LuigiClient.uxManager().getCurrentLocale() || navigator.language || "en";
    this.dispatchEvent(new Event("change"));
  }

  /**
   * What Luigi says of the node parameters may be older than what we set: it does not update them for our own changes, and
   * echoes of those come late. So its word counts when the path is another one, or when it says something that is neither
   * what it said before nor what we set ourselves.
   */
  private takeRoute(): void {
    const params: Params = {};
    for (const [k, v] of Object.entries(LuigiClient.getNodeParams(true) ?? {})) if (k !== RENEW && v !== undefined && v !== "") params[k] = String(v);
    const path = parsePath(location.hash);
    const said = canonical(params);
    const moved = pathOf(path) !== pathOf(this.route.path);
    if (moved || !this.heard.includes(said)) this.route = { path, params };
    this.hear(said);
  }

  private hear(params: string): void {
    this.heard = [...this.heard.filter((h) => h !== params), params].slice(-30);
  }

  /** Read at each request and never kept: both copies that Luigi holds can be stale. */
  token(): string | undefined {
    const auth = LuigiClient.getToken() as unknown as string | undefined;
    return newest(given((LuigiClient.getContext() as PortalContext)?.token), given(auth));
  }

  /** Several requests that fail together ask the shell once. */
  renew(): Promise<boolean> {
    this.renewal ??= this.askShell().finally(() => {
      this.renewal = undefined;
    });
    return this.renewal;
  }

  /** A navigation that changes nothing is the only thing that makes Luigi send the context anew. */
  private nudge(): void {
    LuigiClient.addNodeParams({ ...this.route.params, [RENEW]: String(Date.now() % 100_000) }, false);
  }

  private async askShell(): Promise<boolean> {
    const before = this.token();
    const updated = new Promise<void>((resolve) => {
      const finish = () => {
        clearTimeout(timer);
        clearInterval(again);
        LuigiClient.removeContextUpdateListener(id);
        resolve();
      };
      const timer = setTimeout(finish, 5_000);
      // The shell may be about to refresh, and does not tell when it has: an answer with the old token is no answer.
      const again = setInterval(() => this.nudge(), 1_000);
      // Updates about other things come too, and the first one at once, with what is already known.
      let id = "";
      id = LuigiClient.addContextUpdateListener(() => {
        if (id && this.token() !== before) finish();
      });
    });
    this.nudge();
    await updated;
    const fresh = this.token();
    const better = !!fresh && fresh !== before && expiry(fresh) >= expiry(before);
    if (!better) {
      this.expired = true;
      this.refused = fresh;
      this.dispatchEvent(new Event("change"));
    }
    return better;
  }

  /** Only the namespace's keys, on the namespace's page. */
  get namespace(): string | undefined {
    return this.context.openkcmScope === "namespace" ? given(this.context.namespaceId) : undefined;
  }
  get restUrl(): string | undefined {
    return given(this.context.portalContext?.kcpWorkspaceUrl);
  }
  get graphqlUrl(): string | undefined {
    return gatewayUrl(this.context.portalContext?.crdGatewayApiUrl, given(this.context.kcpPath));
  }
  get workspace(): string {
    return given(this.context.kcpPath) ?? "";
  }
  get user(): string | undefined {
    return given(this.context.userEmail);
  }

  navigate(path: string[], params: Params = {}): void {
    const changed = pathOf(path) !== pathOf(this.route.path);
    this.route = { path, params };
    this.hear(canonical(params));
    history.replaceState(history.state, "", `#${pathOf(path)}`);
    if (changed) {
      LuigiClient.linkManager().fromVirtualTreeRoot().withoutSync().withParams(params).navigate(pathOf(path));
    } else {
      this.replaceParams(params);
    }
    this.dispatchEvent(new Event("change"));
  }

  /** Filters change without a new entry in the browser's history. */
  replaceParams(params: Params): void {
    const cleared = Object.fromEntries([...Object.keys(LuigiClient.getNodeParams() ?? {}), ...Object.keys(this.route.params)].map((k) => [k, undefined]));
    this.route = { ...this.route, params };
    this.hear(canonical(params));
    LuigiClient.addNodeParams({ ...cleared, ...params } as Record<string, string>, false);
    this.dispatchEvent(new Event("change"));
  }

  dialogOpened(): void {
    if (this.backdrops++ === 0) LuigiClient.uxManager().addBackdrop();
  }
  dialogClosed(): void {
    if (this.backdrops > 0 && --this.backdrops === 0) LuigiClient.uxManager().removeBackdrop();
  }
  ready(): void {
    LuigiClient.uxManager().hideLoadingIndicator();
  }
}
