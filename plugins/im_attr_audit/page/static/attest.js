// Attest: whether anything changed in a period, app by app; for printing.
import { appLink, appName, ask, count, h, here, longTime, nothingYet, notice, query, run, show, span, unreadableSeals, when } from "./page.js";
import { choice, field, filterForm, periodFields } from "./forms.js";
import { bigTable } from "./big-table.js";

const LOOKS = { unchanged: ["good", "✓"], changed: ["odd", "≠"], "source changed": ["unsure", "?"], "not watched": ["bad", "✕"], "no change seen, with gaps": ["unsure", "?"] };

run(async () => {
  const whole = periods(new Date());
  const [since, until] = query.get("since") || query.get("until") ? [query.get("since"), query.get("until")] : [whole[0].since, whole[0].until];
  const [setup, attested] = await Promise.all([ask("setup"), ask("attest", { since, until, group: query.get("group"), brief: query.get("all") ? null : "yes" })]);
  const empty = setup.apps.length ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  const isFirst = attested.group !== null && !query.get("group");
  const form = filterForm([
    field("App group", choice("group", [["", isFirst ? `the first: ${attested.group}` : "all"], ...new Set(setup.apps.map((app) => app.app_group))], query.get("group"))),
    periodFields(["From", "To"], attested.since, attested.until),
  ], "Period", { all: query.get("all") });
  const shortcuts = h("p", { class: "pager no-print" }, h("span", {}, "Periods:"),
    shortcutsOf(whole, setup).map((each) => h("a", { href: here({ since: each.since, until: each.until }), "aria-current": isSame(each.since, attested.since) && isSame(each.until, attested.until) ? "true" : null }, each.name)));
  show(form, shortcuts, attested.apps.length
    ? [summary(attested, isFirst ? setup.apps.filter((app) => !app.retired).length : 0), table(attested), method(attested)]
    : notice("info", "No app was in the group in this period.", "Choose another period or group.", { "data-empty": "no-app" }));
});

function isSame(a, b) {
  return +new Date(a) === +new Date(b);
}

/** The last whole month and the last four whole quarters, in the browser's zone. */
function periods(now) {
  const [year, month] = [now.getFullYear(), now.getMonth()];
  const last = new Date(year, month - 1, 1).toLocaleDateString("en-GB", { month: "long", year: "numeric" });
  return [period(last, year, month - 1, 1), ...[1, 2, 3, 4].map((back) => quarter(now, back))];
}

function period(name, year, from, months) {
  const [since, until] = [from, from + months].map((month) => new Date(year, month, 1).toISOString());
  return { name, since, until };
}

/** The quarter of an instant, or the one so many quarters before. */
function quarter(now, back) {
  const month = 3 * (Math.floor(now.getMonth() / 3) - back);
  const from = new Date(now.getFullYear(), month, 1);
  return period(`Q${from.getMonth() / 3 + 1} ${from.getFullYear()}`, now.getFullYear(), month, 3);
}

/** The whole periods, and the current quarter until the last instant that is known of every app that is not stale. */
function shortcutsOf([month, ...quarters], { at, apps }) {
  const seen = apps.filter((app) => app.last_ok_at && !app.stale && !app.retired).map((app) => +new Date(app.last_ok_at));
  const until = new Date(Math.min(...seen));
  const { name, since } = quarter(new Date(at), 0);
  if (!seen.length || until <= new Date(since)) return [month, ...quarters];
  const end = until.toISOString();
  return [month, { name: [`${name} until `, when(end)], since, until: end }, ...quarters];
}

function verdict(text, number = null) {
  const [look, sign] = LOOKS[text] ?? ["unsure", "?"];
  return h("span", { class: `badge ${look}` }, h("span", { "aria-hidden": "true" }, `${sign} `), text, number === null ? "" : `: ${count(number, "app")}`);
}

/** ``all``: how many apps there are where only the first group was asked for. */
function summary(attested, all) {
  const counts = new Map();
  for (const app of attested.apps) counts.set(app.verdict, (counts.get(app.verdict) ?? 0) + 1);
  const { group } = attested;
  return h("section", { "aria-labelledby": "period" },
    h("h2", { id: "period" }, group ? h("bdi", {}, group) : "All groups", h("small", {}, ` from ${longTime(attested.since)} to ${longTime(attested.until)}`)),
    h("p", { class: "chips" }, [...counts].map(([text, number]) => verdict(text, number))),
    h("p", { class: "seal" }, attested.seal ? [`Sealed: seal ${attested.seal.n}, `, when(attested.seal.sealed_at, { seconds: true }), ", covers what was recorded in the period."] : "No seal covers the whole period."),
    unreadableSeals(attested.unreadable_seals),
    h("p", { class: "pager no-print" }, h("button", { type: "button", class: "small", onclick: () => print() }, "Print"),
      h("a", { href: `api/attest/download?${new URLSearchParams({ since: attested.since, until: attested.until, ...(group ? { group } : {}) })}`, download: "" }, "Download as CSV"),
      all ? h("a", { href: here({ all: "yes" }) }, `All groups, ${count(all, "app")}`) : null));
}

/** The newest good poll before the period and the oldest after it; where there is none, the nearest one. */
function atBounds({ first_good_at: first, last_good_at: last }, { since, until }) {
  if (!first) return h("span", { class: "none" }, "none");
  const place = (at, otherwise) => (new Date(at) <= new Date(since) ? "before: " : new Date(at) >= new Date(until) ? "after: " : otherwise);
  return [place(first, "first: "), when(first), first === last ? null : h("span", { class: "since" }, " ", place(last, "last: "), when(last))];
}

/** A hash may break in its middle. */
function halves(hash) {
  return h("code", { class: "hash" }, hash.slice(0, 32), h("wbr"), hash.slice(32));
}

function table(attested) {
  const one = attested.group;
  return bigTable({
    label: "What happened in the period, by app",
    className: "list cards",
    head: ["App", "Verdict", "Changes", "Polls", "Longest gap", "Polls at the bounds", "Chain head", "Hash of the head"].map((title) => h("th", { scope: "col" }, title)),
    widths: [24, 13, 6, 12, 8, 18, 7, 34],
    count: attested.apps.length,
    row: (at) => {
      const app = attested.apps[at];
      const second = (...said) => h("span", { class: "since" }, " ", ...said);
      const none = (text) => h("span", { class: "none" }, text);
      // Null: retention has dropped the polls of the period, so nobody can count them.
      const polls = (number, word) => (number === null ? `unknown number ${word}` : `${number.toLocaleString("en")} ${word}`);
      return h("tr", {},
        h("th", { scope: "row" }, appLink(app), one ? null : second(h("bdi", {}, app.app_group))), h("td", {}, verdict(app.verdict)),
        h("td", {}, app.changes, app.source_changes ? second("source changed ", count(app.source_changes, "time")) : null),
        h("td", { class: "lines" }, app.polls_good === null ? none("deleted by retention") : [polls(app.polls_good, "good"), second(polls(app.polls_failed, "failed"))]),
        h("td", {}, app.longest_gap_seconds === null ? none("unknown")
          : h("a", { href: `timeline?${new URLSearchParams({ app: appName(app), since: attested.since, until: attested.until, lanes: "all" })}` }, span(app.longest_gap_seconds))),
        h("td", { class: "lines" }, atBounds(app, attested)),
        h("td", {}, app.head_seq ?? none("none")), h("td", {}, app.head_hash ? halves(app.head_hash) : none("none")));
    },
  });
}

function method(attested) {
  const quoted = (text) => `'${text.replaceAll("'", "''")}'`;
  const { group } = attested;
  return h("section", { "aria-labelledby": "method" }, h("h2", { id: "method" }, "How to check it"),
    h("p", {}, "Unchanged requires good polls at or before the beginning and at or after the end, and at most an hour from each good poll to the next. A change that was reverted between two polls cannot be seen. A row covers only the time in which the app was in the group. The end does not belong to the period: Changes counts what was seen before it. An app is not unchanged either if a change seen after the end may have happened before it. The head is the newest change in an app's chain of hashes at the end. Compare the hashes with im-attr-audit verify and with chain heads that are stored separately."),
    h("pre", { tabindex: "0", "aria-label": "The query" }, `select * from attr_audit.attest(${quoted(attested.since)}, ${quoted(attested.until)}${group ? `, ${quoted(group)}` : ""});`),
    h("p", { class: "since" }, `Read at ${longTime(attested.at)}.`));
}
