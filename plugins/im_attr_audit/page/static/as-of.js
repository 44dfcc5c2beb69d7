// As of: the names at an instant, with the uncertain ones marked; or two instants side by side.
import { appName, appOf, ask, choice, field, filterForm, h, here, longTime, nameOf, nothingYet, notice, query, run, show, timeInput, when } from "./page.js";
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
  const form = filterForm([
    field("Instant", timeInput("at", query.get("at") ?? then.at)),
    field("Compare with", timeInput("compare", query.get("compare"))),
    field("App group", choice("group", [["", many ? "the first" : "all"], ...then.groups.map((group) => group.app_group)], wanted)),
  ], "Instants");
  const seen = groups.some((group) => group.slots.length);
  show(form,
    then.at > then.now ? notice("info", "That instant is in the future.", "The names are those known now; none of them is certain.") : null,
    !seen ? notice("info", "Nothing was known at that instant.", "It is before the first good poll of every app. Choose a later one.", { "data-empty": "before" })
      : then.compared_with ? comparison({ ...then, groups }, all) : groups.filter((group) => group.slots.length).map((group) => matrix(group, then.at, declaredThen(then.declared[0]))),
    seen ? [downloads(then), legend()] : null);
});

function state(cell, said) {
  const mark = cell.certain || said ? null : [" ", unsure()];
  if (!cell.known) return h("span", { class: "none" }, "not known yet");
  if (cell.name === null) return h("span", {}, h("span", { class: "none" }, cell.certain ? "no name" : "perhaps no name"), mark);
  return h("span", {}, nameOf(cell.name, cell.attr_type), mark);
}

function unsure() {
  return h("span", { class: "badge unsure" }, h("span", { "aria-hidden": "true" }, "? "), "not certain");
}

/** ``drifts``: another name than usual, where none is declared. */
function cellOf(cell, { said = false, drifts = false, violation = null } = {}) {
  return h("td", { class: `${cell.certain ? "" : "unsure"} ${cell.known ? "" : "unknown"} ${drifts || violation ? "odd" : ""}` },
    drifts ? h("span", { class: "unseen" }, "drift: ") : null, state(cell, said),
    violation ? [" ", h("span", { class: "badge odd" }, h("span", { "aria-hidden": "true" }, "≠ "), "declared: ", violation.declared_name === null ? "unused" : nameOf(violation.declared_name))] : null);
}

/** What was declared at an instant: of which groups, and the cells that were not so. */
function declaredThen({ groups, violations }) {
  const cells = new Map(violations.map((each) => [`${appName(each)} ${each.slot}`, each]));
  return { groups: new Set(groups), of: (app, slot) => cells.get(`${appName(app)} ${slot.slot}`) };
}

/** A row for each app; "not certain" once where it holds for the whole row. */
function matrix(group, at, declared) {
  const id = `group-${group.app_group}`;
  const label = `Names of ${group.app_group} at ${longTime(at)}`;
  const usual = group.slots.map(usualOf);
  const isDeclared = declared.groups.has(group.app_group);
  const frame = bigTable({
    label,
    className: "matrix",
    head: [h("th", { scope: "col" }, "App"), ...group.slots.map((slot) => h("th", { scope: "col" }, `Slot ${slot.slot}`))],
    widths: ["18rem", ...group.slots.map(() => "12rem")],
    count: group.apps.length,
    row: (which) => {
      const app = group.apps[which];
      const cells = group.slots.map((slot) => slot.cells[which]);
      const whole = cells.length > 1 && cells.every((cell) => cell.known && !cell.certain);
      return h("tr", {},
        h("th", { scope: "row" }, appOf(app), whole ? [" ", unsure()] : null, app.retired ? h("span", { class: "since" }, " retired since") : null),
        cells.map((cell, slot) => cellOf(cell, {
          said: whole,
          drifts: !isDeclared && cell.known && cell.name !== usual[slot],
          violation: declared.of(app, group.slots[slot]),
        })));
    },
  });
  return h("section", { "aria-labelledby": id },
    h("h2", { id }, h("bdi", {}, group.app_group), h("small", {}, " at ", when(at, { seconds: true }))), frame);
}

/** The name that most apps had; of two with as many, one that is a name. */
function usualOf(slot) {
  const counts = new Map();
  for (const cell of slot.cells) if (cell.known) counts.set(cell.name, (counts.get(cell.name) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] === null) - (b[0] === null))[0]?.[0] ?? null;
}

function differs(a, b) {
  return a.known !== b.known || a.name !== b.name || a.attr_type !== b.attr_type;
}

function comparison(then, all) {
  const rows = [];
  const [first, second] = then.declared.map(declaredThen);
  let same = 0;
  for (const group of then.groups) {
    for (const slot of group.slots) {
      group.apps.forEach((app, which) => {
        const [a, b] = [slot.cells[which], slot.compared[which]];
        const isDifferent = differs(a, b);
        if (!isDifferent) same += 1;
        if (!isDifferent && !all) return;
        rows.push({ group, app, slot, a, b, isDifferent, violations: [first.of(app, slot), second.of(app, slot)] });
      });
    }
  }
  const toggle = h("a", { href: here({ all: all ? null : "yes" }) }, all ? "Show only the differences" : `Show also the ${same} that are the same`);
  return [
    h("p", { class: "pager" }, h("span", {}, `${rows.length - (all ? same : 0)} differ, ${same} are the same.`), same || all ? toggle : null),
    rows.length ? bigTable({
      label: "Comparison of two instants",
      head: [...["App group", "App", "Slot"].map((title) => h("th", { scope: "col" }, title)), h("th", { scope: "col" }, when(then.at, { seconds: true })),
        h("th", { scope: "col" }, when(then.compared_with, { seconds: true })), h("th", { scope: "col" }, "Difference")],
      widths: ["10rem", "16rem", "5rem", "16rem", "16rem", "9rem"],
      count: rows.length,
      row: (at) => comparedRow(rows[at]),
    })
      : notice("good", "The names at both instants are the same.", null, { "data-empty": "same" }),
  ];
}

function comparedRow({ group, app, slot, a, b, isDifferent, violations }) {
  return h("tr", {},
    h("td", {}, h("bdi", {}, group.app_group)), h("td", {}, appOf(app)), h("td", {}, slot.slot), cellOf(a, { violation: violations[0] }), cellOf(b, { violation: violations[1] }),
    h("td", {}, isDifferent
      ? h("a", { class: "badge odd", href: `changes?app=${encodeURIComponent(appName(app))}&slot=${slot.slot}` }, h("span", { "aria-hidden": "true" }, "≠ "), "differs")
      : h("span", { class: "none" }, "same")));
}

function downloads(then) {
  const asked = { at: then.at, compare: then.compared_with, group: query.get("group") };
  const given = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
  return h("p", { class: "downloads" }, h("a", { href: `api/as-of/download?${given}`, download: "" }, asked.group ? "Download the group as CSV" : "Download all groups as CSV"));
}

function legend() {
  return h("p", { class: "since" }, "Certain means that the polls on both sides agree: a change that was reverted between two polls cannot be seen. Not certain: between the bounds of a change, or after the app's last good poll.");
}
