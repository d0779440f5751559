import "./fonts.css";
import "./ui/assets.js";
import { setDefaultFontLoading } from "@ui5/webcomponents-base/dist/config/Fonts.js";
import { setLanguage } from "@ui5/webcomponents-base/dist/config/Language.js";
import { App } from "./app.js";
import { Session } from "./luigi/session.js";
import { mapTheme } from "./luigi/theme.js";
import { applyTheme } from "./ui/theme.js";

// The fonts come with us: the default is a content delivery network.
setDefaultFontLoading(false);

// The shell says the theme in the address too: its parameters are on their way before the shell has spoken.
void applyTheme(mapTheme(new URLSearchParams(location.search).get("sap-theme"), matchMedia("(prefers-color-scheme: dark)").matches));

const session = new Session();
const waiting = setTimeout(() => {
  // Nobody embeds us: without a shell there is neither a workspace nor a token.
  document.getElementById("alone")?.removeAttribute("hidden");
}, 3_000);

await session.start();
clearTimeout(waiting);
document.getElementById("alone")?.remove();
const tellUi5 = () => void setLanguage(session.locale.toLowerCase().startsWith("de") ? "de" : "en");
tellUi5();
session.addEventListener("change", tellUi5);
document.body.append(new App(session));
session.ready();
