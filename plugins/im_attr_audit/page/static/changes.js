// Changes: newest first, filtered, page by page; one of them in full; a download of the filtered changes.
import { appOf, appName, ask, count, follows, h, here, KINDS, kindOf, lookalikeOf, nameOf, nothingYet, notice, oldNameOf, query, runLink, show, tableFrame, when } from "./page.js";
import { allOf, appField, choice, field, filterForm, periodFields } from "./forms.js";
import { runAndRefresh } from "./refresh.js";
import { bigTable } from "./big-table.js";
import { changeAddress, changeView, declaredOf, proofLink, verdictOf } from "./change.js";

const FILTERS = ["region", "group", "app", "slot", "kind", "name", "since", "until", "run", "review"];
const ON_A_PAGE = 25;
const REVIEWS = [["", "all"], ["unreviewed", "unreviewed"], ["reviewed", "reviewed"], ["expected", "✓ expected"], ["not_expected", "✕ not expected"]];

runAndRefresh(async () => {
  const filter = Object.fromEntries(FILTERS.map((name) => [name, query.get(name)]));
  if (filter.app && query.get("seq")) return changeView(filter.app, query.get("seq"));
  const [setup, page, runs] = await Promise.all([
    ask("setup"),
    ask("changes", { ...filter, before: query.get("before"), limit: ON_A_PAGE }),
    filter.run ? ask("run", { run: filter.run }) : null,
  ]);
  const active = query.get("before") || FILTERS.some((name) => filter[name]);
  const empty = active ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  const isWhole = !page.before && !query.get("before");
  const counted = h("span", {}, isWhole ? countOf({ changes: page.changes.length, baselines: page.changes.filter((change) => change.kind === "baseline").length }) : `${count(page.changes.length, "change")} on this page`);
  show(
    filter.run ? runPart(runs, filter.run) : null,
    form(filter, setup.apps),
    page.changes.length
      ? [pager(page, counted), table(page), pager(page)]
      : notice("info", filter.run ? "This run recorded no change." : active ? "No change matches this filter." : "Nothing has been recorded yet.",
        active ? h("a", { href: "changes" }, "Show all changes") : "The first good poll of an app records its names as a baseline.", { "data-empty": "no-change" }),
    page.changes.length ? downloads(filter) : null);
  if (page.changes.length && !isWhole) await counting(page, filter, counted);
});

/** A baseline records the names of a first good poll; it does not show that somebody changed a name. */
function countOf({ changes, baselines }) {
  return `${count(changes, "change")}${baselines ? ` (${count(baselines, "baseline")})` : ""}`;
}

/** How many match in all; the list is shown without waiting for it. */
async function counting(page, filter, place) {
  try {
    const found = await ask("changes/count", filter);
    place.textContent = `Showing ${page.changes.length} of ${found.more ? "more than " : ""}${countOf(found)}`;
  } catch {
    // The list stands without it.
  }
}

function form(filter, apps) {
  return filterForm([
    field("Region", choice("region", allOf(apps, "region"), filter.region)),
    field("App group", choice("group", allOf(apps, "app_group"), filter.group)),
    appField(apps, filter.app),
    field("Slot", h("input", { type: "number", name: "slot", min: "0", max: "999", value: filter.slot ?? "" })),
    field("Kind", choice("kind", [["", "all"], ...Object.entries(KINDS).map(([kind, [, word]]) => [kind, word])], filter.kind)),
    field("Review", choice("review", REVIEWS, filter.review)),
    field("Name contains", h("input", { type: "search", name: "name", value: filter.name ?? "", autocomplete: "off" })),
    periodFields(["Seen from", "Seen to"], filter.since, filter.until),
  ], "Filter of changes", { run: filter.run });
}

function table(page) {
  const cell = (title, ...children) => h("td", { "data-title": title }, ...children);
  return tableFrame("Changes, newest first", h("table", { class: "list cards" },
    h("caption", { class: "unseen" }, "Changes, newest first"),
    h("thead", {}, h("tr", {}, ["Seen", "App", "Slot", "Kind", "From", "To", "Review", "Seen by run"].map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, page.changes.map((change) => {
      const address = changeAddress(change);
      return h("tr", { class: "link", onclick: follows(address) },
        cell("Seen", h("a", { href: address }, when(change.seen_at), h("span", { class: "unseen" }, `, change ${change.seq} of ${appName(change)}`)),
          h("span", { class: "since" }, change.not_before ? ["not before ", when(change.not_before)] : "baseline")),
        cell("App", appOf(change), h("span", { class: "since" }, h("bdi", {}, change.app_group))),
        cell("Slot", change.slot),
        cell("Kind", kindOf(change.kind), change.moved_from_slot === null ? null : h("span", { class: "since" }, `from slot ${change.moved_from_slot}`)),
        cell("From", oldNameOf(change)),
        cell("To", nameOf(change.new_name, change.new_type), change.lookalike ? [" ", lookalikeOf(change.lookalike)] : null),
        cell("Review", reviewOf(change)),
        cell("Seen by run", change.dag_run_id ? runLink(change.dag_run_id) : h("span", { class: "none" }, "none")));
    }))));
}

/** As declared or not, and the verdict with who gave it. */
function reviewOf(change) {
  if (change.kind === "baseline") return h("span", { class: "none" }, "none");
  const marks = [declaredOf(change.declared), change.verdict ? verdictOf(change.verdict) : null].filter(Boolean);
  const by = change.verdict ? h("span", { class: "since", title: change.reviewed_at }, "by ", h("bdi", {}, change.reviewer), change.ticket ? [", ", h("bdi", {}, change.ticket)] : "") : null;
  if (!marks.length) return h("span", { class: "none" }, "not reviewed");
  return h("div", {}, marks.map((mark, at) => [at ? " " : "", mark]), by);
}

function pager(page, counted = null) {
  const links = [];
  if (query.get("before")) links.push(h("a", { href: here({ before: null }) }, "Newest"));
  if (page.before) links.push(h("a", { href: here({ before: page.before }), rel: "next" }, "Older changes"));
  return counted || links.length ? h("p", { class: "pager" }, counted, links) : null;
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
  if (!run.polls.length) return h("div", { class: "notice info" }, title, h("p", {}, run.is_folded ? "Retention has folded the good polls of its month." : "It has not polled any app yet, or its polls have been deleted by retention."));
  return h("div", { class: `notice ${failed.length ? "warning" : "good"}` }, title,
    run.is_folded ? h("p", {}, "Retention has folded the good polls of its month. Below are those that a change cites, and the failed ones.") : h("p", {}, `${count(run.polls.length, "connection")} polled, ${good} good, ${failed.length} failed${late ? `, ${late} superseded by newer polls` : ""}.`),
    failed.length ? h("ul", {}, failed.map((poll) => h("li", {}, h("code", {}, poll.conn_id), `: ${poll.outcome}`,
      poll.error_code ? ` (${poll.error_code})` : "", poll.advice ? `. ${poll.advice}` : "", poll.error_info ? h("span", { class: "since" }, h("bdi", {}, poll.error_info)) : null))) : null,
    h("details", {}, h("summary", {}, `All ${count(run.polls.length, "poll")}, with proofs`), pollsOf(run.polls)));
}

/** Each connection's newest poll in the run. */
function pollsOf(polls) {
  return bigTable({
    label: "Polls of the run",
    className: "list",
    head: ["App", "Outcome", "Requested at", "Proof"].map((title) => h("th", { scope: "col" }, title)),
    widths: [22, 10, 14, 16],
    count: polls.length,
    row: (at) => pollRow(polls[at]),
  });
}

/** Of a misconfigured connection, region and SDKAppID can each be missing. */
function namesNoApp(poll) {
  return poll.region === null || poll.sdk_app_id === null;
}

function pollRow(poll) {
  const none = (text) => h("span", { class: "none" }, text);
  return h("tr", {},
    h("th", { scope: "row" }, namesNoApp(poll) ? h("code", {}, poll.conn_id) : appOf(poll)),
    h("td", {}, poll.outcome), h("td", {}, when(poll.requested_at, { seconds: true })),
    h("td", {}, poll.is_sealed ? proofLink(poll, { at: poll.requested_at }, "Download the proof")
      : none(namesNoApp(poll) ? "none: it names no app" : "available once it is sealed")));
}
