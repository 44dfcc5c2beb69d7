// Attest: whether anything changed in a period, app by app; for printing.
import { appLink, ask, choice, count, field, filterForm, h, longTime, nothingYet, notice, query, run, show, span, timeInput, when } from "./page.js";
import { bigTable } from "./big-table.js";

const LOOKS = { unchanged: ["good", "✓"], changed: ["odd", "≠"], "source changed": ["unsure", "?"], "not watched": ["bad", "✕"], "no change seen, with gaps": ["unsure", "?"] };

run(async () => {
  const [setup, attested] = await Promise.all([ask("setup"), ask("attest", { since: query.get("since"), until: query.get("until"), group: query.get("group") })]);
  const empty = setup.apps.length ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  const form = filterForm([
    field("App group", choice("group", [["", "all"], ...new Set(setup.apps.map((app) => app.app_group))], query.get("group"))),
    field("From", timeInput("since", attested.since)),
    field("To", timeInput("until", attested.until)),
  ], "Period");
  show(form, attested.apps.length
    ? [summary(attested), table(attested), method(attested)]
    : notice("info", "No app was in the group in this period.", "Choose another period or group.", { "data-empty": "no-app" }));
});

function verdict(text, number = null) {
  const [look, sign] = LOOKS[text] ?? ["unsure", "?"];
  return h("span", { class: `badge ${look}` }, h("span", { "aria-hidden": "true" }, `${sign} `), text, number === null ? "" : `: ${count(number, "app")}`);
}

function summary(attested) {
  const counts = new Map();
  for (const app of attested.apps) counts.set(app.verdict, (counts.get(app.verdict) ?? 0) + 1);
  const group = query.get("group");
  return h("section", { "aria-labelledby": "period" },
    h("h2", { id: "period" }, group ? h("bdi", {}, group) : "All groups", h("small", {}, ` from ${longTime(attested.since)} to ${longTime(attested.until)}`)),
    h("p", { class: "chips" }, [...counts].map(([text, number]) => verdict(text, number))),
    h("p", { class: "seal" }, attested.seal ? [`Sealed: seal ${attested.seal.n}, `, when(attested.seal.sealed_at, { seconds: true }), ", covers what was recorded in the period."] : "No seal covers the whole period yet."),
    h("p", { class: "pager no-print" }, h("button", { type: "button", class: "small", onclick: () => print() }, "Print"),
      h("a", { href: `api/attest/download?${new URLSearchParams({ since: attested.since, until: attested.until, ...(group ? { group } : {}) })}`, download: "" }, "Download as CSV")));
}

function table(attested) {
  return bigTable({
    label: "What happened in the period, by app",
    head: ["App", "App group", "Verdict", "Good polls", "Failed", "Changes", "Longest gap", "First good", "Last good", "Head", "Head's hash"].map((title) => h("th", { scope: "col" }, title)),
    widths: ["16rem", "8rem", "13rem", "6rem", "5rem", "6rem", "7rem", "9rem", "9rem", "5rem", "34rem"],
    count: attested.apps.length,
    row: (at) => {
      const app = attested.apps[at];
      return h("tr", {},
        h("th", { scope: "row" }, appLink(app)), h("td", {}, h("bdi", {}, app.app_group)), h("td", {}, verdict(app.verdict)),
        h("td", {}, app.polls_good), h("td", {}, app.polls_failed),
        h("td", {}, app.changes, app.source_changes ? h("span", { class: "since" }, ` source changed ${app.source_changes} times`) : null),
        h("td", {}, span(app.longest_gap_seconds)), h("td", {}, when(app.first_good_at)), h("td", {}, when(app.last_good_at)),
        h("td", {}, app.head_seq ?? h("span", { class: "none" }, "none")), h("td", {}, h("code", { class: "whole" }, app.head_hash ?? "")));
    },
  });
}

function method(attested) {
  const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
  const group = query.get("group");
  return h("section", { "aria-labelledby": "method" }, h("h2", { id: "method" }, "How to check it"),
    h("p", {}, "Unchanged needs a good poll at or before the begin and one at or after the end, never more than an hour apart in between. A change that was reverted between two polls cannot be seen. Compare the hashes with im-attr-audit verify and with chain heads that are stored separately."),
    h("pre", { tabindex: "0", "aria-label": "The query" }, `select * from attr_audit.attest(${quoted(attested.since)}, ${quoted(attested.until)}${group ? `, ${quoted(group)}` : ""});`),
    h("p", { class: "since" }, `Read at ${longTime(attested.at)}.`));
}
