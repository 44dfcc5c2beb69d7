// Follows Airflow's theme, live: it keeps light, dark or system under "theme" in localStorage.
// Loaded before anything is painted, so that a dark page never flashes white.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    let wanted = null;
    try {
      wanted = localStorage.getItem("theme");
    } catch {
      // Storage can be blocked; then the system's theme is used.
    }
    const theme = wanted === "dark" || wanted === "light" ? wanted : dark.matches ? "dark" : "light";
    document.documentElement.dataset.theme = theme;
  };
  apply();
  addEventListener("storage", apply);
  dark.addEventListener("change", apply);
})();
