// Airflow's theme and colours, live. Airflow keeps light, dark or system under "theme" in localStorage;
// inside its frame the page takes ground, lines, type and radius from the frame around it.
// Loaded before anything is painted, so that a dark page never flashes white.
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  // Ours: Airflow's. What has to be readable on a coloured ground stays ours.
  const TOKENS = {
    "--ground": "--chakra-colors-bg", "--raised": "--chakra-colors-bg-muted", "--muted": "--chakra-colors-bg-emphasized",
    "--line": "--chakra-colors-border", "--strong-line": "--chakra-colors-border-emphasized",
    "--text": "--chakra-colors-fg", "--soft": "--chakra-colors-fg-muted",
    "--focus": "--chakra-colors-brand-focus-ring", "--brand": "--chakra-colors-brand-solid",
    "--font": "--chakra-fonts-body", "--mono": "--chakra-fonts-mono", "--radius": "--chakra-radii-l2",
    "--type": "--chakra-font-sizes-md", "--small-type": "--chakra-font-sizes-sm", "--control": "--chakra-sizes-10",
  };
  let host = null;
  try {
    if (window.parent !== window) host = window.parent.document.documentElement;
  } catch {
    // Another site's frame: the page keeps its own colours.
  }
  const stored = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // Storage can be blocked; then the system's theme is used.
    }
  };
  const apply = () => {
    const wanted = stored();
    const theme = wanted === "dark" || wanted === "light" ? wanted : dark.matches ? "dark" : "light";
    root.dataset.theme = theme;
    const hosts = host?.classList.contains(theme) ? window.parent.getComputedStyle(host) : null;
    for (const [ours, airflows] of Object.entries(TOKENS)) {
      const value = hosts?.getPropertyValue(airflows).trim();
      if (value) root.style.setProperty(ours, value);
      else root.style.removeProperty(ours);
    }
  };
  if (host) {
    root.dataset.embedded = "yes";
    new MutationObserver(apply).observe(host, { attributes: true, attributeFilter: ["class", "style"] });
  }
  apply();
  addEventListener("storage", apply);
  dark.addEventListener("change", apply);
})();
