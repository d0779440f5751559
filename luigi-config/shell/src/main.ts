// A small Luigi shell for a local set-up. It reads the very ContentConfiguration that the portal reads, and hands the
// pages the same context, token, theme and language, also with the portal's way of refreshing a token.

interface Node {
  entityType: string;
  pathSegment: string;
  label: string;
  url: string;
  icon?: string;
  order?: number;
  category?: { id: string; label: string; icon?: string; collapsible?: boolean };
  virtualTree?: boolean;
  keepSelectedForChildren?: boolean;
  loadingIndicator?: object;
  requiredIFramePermissions?: { allow?: string[]; sandbox?: string[] };
  context?: Record<string, unknown>;
  webcomponent?: boolean;
}
interface Config {
  content: { luigiConfigFragment: { data: { nodes: Node[]; texts?: { locale: string; textDictionary: Record<string, string> }[] } } };
  kcpPath: string;
  kcpWorkspaceUrl: string;
  gatewayUrl?: string;
  user: string;
}
interface AuthData {
  accessToken: string;
  accessTokenExpirationDate: number;
  scope: string;
  idToken: string;
}
/** The part of Luigi's core that is used here; the package has no types of its own. */
declare const Luigi: {
  setConfig(c: object): void;
  auth(): { store: { setAuthData(a: AuthData): void; getAuthData(): AuthData | undefined } };
  i18n(): { setCurrentLocale(l: string): void; getCurrentLocale(): string };
  theming(): { setCurrentTheme(t: string): void; getCurrentTheme(): string | false };
  setGlobalContext(c: object, preventUpdate?: boolean): void;
  getGlobalContext(): Record<string, unknown>;
  updateContextValues(c: object): void;
  ux(): { hideAppLoadingIndicator(): void };
};

const ACCOUNT = "main.core_platform-mesh_io_account";
const THEMES = [
  ["sap_horizon", "Morning Horizon"],
  ["sap_horizon_dark", "Evening Horizon"],
  ["sap_horizon_hcb", "High contrast black"],
  ["sap_horizon_hcw", "High contrast white"],
] as const;

async function ask<T>(path: string): Promise<T> {
  const r = await fetch(path, { method: "POST", headers: { "X-OpenKCM-Shell": "1" }, cache: "no-store" });
  if (!r.ok) throw new Error(`${path}: ${r.status}`);
  return (await r.json()) as T;
}

/** Milliseconds since 1970; a token without an end is asked for again in an hour. */
function endOf(token: string): number {
  try {
    const payload = token.split(".")[1] ?? "";
    const { exp } = JSON.parse(atob(payload.replaceAll("-", "+").replaceAll("_", "/"))) as { exp?: number };
    if (exp) return exp * 1_000;
  } catch {
    // An opaque token.
  }
  return Date.now() + 3_600_000;
}

async function signIn(): Promise<AuthData> {
  const { token } = await ask<{ token: string }>("/shell/session");
  return { accessToken: token, accessTokenExpirationDate: endOf(token), scope: "", idToken: token };
}

/** As openmfp's session refresh does it: the iframe is told nothing until its own next navigation. */
function refresh(auth: AuthData): void {
  Luigi.auth().store.setAuthData(auth);
  Luigi.setGlobalContext({ ...Luigi.getGlobalContext(), token: auth.accessToken }, true);
  schedule(auth);
}
function schedule(auth: AuthData): void {
  // A minute before the end, but never in a tight loop when the file still holds the old one.
  const delay = Math.max(5_000, auth.accessTokenExpirationDate - Date.now() - 60_000);
  setTimeout(() => void signIn().then(refresh, () => schedule({ ...auth, accessTokenExpirationDate: Date.now() + 65_000 })), Math.min(delay, 3_600_000));
}

/** What the shell itself says. */
const OWN = { en: { "shell.dashboard": "Dashboard", "shell.namespaces": "Namespaces" }, de: { "shell.dashboard": "Übersicht", "shell.namespaces": "Namespaces" } };

/** Luigi asks for every label again when the language changes; open pages stay as they are. */
function texts(config: Config): (label: string, locale: string) => string {
  const all = config.content.luigiConfigFragment.data.texts ?? [];
  return (label, locale) => {
    const found = all.find((x) => x.locale === locale) ?? all.find((x) => x.locale === "");
    const known: Record<string, string> = { ...found?.textDictionary, ...OWN[locale === "de" ? "de" : "en"] };
    return label.replace(/\{\{([^}]+)\}\}/g, (whole, key: string) => known[key] ?? whole);
  };
}

function toLuigi(node: Node, context: object): object {
  const { url, entityType: _entity, context: own, ...rest } = node;
  return {
    ...rest,
    viewUrl: url,
    context: { ...context, ...own },
    testId: node.pathSegment,
  };
}

function navigation(config: Config) {
  const { nodes } = config.content.luigiConfigFragment.data;
  const at = (suffix: string) => nodes.filter((n) => n.entityType === ACCOUNT + suffix).sort((a, b) => (a.order ?? 0) - (b.order ?? 0));
  const tiles = at("::compound");
  return [
    {
      pathSegment: "home",
      label: config.kcpPath,
      hideFromNav: true,
      children: [
        ...at("").map((n) => toLuigi(n, {})),
        ...tiles.map((n) => toLuigi({ ...n, icon: "home", pathSegment: "dashboard", label: "{{shell.dashboard}}", order: 0 }, {})),
        {
          pathSegment: "namespaces",
          label: "{{shell.namespaces}}",
          icon: "folder-blank",
          children: [{ pathSegment: ":namespaceId", context: { namespaceId: ":namespaceId" }, children: at(".namespace").map((n) => toLuigi(n, {})) }],
        },
      ],
    },
  ];
}

async function start(): Promise<void> {
  // Luigi's own scripts are deferred: they are being read while the server answers.
  const luigi = "Luigi" in window || new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  const [config, auth] = await Promise.all([ask<Config>("/shell/config"), signIn(), luigi]);
  const text = texts(config);
  let locale = (localStorage.getItem("openkcm.locale") ?? navigator.language).startsWith("de") ? "de" : "en";
  const asked = localStorage.getItem("openkcm.theme") ?? "";
  const theme = THEMES.some(([id]) => id === asked) ? asked : matchMedia("(prefers-color-scheme: dark)").matches ? "sap_horizon_dark" : "sap_horizon";

  class Provider {
    login(): Promise<void> {
      return signIn().then((a) => Luigi.auth().store.setAuthData(a));
    }
    logout(_auth: unknown, done: () => void): void {
      done();
    }
    userInfo(): Promise<object> {
      return Promise.resolve({ name: config.user });
    }
  }

  const setTheme = (id: string): void => {
    localStorage.setItem("openkcm.theme", id);
    // Luigi hands the theme on but does not recolour itself.
    (document.getElementById("theme") as HTMLLinkElement).href = `/luigi/themes/${id}.css`;
    document.documentElement.style.colorScheme = /dark|hcb/.test(id) ? "dark" : "light";
    Luigi.theming().setCurrentTheme(id);
    // The theme alone does not reach an open page; a context update does.
    Luigi.updateContextValues({ themeChanged: id });
  };
  const setLocale = (next: string): void => {
    locale = next;
    localStorage.setItem("openkcm.locale", next);
    document.documentElement.lang = next;
    Luigi.i18n().setCurrentLocale(next);
  };
  const globalContext = {
    token: auth.accessToken,
    kcpPath: config.kcpPath,
    userEmail: config.user,
    organization: config.kcpPath.split(":")[1],
    portalBaseUrl: location.origin,
    portalContext: { kcpWorkspaceUrl: config.kcpWorkspaceUrl, ...(config.gatewayUrl ? { crdGatewayApiUrl: config.gatewayUrl } : {}) },
  };

  Luigi.setConfig({
    auth: { use: "fake", storage: "none", fake: { idpProvider: Provider }, disableAutoLogin: true },
    routing: { useHashRouting: false, showModalPathInUrl: true, nodeParamPrefix: "~" },
    navigation: {
      nodes: () => navigation(config),
      globalContext,
      validWebcomponentUrls: [`^${location.origin.replaceAll(".", "\\.")}/mfe/`],
      defaults: { isolateView: false },
      appSwitcher: undefined,
      profile: {
        logout: undefined,
        items: [
          ...THEMES.map(([id, label]) => ({ label, testId: `theme-${id}`, link: undefined, icon: "palette", openNodeInModal: false, externalLink: undefined, onClick: () => setTheme(id) })),
        ],
        staticUserInfoFn: () => Promise.resolve({ name: config.user }),
      },
    },
    settings: {
      header: { title: "OpenKCM", logo: "/logo.svg" },
      responsiveNavigation: "semiCollapsible",
      hideNavigation: false,
      customTranslationImplementation: () => ({ getTranslation: (key: string) => text(key, locale) }),
      // The portal's pages ask for more than Luigi gives by default.
      iframeCreationInterceptor: (iframe: HTMLIFrameElement, _group: string, node: Node) => {
        const wanted = node?.requiredIFramePermissions;
        if (wanted?.allow?.length) iframe.allow = wanted.allow.join("; ");
        for (const s of wanted?.sandbox ?? []) iframe.sandbox.add(s);
      },
      theming: {
        themes: () => THEMES.map(([id, name]) => ({ id, name })),
        defaultTheme: theme,
        variables: "fiori",
        nodeViewURLDecorator: { queryStringParameter: { keyName: "sap-theme" } },
      },
    },
    lifecycleHooks: {
      luigiAfterInit: () => {
        Luigi.i18n().setCurrentLocale(locale);
        Luigi.auth().store.setAuthData(auth);
        schedule(auth);
        setTheme(theme);
        document.documentElement.lang = locale;
        Luigi.ux().hideAppLoadingIndicator();
      },
    },
  });
  // For tests and for people with the keyboard in the developer tools; it can do nothing that the page's menus cannot.
  Object.assign(window, { openkcmShell: { setTheme, setLocale, refresh: () => signIn().then(refresh) } });
}

start().catch((e: unknown) => {
  const p = document.createElement("p");
  p.style.cssText = "font-family: sans-serif; padding: 2rem";
  p.textContent = `The console cannot start: ${e instanceof Error ? e.message : String(e)}`;
  document.body.append(p);
});
