import "./fonts.css";
import "./ui/assets.js";
import { setDefaultFontLoading } from "@ui5/webcomponents-base/dist/config/Fonts.js";
import { setLanguage } from "@ui5/webcomponents-base/dist/config/Language.js";
import { App } from "./app.js";
import { Session } from "./luigi/session.js";

// The fonts come with us: the default is a content delivery network.
setDefaultFontLoading(false);

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
