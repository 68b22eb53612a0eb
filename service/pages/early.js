// Before the first paint: the theme and the language that were chosen here before. No module, so
// that the browser waits for it.
(() => {
  const kept = (name) => {
    try {
      return localStorage.getItem(`teleprinter.${name}`);
    } catch {
      return null; // storage is forbidden here
    }
  };
  const root = document.documentElement;
  const theme = kept("theme");
  if (theme === "light" || theme === "dark") root.dataset.theme = theme;
  const language = kept("language") || navigator.language;
  root.lang = language.toLowerCase().startsWith("zh") ? "zh-CN" : "en";
})();
