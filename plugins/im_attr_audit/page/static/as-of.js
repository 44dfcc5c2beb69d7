// As of: the names at an instant, with the uncertain ones marked; or two instants side by side.
import { appName, appOf, ask, count, h, here, longTime, nameOf, nothingYet, notice, query, run, show, when } from "./page.js";
import { choice, field, filterForm, timeField } from "./forms.js";
import { bigTable } from "./big-table.js";

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
    field("App group", choice("group", [["", many ? "the first" : "all"], ...then.groups.map((group) => group.app_group)], wanted)),
  ], "Instants");
  const seen = groups.some((group) => group.slots.length);
  show(form,
    then.at > then.now ? notice("info", "That instant is in the future.", "The names are those known now; none of them is certain.") : null,
    then.marks.some((each) => each.is_declaration_unreadable) ? notice("warning", "The declaration on record at that instant is unreadable.", "No name is compared with it. See attr_audit.declaration.") : null,
    !seen ? notice("info", "Nothing was known at that instant.", "It is before the first good poll of every app. Choose a later one.", { "data-empty": "before" })
      : then.compared_with ? comparison({ ...then, groups }, marks, all) : groups.filter((group) => group.slots.length).map((group) => matrix(group, then.at, marks[0])),
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
    widths: ["18rem", ...group.slots.map(() => "12rem")],
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

// Two instants --------------------------------------------------------------------------------

/** What differs between two cells; null: nothing. */
function difference(a, b) {
  if (a.known !== b.known) return a.known ? "known only at the first" : "known only at the second";
  if (a.name !== b.name) return "name differs";
  return a.attr_type !== b.attr_type ? "type differs" : null;
}

function comparison(then, marks, all) {
  const rows = [];
  let same = 0;
  for (const group of then.groups) {
    for (const slot of group.slots) {
      group.apps.forEach((app, which) => {
        const cells = [slot.cells[which], slot.compared[which]];
        const said = difference(...cells);
        if (!said) same += 1;
        if (said || all) rows.push({ group, app, slot: slot.slot, cells, difference: said });
      });
    }
  }
  const toggle = h("a", { href: here({ all: all ? null : "yes" }) }, all ? "Show only the differences" : `Show the ${same.toLocaleString("en")} unchanged ${same === 1 ? "slot" : "slots"}, too`);
  const differ = rows.length - (all ? same : 0);
  return [
    h("p", { class: "pager" }, h("span", {}, `${count(differ, "slot")} ${differ === 1 ? "differs" : "differ"}, ${same.toLocaleString("en")} ${same === 1 ? "is" : "are"} the same.`), same || all ? toggle : null),
    rows.length ? bigTable({
      label: "Comparison of two instants",
      className: "list compared cards",
      head: [...["App group", "App", "Slot"].map((title) => h("th", { scope: "col" }, title)), h("th", { scope: "col" }, when(then.at, { seconds: true })),
        h("th", { scope: "col" }, when(then.compared_with, { seconds: true })), h("th", { scope: "col" }, "Difference")],
      widths: ["10rem", "17rem", "5rem", "17rem", "17rem", "12rem"],
      count: rows.length,
      row: (at) => comparedRow(rows[at], marks),
    })
      : notice("good", "The names at both instants are the same.", null, { "data-empty": "same" }),
  ];
}

function comparedRow({ group, app, slot, cells, difference: said }, marks) {
  const row = rowOf(cells, marks.map((each) => each.of(app, slot)));
  return h("tr", {},
    h("td", {}, h("bdi", {}, group.app_group), app.compared_group ? [" → ", h("bdi", {}, app.compared_group)] : null),
    h("th", { scope: "row" }, appOf(app), row.mark), h("td", { class: "number" }, slot), row.cells,
    h("td", {}, said
      ? h("a", { class: "badge odd", href: `changes?${new URLSearchParams({ app: appName(app), slot })}` }, h("span", { "aria-hidden": "true" }, "≠ "), said)
      : h("span", { class: "none" }, "same")));
}

// Below ---------------------------------------------------------------------------------------

function downloads(then) {
  const asked = { at: then.at, compare: then.compared_with, group: query.get("group") };
  const given = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
  return h("p", { class: "downloads" }, h("a", { href: `api/as-of/download?${given}`, download: "" }, asked.group ? "Download the group as CSV" : "Download all groups as CSV"));
}

function legend() {
  return h("p", { class: "since" }, h("span", { class: "bar", "aria-hidden": "true" }), " not as declared. ", h("span", { class: "bar drift", "aria-hidden": "true" }), " a different name from most apps of the group. Certain means that the polls on both sides agree: a change that was reverted between two polls cannot be seen. Not certain: between the bounds of a change, or after the app's last good poll. Each app is in the group that it had at that time.");
}
