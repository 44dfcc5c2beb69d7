// Now: the names as last known by app group, with drift and the time bounds of each name.
import { ago, appName, ask, bounds, h, nameOf, nameText, nothingYet, notice, run, show, tableFrame, when } from "./page.js";

run(async () => {
  const now = await ask("now");
  const apps = now.groups.flatMap((group) => group.apps);
  const empty = await nothingYet(apps);
  if (empty) return show(empty);
  const stale = apps.filter((app) => app.stale);
  show(
    stale.length
      ? notice("warning", `${stale.length} of ${apps.length} apps ${stale.length === 1 ? "is" : "are"} stale: no good poll within the limit.`,
        h("span", {}, "Their names may have changed since. ", h("a", { href: "health" }, "Health shows why.")))
      : null,
    now.groups.map((group) => groupSection(group, now)));
});

function groupSection(group, now) {
  const id = `group-${group.app_group}`;
  const drift = group.slots.filter((slot) => !slot.agrees);
  return h("section", { "aria-labelledby": id, class: "group" },
    h("h2", { id }, h("bdi", {}, group.app_group), h("small", {}, ` ${count(group.apps.length, "app")}, ${count(group.slots.length, "slot")}`)),
    drift.length ? driftNotice(drift, group) : null,
    group.slots.length
      ? tableFrame(`Names of ${group.app_group}`, group.apps.length > 8 ? byApp(group, now) : bySlot(group, now))
      : notice("info", group.apps.some((app) => app.first_ok_at) ? "None of these apps has a name." : "None of these apps has answered yet.",
        h("span", {}, h("a", { href: "health" }, "Health"), " shows the outcome of the polls.")));
}

function count(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

/** Which apps have which name, in the slots with drift. */
function driftNotice(slots, group) {
  return h("div", { class: "notice warning" },
    h("p", { class: "what" }, h("span", { "aria-hidden": "true", class: "sign" }, "≠"), ` ${count(slots.length, "slot")} with drift`),
    h("ul", {}, slots.map((slot) => {
      const byName = new Map();
      slot.cells.forEach((cell, at) => {
        if (!group.apps[at].first_ok_at) return;
        const name = cell?.name ?? null;
        byName.set(name, [...(byName.get(name) ?? []), group.apps[at]]);
      });
      const parts = [...byName].sort((a, b) => b[1].length - a[1].length);
      return h("li", {}, `Slot ${slot.slot}: `, parts.map(([name, who], at) => [
        at ? "; " : "", nameOf(name), " in ",
        who.length > 3 ? `${who.length} apps` : who.map((app) => appLabel(app, group)).join(", ")]));
    })));
}

function appLabel(app, group) {
  return group.apps.filter((other) => other.region === app.region).length > 1 ? appName(app) : app.region;
}

/** The name that most apps have, to mark the others by. */
function usual(slot) {
  const counts = new Map();
  for (const cell of slot.cells) counts.set(cell?.name ?? null, (counts.get(cell?.name ?? null) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1])[0][0];
}

function cellOf(cell, app, slot, now, common) {
  const odd = !slot.agrees && app.first_ok_at && (cell?.name ?? null) !== common;
  const classes = [app.stale ? "stale" : "", odd ? "odd" : "", app.first_ok_at ? "" : "unknown"].join(" ");
  if (!app.first_ok_at) return h("td", { class: classes }, h("span", { class: "none" }, "not known yet"));
  return h("td", { class: classes },
    odd ? h("span", { class: "badge odd" }, h("span", { "aria-hidden": "true" }, "≠ "), "drift") : null,
    odd ? " " : null,
    cell ? nameOf(cell.name, cell.attr_type) : nameOf(null),
    cell ? h("a", { class: "since", href: `changes?app=${encodeURIComponent(appName(app))}&slot=${slot.slot}`, title: `How slot ${slot.slot} of ${appName(app)} came to be called ${nameText(cell.name)}` }, bounds(cell.not_before, cell.seen_at)) : null,
    app.stale ? h("span", { class: "since" }, `as of ${ago(app.last_ok_at, now.at)}`) : null);
}

function appHead(app, now, scope) {
  return h("th", { scope, class: app.stale ? "stale" : null },
    h("bdi", {}, app.region), h("span", { class: "since" }, app.sdk_app_id),
    app.stale
      ? h("span", { class: "badge stale" }, h("span", { "aria-hidden": "true" }, "⚠ "), `stale: seen ${ago(app.last_ok_at, now.at)}`)
      : h("span", { class: "since" }, "seen ", h("time", { datetime: app.last_ok_at, title: when(app.last_ok_at).title }, ago(app.last_ok_at, now.at))));
}

function slotHead(slot, scope) {
  return h("th", { scope, class: "slot" }, `Slot ${slot.slot}`,
    slot.agrees ? null : h("span", { class: "badge odd" }, h("span", { "aria-hidden": "true" }, "≠ "), slot.distinct_names === 1 ? "missing in some" : `${slot.distinct_names} names`));
}

/** Few apps: one column each. */
function bySlot(group, now) {
  return h("table", { class: "matrix" },
    h("caption", { class: "unseen" }, `Slots of ${group.app_group} by app`),
    h("thead", {}, h("tr", {}, h("td", {}), group.apps.map((app) => appHead(app, now, "col")))),
    h("tbody", {}, group.slots.map((slot) => {
      const common = usual(slot);
      return h("tr", {}, slotHead(slot, "row"), group.apps.map((app, at) => cellOf(slot.cells[at], app, slot, now, common)));
    })));
}

/** Many apps: one row each. */
function byApp(group, now) {
  const common = group.slots.map(usual);
  return h("table", { class: "matrix" },
    h("caption", { class: "unseen" }, `Apps of ${group.app_group} by slot`),
    h("thead", {}, h("tr", {}, h("td", {}), group.slots.map((slot) => slotHead(slot, "col")))),
    h("tbody", {}, group.apps.map((app, at) =>
      h("tr", {}, appHead(app, now, "row"), group.slots.map((slot, which) => cellOf(slot.cells[at], app, slot, now, common[which]))))));
}
