// As of: the names at an instant, with the uncertain ones marked; or two instants side by side.
import { appName, appOf, ask, count, h, here, longTime, nameOf, nothingYet, notice, query, run, show, when } from "./page.js";
import { choice, field, filterForm, timeField } from "./forms.js";
import { bigTable, slotWidth } from "./big-table.js";

run(async () => {
  const then = await ask("as-of", { at: query.get("at"), compare: query.get("compare") });
  const apps = then.groups.flatMap((group) => group.apps);
  const empty = await nothingYet(apps);
  if (empty) return show(empty);
  const all = query.get("all") === "yes";
  // Of many apps one group at a time: every group of a large audit would be thousands of cells.
  const wanted = query.get("group");
  const many = then.groups.reduce((sum, group) => sum + group.apps.length * group.slots.length, 0) > 600;
  const groups = then.groups.filter((group, at) => (wanted ? group.app_group === wanted : !many || query.get("compare") || at === 0));
  const marks = then.marks.map(marksOf);
  const form = filterForm([
    timeField("Names at", "at", query.get("at") ?? then.at),
    timeField("Compare with", "compare", query.get("compare")),
    field("App group", choice("group", [["", many && !then.compared_with ? `the first: ${then.groups[0].app_group}` : "all"], ...then.groups.map((group) => group.app_group)], wanted)),
  ], "Instants");
  const seen = groups.some((group) => group.slots.length);
  show(form,
    then.at > then.now ? notice("info", "That instant is in the future.", "The names are those known now; none of them is certain.") : null,
    then.marks.some((each) => each.is_declaration_unreadable) ? notice("warning", "The declaration on record at that instant is unreadable.", "No name is compared with it. See attr_audit.declaration.") : null,
    !seen ? nothing(groups, then)
      : then.compared_with ? comparison({ ...then, groups }, marks, all) : groups.map((group) => (group.slots.length ? matrix(group, then.at, marks[0]) : withoutNames(group, then.at))),
    seen ? [downloads(then), legend()] : null);
});

// Cells ---------------------------------------------------------------------------------------

/** What was not as declared, and what drifted, by app and slot. */
function marksOf({ declared_groups: groups, violations, drift }) {
  const key = (app, slot) => `${appName(app)} ${slot}`;
  const wrong = new Map(violations.map((each) => [key(each, each.slot), each]));
  const apart = new Set(drift.map((each) => key(each, each.slot)));
  return { groups: new Set(groups), of: (app, slot) => ({ violation: wrong.get(key(app, slot)) ?? null, drifts: apart.has(key(app, slot)) }) };
}

/** The room for a badge beside a name, in pixels. */
const BADGE = 96;
const isUnknown = (cell) => !cell.known;
const isUnsure = (cell) => cell.known && !cell.certain;

function badge(look, sign, ...said) {
  return h("span", { class: `badge ${look}` }, h("span", { "aria-hidden": "true" }, `${sign} `), ...said);
}

function unsure() {
  return badge("unsure", "?", "not certain");
}

function unknown() {
  return h("span", { class: "none" }, "not known yet");
}

/** ``said``: the row says already that nothing in it is certain. */
function cellOf(cell, { violation, drifts }, said) {
  const mark = violation ? "odd" : drifts ? "drift" : "";
  const name = !cell.known ? unknown()
    : cell.name === null ? h("span", { class: "none" }, cell.certain ? "no name" : "perhaps no name") : nameOf(cell.name, cell.attr_type);
  return h("td", { class: [isUnsure(cell) ? "unsure" : "", cell.known ? "" : "unknown", mark].filter(Boolean).join(" ") || null },
    drifts ? h("span", { class: "unseen" }, "drift: ") : null, name,
    isUnsure(cell) && !said ? [" ", unsure()] : null,
    violation ? [" ", badge("odd", "≠", "declared: ", violation.declared_name === null ? "unused" : nameOf(violation.declared_name))] : null);
}

/** The cells of a row; what holds for all of them is said once: ``mark`` is for the row's head. */
function rowOf(cells, marks) {
  if (cells.length > 1 && cells.every(isUnknown)) return { mark: null, cells: [h("td", { class: "unknown", colspan: cells.length }, unknown())] };
  const whole = cells.length > 1 && cells.every(isUnsure);
  return { mark: whole ? [" ", unsure()] : null, cells: cells.map((cell, at) => cellOf(cell, marks[at], whole)) };
}

// One instant ---------------------------------------------------------------------------------

function matrix(group, at, marks) {
  const id = `group-${group.app_group}`;
  const isDeclared = marks.groups.has(group.app_group);
  const frame = bigTable({
    label: `Names of ${group.app_group} at ${longTime(at)}`,
    className: "matrix",
    head: [h("th", { scope: "col" }, "App"), ...group.slots.map((slot) => h("th", { scope: "col" }, `Slot ${slot.slot}`))],
    widths: ["18rem", ...group.slots.map((slot) => slotWidth(slot.cells, slot.cells.some(isUnsure) ? BADGE : 0))],
    count: group.apps.length,
    row: (which) => {
      const app = group.apps[which];
      const row = rowOf(group.slots.map((slot) => slot.cells[which]), group.slots.map((slot) => marks.of(app, slot.slot)));
      return h("tr", {}, h("th", { scope: "row" }, appOf(app), row.mark, app.retired ? h("span", { class: "since" }, " retired later") : null), row.cells);
    },
  });
  return h("section", { "aria-labelledby": id },
    h("h2", { id }, h("bdi", {}, group.app_group), h("small", {}, " at ", when(at, { seconds: true }), isDeclared ? ", names declared" : "")), frame);
}

/** Whether the app had a good poll by an instant. */
function isKnown(app, at) {
  return at !== null && app.first_ok_at !== null && new Date(app.first_ok_at) <= new Date(at);
}

/** Where no group has a slot. */
function nothing(groups, then) {
  const known = groups.some((group) => group.apps.some((app) => isKnown(app, then.at) || isKnown(app, then.compared_with)));
  return known ? notice("info", "No app is known to have had a name.", "An app without a good poll by then may have had one.", { "data-empty": "no-name" })
    : notice("info", "Nothing was known at that instant.", "It is before the first good poll of every app. Choose a later one.", { "data-empty": "before" });
}

/** A group in which no app had a name, as far as is known. */
function withoutNames(group, at) {
  const unknown = group.apps.filter((app) => !isKnown(app, at)).length;
  return h("section", {}, h("h2", {}, h("bdi", {}, group.app_group)), h("p", { class: "since" },
    unknown ? `${unknown} of ${count(group.apps.length, "app")} had no good poll by then; the others had no name, as far as is known.` : "None of its apps is known to have had a name."));
}

// Two instants --------------------------------------------------------------------------------

/** Two cells compared. What is unknown or not certain is counted neither as the same nor as different. */
function compared(a, b) {
  if (!a.known || !b.known) return { kind: "unknown", said: a.known ? "unknown at the later time" : b.known ? "unknown at the earlier time" : "unknown at both times" };
  const differing = [a.name === b.name ? null : "name", a.attr_type === b.attr_type || a.name === null || b.name === null ? null : "type"].filter(Boolean);
  const isCertain = a.certain && b.certain;
  if (!differing.length) return isCertain ? { kind: "same", said: "same" } : { kind: "unsure", said: "same, not certain" };
  const said = differing.length > 1 ? "name and type differ" : `${differing[0]} differs`;
  return isCertain ? { kind: "differs", said } : { kind: "perhaps", said: `${said}, not certain` };
}

/** The earlier instant comes first. */
function comparison(then, marks, all) {
  const order = new Date(then.at) < new Date(then.compared_with) ? [0, 1] : [1, 0];
  const inOrder = (both) => order.map((at) => both[at]);
  const counts = { differs: 0, perhaps: 0, same: 0, unsure: 0, unknown: 0 };
  const rows = [];
  for (const group of then.groups) {
    for (const slot of group.slots) {
      group.apps.forEach((app, which) => {
        const cells = inOrder([slot.cells[which], slot.compared[which]]);
        const found = compared(...cells);
        counts[found.kind] += 1;
        const groups = inOrder([group.app_group, app.compared_group ?? group.app_group]);
        if (all || !["same", "unsure"].includes(found.kind)) rows.push({ groups, app, slot: slot.slot, cells, found });
      });
    }
  }
  const hidden = counts.same + counts.unsure;
  const toggle = h("a", { href: here({ all: all ? null : "yes" }) }, all ? "Hide the slots without a known difference" : `Show the ${count(hidden, "slot")} without a known difference`);
  const times = inOrder([then.at, then.compared_with]);
  // Without any slot they have no row.
  const unseen = then.groups.filter((group) => !group.slots.length).flatMap((group) => group.apps).filter((app) => !isKnown(app, times[0])).length;
  return [
    h("p", { class: "pager" }, h("span", {}, summaryOf(counts, unseen)), hidden ? toggle : null),
    rows.length ? bigTable({
      label: "Comparison of two instants",
      className: "list compared cards",
      head: [...["App group", "App", "Slot"].map((title) => h("th", { scope: "col" }, title)),
        ...times.map((time) => h("th", { scope: "col" }, when(time, { seconds: true }))), h("th", { scope: "col" }, "Difference")],
      widths: [10, 17, 5, 17, 17, 14],
      count: rows.length,
      row: (at) => comparedRow(rows[at], inOrder(marks)),
    })
      : counts.unsure || unseen ? notice("info", "No difference is known, but not every name is known for certain at both instants.", null, { "data-empty": "unsure" })
        : notice("good", "The names at both instants are the same.", null, { "data-empty": "same" }),
  ];
}

function summaryOf({ differs, perhaps, same, unsure, unknown }, unseen) {
  const are = (number) => (number === 1 ? "is" : "are");
  const parts = [`${count(differs, "slot")} ${differs === 1 ? "differs" : "differ"}`, `${same.toLocaleString("en")} ${are(same)} the same`];
  if (perhaps) parts.splice(1, 0, `${perhaps.toLocaleString("en")} perhaps ${perhaps === 1 ? "differs" : "differ"}`);
  if (unsure) parts.push(`${unsure.toLocaleString("en")} ${are(unsure)} the same as last seen, but not certain`);
  if (unknown) parts.push(`${unknown.toLocaleString("en")} cannot be compared`);
  return `${parts.join(", ")}.${unseen ? ` No name of ${count(unseen, "more app")} is known at the earlier time.` : ""}`;
}

function comparedRow({ groups, app, slot, cells, found }, marks) {
  const row = rowOf(cells, marks.map((each) => each.of(app, slot)));
  const [sign, look] = { differs: ["≠", "info"], perhaps: ["?", "unsure"], unknown: ["?", "unsure"], unsure: ["?", "unsure"], same: [null, null] }[found.kind];
  return h("tr", {},
    h("td", {}, h("bdi", {}, groups[0]), groups[0] === groups[1] ? null : [" → ", h("bdi", {}, groups[1])]),
    h("th", { scope: "row" }, appOf(app), row.mark), h("td", { class: "number" }, slot), row.cells,
    h("td", {}, sign
      ? h("a", { class: `badge ${look}`, href: `changes?${new URLSearchParams({ app: appName(app), slot })}` }, h("span", { "aria-hidden": "true" }, `${sign} `), found.said)
      : h("span", { class: "none" }, found.said)));
}

// Below ---------------------------------------------------------------------------------------

function downloads(then) {
  const asked = { at: then.at, compare: then.compared_with, group: query.get("group") };
  const given = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
  return h("p", { class: "downloads" }, h("a", { href: `api/as-of/download?${given}`, download: "" }, asked.group ? "Download the group as CSV" : "Download all groups as CSV"));
}

function legend() {
  return h("p", { class: "since" }, h("span", { class: "bar", "aria-hidden": "true" }), " not as declared. ", h("span", { class: "bar drift", "aria-hidden": "true" }), " a different name from most apps of the group. Not certain: between the bounds of a change, or after the app's last good poll. The polls on both sides confirm every other name; a change that was reverted between two polls cannot be seen. Each app is in the group that it had at that time.");
}
