// Names: a row for each slot; opened, the apps that differ; all apps as a matrix; a search by name.
import { ago, appLink, appName, appOf, ask, bounds, count, follows, h, here, longTime, nameOf, nameText, nothingYet, notice, partsOf, query, show, someApps, when } from "./page.js";
import { choice, field, filterForm, tick, periodFields } from "./forms.js";
import { arrowKeys, bigTable, slotWidth, tipped, tips } from "./big-table.js";
import { runAndRefresh } from "./refresh.js";
import { inPeriod } from "./in-period.js";

const CHIPS = 4;
/** Names of so many characters fit into a cell of the matrix, whatever they are; longer ones may be cut. */
const SHORT = 9;
const chosen = Object.fromEntries(["q", "group", "slot", "only", "matrix", "since", "until"].map((name) => [name, query.get(name)]));

runAndRefresh(async () => {
  const ofGroup = !chosen.q && chosen.group && (chosen.matrix || /^\d{1,3}$/.test(chosen.slot ?? ""));
  const [names, found, now] = await Promise.all([
    ask("names"),
    chosen.q ? ask("search", { name: chosen.q, group: chosen.group }) : null,
    ofGroup ? ask("now", { group: chosen.group, slot: chosen.matrix ? null : chosen.slot }) : null,
  ]);
  const empty = await nothingYet(names.groups);
  if (empty) return show(empty);
  if (chosen.q) return show(search(names), await uses(names, found));
  const group = names.groups.find((each) => each.app_group === chosen.group);
  if (chosen.group && !group) {
    return show(search(names), notice("info", "No app group has this name.", h("a", { href: "names" }, "Show all groups"), { "data-empty": "no-group" }));
  }
  if (group && chosen.matrix) return show(search(names), matrix(group, now));
  const slot = group?.slots.find((each) => String(each.slot) === chosen.slot);
  if (slot) return show(search(names), opened(group, slot, now));
  show(search(names), table(group ? [group] : names.groups));
});

function search(names) {
  return filterForm([
    field("Find a name", h("input", { type: "search", name: "q", value: chosen.q ?? "", autocomplete: "off", placeholder: "such as city" })),
    field("App group", choice("group", [["", "all"], ...names.groups.map((each) => each.app_group)], chosen.group)),
    chosen.q ? periodFields(["Campaign from", "Campaign to"], chosen.since, chosen.until) : tick("only", "Only drift and names not as declared", chosen.only === "yes"),
  ], "Search of names");
}

// All slots -----------------------------------------------------------------------------------

function table(groups) {
  const rows = [];
  for (const group of groups) {
    const slots = chosen.only ? group.slots.filter((slot) => isOdd(slot, group)) : group.slots;
    if (slots.length || !chosen.only) rows.push({ group });
    rows.push(...slots.map((slot) => ({ group, slot })));
  }
  if (!rows.length && groups.some((group) => group.stale || group.known < group.apps)) {
    return notice("info", "No drift is known, and every declared name was in place when last seen. Some apps have no recent good poll.", h("a", { href: here({ only: null }) }, "Show all names"), { "data-empty": "no-drift" });
  }
  if (!rows.length) return notice("good", "There is no drift, and every declared name is in place.", h("a", { href: here({ only: null }) }, "Show all names"), { "data-empty": "no-drift" });
  return bigTable({
    label: "Names by app group and slot",
    className: "list cards",
    head: ["Slot", "Name", "Apps", "Other names", "Newest change"].map((title) => h("th", { scope: "col" }, title)),
    widths: [5, 16, 14, 30, 10],
    count: rows.length,
    row: (at) => (rows[at].slot ? slotRow(rows[at]) : groupRow(rows[at].group)),
  });
}

/** How many apps are not as declared in a slot. */
function violations(slot) {
  return [slot.usual, ...slot.others].reduce((sum, variant) => sum + variant.violations, 0);
}

/** Where a group is declared, names may differ on purpose. */
function isOdd(slot, group) {
  return group.is_declared ? violations(slot) > 0 : slot.others.length > 0;
}

/** The name that counts in a slot: the declared one, else the usual one; and who has others. */
function sorted(slot) {
  const name = slot.declared.length ? slot.declared[0].name : slot.usual.name;
  const all = [slot.usual, ...slot.others];
  return { name, apps: all.find((variant) => variant.name === name)?.apps ?? 0, others: all.filter((variant) => variant.name !== name) };
}

function declaredMark(slot, group) {
  const wrong = violations(slot);
  if (wrong) return h("span", { class: "badge odd" }, h("span", { "aria-hidden": "true" }, "≠ "), wrong === slot.apps ? "not as declared" : `${count(wrong, "app")} not as declared`);
  // An app that is not seen lately may have any name by now.
  const unseen = Math.max(group.stale, group.apps - group.known);
  if (slot.declared.length && unseen) return h("span", { class: "badge unsure" }, h("span", { "aria-hidden": "true" }, "? "), unseen < group.apps ? "as declared where known" : "no recent good poll");
  if (slot.declared.length && slot.apps) return h("span", { class: "badge good" }, h("span", { "aria-hidden": "true" }, "✓ "), "as declared");
  return !group.is_declared && slot.others.length ? drift() : null;
}

function groupAddress(group, more = {}) {
  return `names?${new URLSearchParams({ group: group.app_group, ...more })}`;
}

function saidOf(group) {
  const odd = group.slots.filter((slot) => isOdd(slot, group)).length;
  const parts = [count(group.apps, "app"), count(group.slots.length, "slot"), group.is_declared ? (odd ? `${count(odd, "slot")} not as declared` : group.stale >= group.apps ? "no recent good poll" : "as declared where known") : odd ? `${count(odd, "slot")} with drift` : "no drift",
    group.stale ? `${group.stale} stale` : null, group.known < group.apps ? `${group.apps - group.known} without any good poll` : null];
  return parts.filter(Boolean).join(", ");
}

function groupRow(group) {
  return h("tr", { class: "head" }, h("th", { colspan: 5, scope: "rowgroup" }, h("bdi", {}, group.app_group), h("small", {}, ` ${saidOf(group)} `),
    group.slots.length ? h("a", { href: groupAddress(group, { matrix: "yes" }), "aria-label": `All apps of ${group.app_group}` }, "All apps")
      : h("small", {}, group.known ? "None of its apps has a name." : "None of its apps has answered yet.")));
}

function slotRow({ group, slot }) {
  const [said, mark] = [sorted(slot), declaredMark(slot, group)];
  const address = groupAddress(group, { slot: slot.slot });
  return h("tr", { class: "link", onclick: follows(address) },
    h("th", { scope: "row" }, h("a", { href: address, "aria-label": `Slot ${slot.slot} of ${group.app_group}` }, `Slot ${slot.slot}`)),
    h("td", {}, nameOf(said.name), slot.declared.length ? h("span", { class: "since" }, slot.declared.length > 1 ? ` declared, ${slot.declared.length - 1} by exception` : " declared")
      : group.is_declared ? h("span", { class: "since" }, " not declared") : null),
    h("td", {}, `${said.apps} of ${slot.apps}`, mark ? [" ", mark] : null),
    h("td", {}, chips(group, slot)),
    h("td", {}, slot.newest_change_at
      ? h("a", { href: `changes?${new URLSearchParams({ group: group.app_group, slot: slot.slot })}` }, when(slot.newest_change_at))
      : h("span", { class: "none" }, "none seen")));
}

function drift() {
  return h("span", { class: "badge drift" }, h("span", { "aria-hidden": "true" }, "≠ "), "drift");
}

function chips(group, slot) {
  const others = sorted(slot).others;
  const shown = others.slice(0, CHIPS);
  return h("div", { class: "chips" }, shown.map((other) =>
    h("a", { class: `chip ${other.violations ? "odd" : group.is_declared ? "" : "drift"}`, href: groupAddress(group, { slot: slot.slot }) }, other.violations || !group.is_declared ? [h("span", { "aria-hidden": "true" }, "≠ "), h("span", { class: "unseen" }, other.violations ? "not as declared: " : "drift: ")] : null, nameOf(other.name),
      h("small", {}, other.apps === 1 ? [" in ", appOf(other.some[0])] : ` in ${other.apps} apps`))),
  others.length > CHIPS ? h("a", { class: "chip", href: groupAddress(group, { slot: slot.slot }) }, count(others.length - CHIPS, "more name")) : null);
}

// One slot ------------------------------------------------------------------------------------

function opened(group, slot, now) {
  const [{ apps, slots }] = now.groups;
  const cells = slots[0]?.cells ?? apps.map(() => null);
  const wrong = cellMarks(now);
  const mark = declaredMark(slot, group);
  const differing = apps.map((app, at) => ({ app, cell: cells[at], violation: wrong.get(markKey(app, slot)), differs: app.first_ok_at !== null && (cells[at]?.name ?? null) !== slot.usual.name }));
  const some = differing.filter((row) => row.differs || row.violation);
  const all = query.get("all") === "yes" || !some.length;
  const rows = all ? differing : some;
  const title = `Slot ${slot.slot} of ${group.app_group}`;
  return h("section", { "aria-labelledby": "slot" },
    h("h2", { id: "slot" }, "Slot ", slot.slot, " of ", h("bdi", {}, group.app_group), h("small", {}, " ", count(slot.apps, "app"))),
    h("p", {}, h("span", { class: "said" }, "Usual: "), nameOf(slot.usual.name), ` in ${slot.usual.apps} of ${slot.apps}.`, mark ? [" ", mark] : ""),
    slot.declared.length ? h("p", {}, h("span", { class: "said" }, "Declared: "), slot.declared.map((each, at) => [at ? ", " : "", each.name === null ? h("span", { class: "none" }, "unused") : nameOf(each.name), ` for ${count(each.apps, "app")}`]), ".") : null,
    slot.others.length ? h("ul", {}, slot.others.map((other) => h("li", {}, nameOf(other.name), ` in ${count(other.apps, "app")}: `, someApps(other.some, other.apps)))) : null,
    h("p", { class: "pager" },
      some.length ? h("a", { href: here({ all: all ? null : "yes" }) }, all ? "Only the apps that differ" : `All ${count(apps.length, "app")}`) : null,
      h("a", { href: `timeline?${new URLSearchParams({ group: group.app_group, slot: slot.slot })}` }, "Timeline"),
      h("a", { href: `changes?${new URLSearchParams({ group: group.app_group, slot: slot.slot })}` }, "Changes"),
      h("a", { href: groupAddress(group) }, "All slots of the group")),
    bigTable({
      label: all ? `Apps of ${title}` : `Apps that differ in ${title}`,
      className: "list cards",
      head: ["App", "Name", "Set", "Last good poll"].map((text) => h("th", { scope: "col" }, text)),
      widths: [16, 18, 18, 12],
      count: rows.length,
      row: (at) => appRow(rows[at], slot, now, group),
    }));
}

function markKey(app, slot) {
  return `${appName(app)} ${slot.slot}`;
}

/** What is not as declared, by app and slot. */
function cellMarks(now) {
  return new Map(now.violations.map((each) => [markKey(each, each), each]));
}

function appRow({ app, cell, differs, violation }, slot, now, group) {
  return h("tr", { class: app.stale ? "stale" : "" },
    h("th", { scope: "row" }, appLink(app)),
    h("td", {}, app.first_ok_at ? nameOf(cell?.name ?? null, cell?.attr_type ?? null) : h("span", { class: "none" }, "not known yet"),
      violation ? [" ", h("span", { class: "badge odd" }, h("span", { "aria-hidden": "true" }, "≠ "), "declared: ", violation.declared_name === null ? "unused" : nameOf(violation.declared_name))]
        : differs && !group.is_declared ? [" ", drift()] : null),
    h("td", {}, cell ? h("a", { href: `changes?${new URLSearchParams({ app: appName(app), slot: slot.slot })}` }, bounds(cell.not_before, cell.seen_at)) : ""),
    h("td", {}, ago(app.last_ok_at, now.at), app.stale ? [" ", stale()] : null));
}

function stale() {
  return h("span", { class: "badge stale" }, h("span", { "aria-hidden": "true" }, "⚠ "), "stale");
}

// All apps ------------------------------------------------------------------------------------

function matrix(group, now) {
  const [{ apps, slots }] = now.groups;
  const usual = new Map(group.slots.map((slot) => [slot.slot, slot.usual.name]));
  const wrong = group.is_declared ? cellMarks(now) : null;
  const label = `Names of all apps of ${group.app_group}`;
  const frame = bigTable({
    label,
    className: "matrix short",
    head: [h("th", { scope: "col" }, "App"), ...slots.map((slot) => h("th", { scope: "col" }, `Slot ${slot.slot}`))],
    widths: ["17rem", ...slots.map((slot) => slotWidth(slot.cells))],
    count: apps.length,
    row: (at) => h("tr", { class: apps[at].stale ? "stale" : null },
      h("th", { scope: "row", "data-tip": `Last good poll ${ago(apps[at].last_ok_at, now.at)}` }, appLink(apps[at]), apps[at].stale ? [" ", stale()] : null),
      slots.map((slot) => matrixCell(apps[at], slot, slot.cells[at], usual.get(slot.slot), now, wrong))),
  });
  arrowKeys(frame);
  tips(frame);
  return h("section", { "aria-labelledby": "all" },
    h("h2", { id: "all" }, h("bdi", {}, group.app_group), h("small", {}, ` ${count(apps.length, "app")}, ${count(slots.length, "slot")}`)),
    h("p", { class: "pager" }, h("a", { href: groupAddress(group) }, "View by slot"), h("span", {}, h("span", { class: `bar ${wrong ? "" : "drift"}`, "aria-hidden": "true" }), wrong ? " not as declared" : " a different name from most apps"),
      h("span", { class: "wide" }, "Use the arrow keys to move between cells."), slots.length > 2 ? h("span", { class: "narrow" }, "Scroll sideways for the other slots.") : null),
    frame);
}

function matrixCell(app, slot, cell, usual, now, wrong) {
  if (!app.first_ok_at) return h("td", { class: "unknown" }, h("span", { class: "none" }, "not known yet"));
  const violation = wrong?.get(markKey(app, slot));
  const differs = wrong ? Boolean(violation) : (cell?.name ?? null) !== usual;
  const tip = () => [`${appName(app)}, slot ${slot.slot}: ${nameText(cell?.name ?? null)}`,
    cell ? (cell.not_before ? `Set between ${longTime(cell.not_before)} and ${longTime(cell.seen_at)}` : `Part of the baseline, seen since ${longTime(cell.seen_at)}`) : null,
    violation ? `Not as declared: ${violation.declared_name === null ? "it must be unused" : nameText(violation.declared_name)}` : differs ? `Usual in this slot: ${nameText(usual)}` : null,
    app.stale ? `Stale: last good poll ${ago(app.last_ok_at, now.at)}` : null].filter(Boolean).join("\n");
  const name = cell?.name ?? null;
  // As few elements as can be: while somebody scrolls there are hundreds of new cells a second.
  const link = h("a", {
    href: `changes?app=${encodeURIComponent(appName(app))}&slot=${slot.slot}`, tabindex: "-1", dir: "auto", class: name === null ? null : "name",
    "aria-label": differs ? `${violation ? "not as declared" : "drift"}: ${nameText(name)}` : null,
  }, name === null ? nameOf(null) : partsOf(name));
  const look = [violation ? "odd" : differs ? "drift" : "", link.textContent.length > SHORT ? "long" : ""].filter(Boolean).join(" ");
  return h("td", { class: look || null }, tipped(link, tip));
}

// Who has a name ------------------------------------------------------------------------------

async function uses(names, found) {
  if (!found.spans.length) {
    return notice("info", "No app has or had a name that contains this text.", h("a", { href: "names" }, "Show all names"), { "data-empty": "no-name" });
  }
  const known = new Map(names.groups.map((group) => [group.app_group, group]));
  return [
    chosen.since || chosen.until ? await inPeriod(chosen.q, found.uses, chosen.group) : h("p", { class: "since" }, "To check a whole campaign, choose its first and last day in the search."),
    h("div", {}, h("h2", {}, "Slots with this name"),
      bigTable({
        label: "Slots with this name",
        className: "list cards",
        head: ["Name", "App group", "Slot", "Apps, as last seen", "First known", "Gone"].map((title) => h("th", { scope: "col" }, title)),
        widths: [18, 14, 5, 9, 11, 11],
        count: found.uses.length,
        row: (at) => useRow(found.uses[at], known),
      }),
      found.more_uses ? h("p", {}, `Only the first ${found.uses.length} are listed. Enter more of the name.`) : null),
    h("div", {}, h("h2", {}, "Apps with this name: since when, until when"),
      bigTable({
        label: "Apps with this name: since when, until when",
        className: "list cards",
        head: ["App", "App group", "Slot", "Name", "Since", "Until"].map((title) => h("th", { scope: "col" }, title)),
        widths: [16, 11, 5, 14, 17, 17],
        count: found.spans.length,
        row: (at) => spanRow(found.spans[at], found.at),
      }),
      found.more_spans ? h("p", {}, `Only the first ${found.spans.length} are listed. Enter more of the name, or choose a group.`) : null),
  ];
}

function useRow(use, known) {
  const group = known.get(use.app_group);
  return h("tr", {},
    h("th", { scope: "row" }, nameOf(use.name)),
    h("td", {}, h("bdi", {}, use.app_group)),
    h("td", { class: "number" }, group ? h("a", { href: groupAddress(group, { slot: use.slot }) }, use.slot) : use.slot),
    h("td", {}, use.apps ? `${use.apps}${group ? ` of ${group.known}` : ""}` : h("span", { class: "none" }, `none, ${count(use.apps_ever, "app")} before`)),
    h("td", {}, when(use.seen_from)),
    h("td", {}, use.gone_by ? ["by ", when(use.gone_by)] : "no"));
}

function spanRow(each, now) {
  return h("tr", {},
    h("th", { scope: "row" }, appLink(each), each.retired ? h("span", { class: "since" }, " retired") : null),
    h("td", {}, h("bdi", {}, each.app_group)),
    h("td", { class: "number" }, each.slot),
    h("td", {}, nameOf(each.name, each.attr_type)),
    h("td", {}, h("a", { href: `changes?${new URLSearchParams({ app: appName(each), slot: each.slot })}` }, each.possible_from ? bounds(each.possible_from, each.valid_from) : ["seen since ", when(each.valid_from)])),
    h("td", {}, each.valid_to === null
      ? ["last seen ", ago(each.certain_to, now)]
      : each.certain_to ? bounds(each.certain_to, each.valid_to) : ["by ", when(each.valid_to)]));
}
