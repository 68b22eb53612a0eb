// Light or dark: as the system has it, or as chosen here.

import { forGood } from "./kept.js";
import { said } from "./language.js";

const THEMES = ["auto", "light", "dark"];

/** Let a button go round the themes. Its texts: theme, theme_auto, theme_light, theme_dark. */
export function themeButton(button) {
  let chosen = document.documentElement.dataset.theme || "auto";
  const show = () => {
    button.dataset.theme = chosen;
    button.ariaLabel = button.title = `${said("theme")}: ${said(`theme_${chosen}`)}`;
  };
  button.addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    forGood.set("theme", chosen === "auto" ? "" : chosen);
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    show();
  });
  show();
  return show; // for when the language changes
}
