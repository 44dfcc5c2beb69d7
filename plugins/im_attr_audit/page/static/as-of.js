// As of: the names at an instant, with the uncertain ones marked; or two instants side by side.
import { appName, ask, field, filterForm, h, here, longTime, nameOf, nothingYet, notice, query, run, show, tableFrame, timeInput, when } from "./page.js";

run(async () => {
  const then = await ask("as-of", { at: query.get("at"), compare: query.get("compare") });
  const apps = then.groups.flatMap((group) => group.apps);
  const empty = await nothingYet(apps);
  if (empty) return show(empty);
  const all = query.get("all") === "yes";
  const form = filterForm([
    field("Instant", timeInput("at", query.get("at") ?? then.at)),
    field("Compare with", timeInput("compare", query.get("compare"))),
  ], "Instants");
  const seen = then.groups.some((group) => group.slots.length);
  show(form,
    then.at > then.now ? notice("info", "That instant is in the future.", "The names are those known now; none of them is certain.") : null,
    !seen ? notice("info", "Nothing was known at that instant.", "It is before the first good poll of every app. Choose a later one.", { "data-empty": "before" })
      : then.compared_with ? comparison(then, all) : then.groups.filter((group) => group.slots.length).map((group) => matrix(group, then.at)),
    seen ? legend() : null);
});

function state(cell) {
  if (!cell.known) return h("span", { class: "none" }, "not known yet");
  if (cell.name === null) return h("span", {}, h("span", { class: "none" }, cell.certain ? "no name" : "perhaps no name"), cell.certain ? null : [" ", unsure()]);
  return h("span", {}, nameOf(cell.name, cell.attr_type), cell.certain ? null : [" ", unsure()]);
}

function unsure() {
  return h("span", { class: "badge unsure" }, h("span", { "aria-hidden": "true" }, "? "), "not certain");
}

function cellOf(cell) {
  return h("td", { class: `${cell.certain ? "" : "unsure"} ${cell.known ? "" : "unknown"}` }, state(cell));
}

function matrix(group, at) {
  const wide = group.apps.length > 8;
  const id = `group-${group.app_group}`;
  const appHead = (app, scope) => h("th", { scope }, h("bdi", {}, app.region), h("span", { class: "since" }, app.sdk_app_id), app.retired ? h("span", { class: "since" }, "retired since") : null);
  const table = wide
    ? [h("thead", {}, h("tr", {}, h("td", {}), group.slots.map((slot) => h("th", { scope: "col", class: "slot" }, `Slot ${slot.slot}`)))),
      h("tbody", {}, group.apps.map((app, which) => h("tr", {}, appHead(app, "row"), group.slots.map((slot) => cellOf(slot.cells[which])))))]
    : [h("thead", {}, h("tr", {}, h("td", {}), group.apps.map((app) => appHead(app, "col")))),
      h("tbody", {}, group.slots.map((slot) => h("tr", {}, h("th", { scope: "row", class: "slot" }, `Slot ${slot.slot}`), slot.cells.map(cellOf))))];
  return h("section", { "aria-labelledby": id },
    h("h2", { id }, h("bdi", {}, group.app_group), h("small", {}, " at ", when(at, { seconds: true }))),
    tableFrame(`Names of ${group.app_group} at ${longTime(at)}`, h("table", { class: "matrix" }, h("caption", { class: "unseen" }, `Names of ${group.app_group} at ${longTime(at)}`), table)));
}

function differs(a, b) {
  return a.known !== b.known || a.name !== b.name || a.attr_type !== b.attr_type;
}

function comparison(then, all) {
  const rows = [];
  let same = 0;
  for (const group of then.groups) {
    for (const slot of group.slots) {
      group.apps.forEach((app, which) => {
        const [a, b] = [slot.cells[which], slot.compared[which]];
        const isDifferent = differs(a, b);
        if (!isDifferent) same += 1;
        if (!isDifferent && !all) return;
        rows.push(h("tr", {},
          h("td", {}, h("bdi", {}, group.app_group)),
          h("td", {}, h("bdi", {}, app.region), h("span", { class: "since" }, app.sdk_app_id)),
          h("td", { class: "number" }, slot.slot),
          cellOf(a), cellOf(b),
          h("td", {}, isDifferent
            ? h("a", { class: "badge odd", href: `changes?app=${encodeURIComponent(appName(app))}&slot=${slot.slot}` }, h("span", { "aria-hidden": "true" }, "≠ "), "differs")
            : h("span", { class: "none" }, "same"))));
      });
    }
  }
  const toggle = h("a", { href: here({ all: all ? null : "yes" }) }, all ? "Show only the differences" : `Show also the ${same} that are the same`);
  return [
    h("p", { class: "pager" }, h("span", {}, `${rows.length - (all ? same : 0)} differ, ${same} are the same.`), same || all ? toggle : null),
    rows.length ? tableFrame("Comparison of two instants", h("table", { class: "list" },
      h("caption", { class: "unseen" }, "Comparison of two instants"),
      h("thead", {}, h("tr", {}, ["Group", "App", "Slot"].map((title) => h("th", { scope: "col" }, title)),
        h("th", { scope: "col" }, when(then.at, { seconds: true })), h("th", { scope: "col" }, when(then.compared_with, { seconds: true })), h("th", { scope: "col" }, "Difference"))),
      h("tbody", {}, rows)))
      : notice("good", "The names at both instants are the same.", null, { "data-empty": "same" }),
  ];
}

function legend() {
  return h("p", { class: "since" }, "Certain means that the polls on both sides agree: a change that was reverted between two polls cannot be seen. Not certain: between the bounds of a change, or after the app's last good poll.");
}
