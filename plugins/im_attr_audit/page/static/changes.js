// Changes: newest first, filtered, page by page; one of them in full; a download of the filtered changes.
import { appName, ask, choice, field, filterForm, h, here, KINDS, kindOf, nameOf, nothingYet, notice, query, run, runLink, show, tableFrame, timeInput, when } from "./page.js";
import { changeDialog } from "./change.js";

const FILTERS = ["region", "group", "app", "slot", "kind", "name", "since", "until", "run"];

run(async () => {
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]));
  const [setup, page, runs] = await Promise.all([
    ask("setup"),
    ask("changes", { ...filter, before: query.get("before") }),
    filter.run ? ask("run", { run: filter.run }) : null,
  ]);
  const active = FILTERS.some((name) => filter[name]);
  const empty = active ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  show(
    filter.run ? runPart(runs, filter.run) : null,
    form(filter, setup.apps),
    page.changes.length
      ? [table(page, filter), pager(page)]
      : notice("info", filter.run ? "This run recorded no change." : active ? "No change matches this filter." : "Nothing has been recorded yet.",
        active ? h("a", { href: "changes" }, "Show all changes") : "The first good poll of an app records its names as a baseline.", { "data-empty": "no-change" }),
    downloads(filter));
  const opened = query.get("seq");
  if (opened && filter.app) changeDialog(filter.app, opened);
});

function form(filter, apps) {
  const of = (key) => [["", "any"], ...new Set(apps.map((app) => app[key]))];
  return filterForm([
    field("Region", choice("region", of("region"), filter.region)),
    field("App group", choice("group", of("app_group"), filter.group)),
    field("App", choice("app", [["", "any"], ...apps.map((app) => appName(app))], filter.app)),
    field("Slot", h("input", { type: "number", name: "slot", min: "0", max: "999", value: filter.slot ?? "" })),
    field("Kind", choice("kind", [["", "any"], ...Object.entries(KINDS).map(([kind, [, word]]) => [kind, word])], filter.kind)),
    field("Name contains", h("input", { type: "search", name: "name", value: filter.name ?? "", autocomplete: "off" })),
    field("Seen from", timeInput("since", filter.since)),
    field("Seen to", timeInput("until", filter.until)),
  ], "Filter of changes", { run: filter.run });
}

function table(page) {
  return tableFrame("Changes, newest first", h("table", { class: "list" },
    h("caption", { class: "unseen" }, "Changes, newest first"),
    h("thead", {}, h("tr", {}, ["Seen", "App", "Slot", "Kind", "From", "To", "Run", "Hash"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, page.changes.map((change) => h("tr", {},
      h("td", {}, when(change.seen_at), change.not_before ? h("span", { class: "since" }, "not before ", when(change.not_before)) : h("span", { class: "since" }, "baseline")),
      h("td", {}, h("bdi", {}, change.region), h("span", { class: "since" }, `${change.sdk_app_id}, `, h("bdi", {}, change.app_group))),
      h("td", { class: "number" }, change.slot),
      h("td", {}, kindOf(change.kind)),
      h("td", {}, change.old_name === null ? h("span", { class: "none" }, "no name") : nameOf(change.old_name, change.old_type)),
      h("td", {}, nameOf(change.new_name, change.new_type)),
      h("td", {}, change.dag_run_id ? runLink(change.dag_run_id) : h("span", { class: "none" }, "none")),
      h("td", {}, h("button", {
        type: "button", class: "hash", "aria-label": `${change.row_hash.slice(0, 10)}: details of change ${change.seq} of ${appName(change)}`,
        onclick: () => changeDialog(appName(change), change.seq),
      }, change.row_hash.slice(0, 10))))))));
}

function pager(page) {
  const links = [];
  if (query.get("before")) links.push(h("a", { href: here({ before: null }) }, "Newest"));
  if (page.before) links.push(h("a", { href: here({ before: page.before }), rel: "next" }, "Older changes"));
  return h("p", { class: "pager" }, h("span", {}, `${page.changes.length} changes`), links);
}

function downloads(filter) {
  const address = (format) => {
    const given = new URLSearchParams({ format });
    for (const [name, value] of Object.entries(filter)) if (value) given.set(name, value);
    return `api/changes/download?${given}`;
  };
  return h("p", { class: "downloads" }, "Download every change that matches this filter: ",
    h("a", { href: address("csv"), download: "" }, "CSV"), " or ", h("a", { href: address("json"), download: "" }, "JSON"),
    h("span", { class: "since" }, "For reading, not for verification: im-attr-audit verify needs the export for auditors."));
}

function runPart(run, runId) {
  const failed = run.polls.filter((poll) => poll.is_failed);
  const good = run.polls.filter((poll) => poll.is_good).length;
  const late = run.polls.length - good - failed.length;
  const title = h("p", { class: "what" }, "What the run ", runLink(runId), " recorded. ", h("a", { href: here({ run: null, before: null }) }, "Show all runs"));
  if (!run.polls.length) return h("div", { class: "notice info" }, title, h("p", {}, "It has not polled any app yet, or its polls have been deleted by retention."));
  return h("div", { class: `notice ${failed.length ? "warning" : "good"}` }, title,
    h("p", {}, `${run.polls.length} connections polled, ${good} good, ${failed.length} failed${late ? `, ${late} superseded by newer polls` : ""}.`),
    failed.length ? h("ul", {}, failed.map((poll) => h("li", {}, h("code", {}, poll.conn_id), `: ${poll.outcome}`,
      poll.error_code ? ` (${poll.error_code})` : "", poll.advice ? `. ${poll.advice}` : "", poll.error_info ? h("span", { class: "since" }, h("bdi", {}, poll.error_info)) : null))) : null);
}
