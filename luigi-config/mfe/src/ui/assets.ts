// What UI5's own Assets.js would load, cut to the themes and languages that the console has: 12 files and not 230.
import { registerI18nLoader } from "@ui5/webcomponents-base/dist/asset-registries/i18n.js";
import { registerLocaleDataLoader } from "@ui5/webcomponents-base/dist/asset-registries/LocaleData.js";
import { registerThemePropertiesLoader } from "@ui5/webcomponents-base/dist/asset-registries/Themes.js";
import type { Theme } from "../luigi/theme.js";

type Load = () => Promise<{ default: unknown }>;

const THEMING: Record<Theme, Load> = {
  sap_horizon: () => import("@ui5/webcomponents-theming/dist/generated/assets/themes/sap_horizon/parameters-bundle.css.json"),
  sap_horizon_dark: () => import("@ui5/webcomponents-theming/dist/generated/assets/themes/sap_horizon_dark/parameters-bundle.css.json"),
  sap_horizon_hcb: () => import("@ui5/webcomponents-theming/dist/generated/assets/themes/sap_horizon_hcb/parameters-bundle.css.json"),
  sap_horizon_hcw: () => import("@ui5/webcomponents-theming/dist/generated/assets/themes/sap_horizon_hcw/parameters-bundle.css.json"),
};
const COMPONENTS: Record<Theme, Load> = {
  sap_horizon: () => import("@ui5/webcomponents/dist/generated/assets/themes/sap_horizon/parameters-bundle.css.json"),
  sap_horizon_dark: () => import("@ui5/webcomponents/dist/generated/assets/themes/sap_horizon_dark/parameters-bundle.css.json"),
  sap_horizon_hcb: () => import("@ui5/webcomponents/dist/generated/assets/themes/sap_horizon_hcb/parameters-bundle.css.json"),
  sap_horizon_hcw: () => import("@ui5/webcomponents/dist/generated/assets/themes/sap_horizon_hcw/parameters-bundle.css.json"),
};
const TEXTS: Record<string, Load> = {
  en: () => import("@ui5/webcomponents/dist/generated/assets/i18n/messagebundle_en.json"),
  de: () => import("@ui5/webcomponents/dist/generated/assets/i18n/messagebundle_de.json"),
};

for (const [theme, load] of Object.entries(THEMING)) registerThemePropertiesLoader("@ui5/webcomponents-theming", theme, async () => (await load()).default as string, "root");
for (const [theme, load] of Object.entries(COMPONENTS)) registerThemePropertiesLoader("@ui5/webcomponents", theme, async () => (await load()).default as string, "host");
for (const [locale, load] of Object.entries(TEXTS)) registerI18nLoader("@ui5/webcomponents", locale, async () => (await load()).default as Record<string, string>);
// No component here formats dates or numbers, so none needs the 120 kB of its language's calendar data.
for (const locale of Object.keys(TEXTS)) registerLocaleDataLoader(locale, () => Promise.resolve({}));
