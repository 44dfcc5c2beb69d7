// Health: each app's last good poll, the newest poll's outcome and what to do; the chain check.
import { ago, appLink, appName, ask, count, h, nothingYet, notice, query, show, span, misconfiguredList, unreadableSeals, when } from "./page.js";
import { allOf, choice, field, filterForm } from "./forms.js";
import { bigTable } from "./big-table.js";
import { runAndRefresh } from "./refresh.js";

const BROKEN_SHOWN = 20;

runAndRefresh(async () => {
  const health = await ask("health");
  const empty = await nothingYet(health.apps);
  if (empty) return show(empty);
  const chain = h("div", { "aria-live": "polite" }, h("p", { class: "waiting" }, "Recomputing the chain of hashes …"));
  const chosen = Object.fromEntries(["group", "outcome", "conn"].map((name) => [name, query.get(name)]));
  const apps = health.apps.filter((app) => (!chosen.group || app.app_group === chosen.group)
    && (!chosen.outcome || (chosen.outcome === "stale" ? app.stale : app.last_outcome === chosen.outcome))
    && (!chosen.conn || app.conn_id.toLowerCase().includes(chosen.conn.toLowerCase())));
  const bad = health.apps.filter((app) => app.stale || !app.is_good);
  const limit = `An app is stale after ${span(health.stale_after_seconds)} without a good poll.`;
  show(
    h("section", { "aria-labelledby": "apps" }, h("h2", { id: "apps" }, "Apps"),
      bad.length
        ? notice(bad.some((app) => app.stale) ? "error" : "warning", `${bad.length} of ${count(health.apps.length, "app")} ${bad.length === 1 ? "needs" : "need"} attention.`, limit)
        : notice("good", `${health.apps.length === 1 ? "The app has" : `All ${count(health.apps.length, "app")} have`} a recent good poll.`, limit),
      health.misconfigured.length ? [notice("warning", "Misconfigured connections that do not name their app; nothing was sent.", "Fix them in Airflow under Admin, Connections."), misconfiguredList(health.misconfigured)] : null,
      bad.length || health.misconfigured.length ? h("p", { class: "since" }, "What to do: ", runbook(health, "Alert: stale"), ".") : null,
      form(chosen, health.apps),
      apps.length ? h("p", { class: "since" }, "Polls of the last 24 hours, a bar for each half hour: short and green for good polls, tall and red for failed ones, both for both, a line for none.") : null,
      apps.length ? table(health, apps) : notice("info", "No app matches this filter.", h("a", { href: "health" }, "Show all apps"), { "data-empty": "no-app" })),
    h("section", { "aria-labelledby": "chain" }, h("h2", { id: "chain" }, "The record's chain"), chain,
      h("p", { class: "downloads" }, h("a", { href: "api/heads/download", download: "" }, "Download the heads of all chains"), " and store them elsewhere: ", h("code", {}, "im-attr-audit verify --heads FILE"), " compares them with the record later.")),
    seal(health));
  await verify(chain, health, false);
});

/** A section of the runbooks: a link where their address is set. */
function runbook({ runbooks_url: url }, title) {
  const text = `docs/runbooks.md of im-attr-audit, section "${title}"`;
  return url ? h("a", { href: `${url}#${title.toLowerCase().replace(": ", "-")}`, target: "_blank", rel: "noreferrer" }, text) : text;
}

/** What the record's own copy of the newest seal says; the witnesses' files are what counts. */
function seal({ seal: newest, unreadable_seals: unreadable, at }) {
  const title = h("h2", { id: "seal" }, "The newest seal");
  if (!newest) {
    return h("section", { "aria-labelledby": "seal" }, title, unreadableSeals(unreadable), notice("info", "The record is not sealed.", "Run im-attr-audit checkpoint, so that an outsider can check that nothing was rewritten."));
  }
  const overdue = new Date(at) - new Date(newest.sealed_at) >= 24 * 3600e3;
  return h("section", { "aria-labelledby": "seal" }, title, unreadableSeals(unreadable),
    notice(overdue ? "error" : "good", `Sealed ${ago(newest.sealed_at, at)}.`, overdue ? "Check the job that runs im-attr-audit checkpoint." : null, { "data-seal": overdue ? "overdue" : "ok" }),
    h("dl", {},
      h("dt", {}, "Seal"), h("dd", {}, newest.n, ", ", when(newest.sealed_at, { seconds: true })),
      h("dt", {}, "Log and key"), h("dd", {}, newest.origin ? h("bdi", {}, newest.origin) : "without a name"),
      h("dt", {}, "Witnesses"), h("dd", {}, witnesses(newest, at)),
      h("dt", {}, "Time stamp"), h("dd", {}, newest.is_stamped ? "by an RFC 3161 authority" : "none"),
      h("dt", {}, "Checkpoint"), h("dd", {}, h("pre", { tabindex: "0", "aria-label": "The signed checkpoint" }, newest.note),
        h("p", { class: "downloads" }, h("a", { href: "api/checkpoint/download", download: "" }, "Download the checkpoint")),
        h("p", { class: "since" }, "This is the database's copy. Compare it with the files at the witnesses: im-attr-audit verify --checkpoints DIR."))));
}

/** Where checkpoint wrote, as it reported: the page does not ask the witnesses. */
function witnesses({ n, witnesses: all }, at) {
  if (!all.length) return h("span", { class: "none" }, "none reported");
  return h("ul", {}, all.map(({ target, size, witnessed_at: since }) => {
    const behind = size <= n;
    const overdue = new Date(at) - new Date(since) >= 24 * 3600e3;
    return h("li", { "data-witness": overdue ? "overdue" : behind ? "behind" : "ok" },
      h("span", { class: `badge ${overdue ? "bad" : behind ? "unsure" : "good"}` }, h("span", { "aria-hidden": "true" }, overdue || behind ? "✕ " : "✓ "), behind ? `has ${size} of ${n + 1} seals` : "has it"),
      " ", h("bdi", {}, target), h("span", { class: "since" }, "written ", ago(since, at)));
  }));
}

function form(chosen, apps) {
  const [all, ...outcomes] = allOf(apps, "last_outcome");
  return filterForm([
    field("App group", choice("group", allOf(apps, "app_group"), chosen.group)),
    field("Newest poll", choice("outcome", [all, ...outcomes.sort(), "stale"], chosen.outcome)),
    field("Connection contains", h("input", { type: "search", name: "conn", value: chosen.conn ?? "", autocomplete: "off" })),
  ], "Filter of the apps");
}

function table(health, chosen) {
  const rank = (app) => (app.stale ? 0 : app.is_good ? 2 : 1);
  const apps = [...chosen].sort((a, b) => rank(a) - rank(b));
  return bigTable({
    label: "Health of the apps, those that need attention first",
    className: "list cards",
    head: ["App", "Last good poll", "Newest poll", "Failures in a row", "Last 24 hours"].map((title) => h("th", { scope: "col" }, title)),
    widths: [20, 17, 24, 10, 28],
    count: apps.length,
    row: (at) => row(apps[at], health),
  });
}

function row(app, health) {
  return h("tr", {},
    h("th", { scope: "row" }, appLink(app), h("span", { class: "since" }, " ", h("code", {}, app.conn_id), ", ", h("bdi", {}, app.app_group))),
    h("td", {}, when(app.last_ok_at), h("span", { class: "since" }, " ", app.last_ok_at ? ago(app.last_ok_at, health.at) : `first polled ${span(app.age_seconds)} ago`),
      app.stale ? [" ", h("span", { class: "badge stale" }, h("span", { "aria-hidden": "true" }, "⚠ "), "stale")] : null),
    h("td", { class: "outcome" }, outcome(app), app.advice ? h("p", {}, app.advice) : null,
      app.error_info ? h("p", { class: "since" }, "Message: ", h("bdi", {}, app.error_info)) : null),
    h("td", {}, app.consecutive_failures),
    h("td", {}, strip(app)));
}

function outcome(app) {
  const [look, sign] = app.is_good ? ["good", "✓ "] : app.last_poll_failed ? ["bad", "✕ "] : ["unsure", "? "];
  return h("span", { class: `badge ${look}` }, h("span", { "aria-hidden": "true" }, sign), app.last_outcome, app.error_code ? ` ${app.error_code}` : "");
}

/** Half an hour a cell: a short bar for good polls, a tall one for failed, its upper part for both, a line for none. */
function strip(app) {
  const buckets = app.good.length;
  const width = 5;
  const svgNs = "http://www.w3.org/2000/svg";
  const make = (tag, attributes) => {
    const element = document.createElementNS(svgNs, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const svg = make("svg", { viewBox: `0 0 ${buckets * width} 18`, class: "strip", role: "img" });
  // One path of each kind: a path for each poll would be thousands.
  let short = "", tall = "", lines = "";
  for (let at = 0; at < buckets; at++) {
    const x = at * width;
    const [ok, bad] = [app.good[at], app.failed[at]];
    if (ok) short += `M${x} 8h4v8h-4z`;
    if (bad) tall += ok ? `M${x} 1h4v6h-4z` : `M${x} 1h4v15h-4z`;
    if (!ok && !bad) lines += `M${x} 14h4v2h-4z`;
  }
  svg.append(make("path", { d: short, class: "good" }), make("path", { d: tall, class: "bad" }), make("path", { d: lines, class: "nothing" }));
  const total = (counts) => counts.reduce((sum, count) => sum + count, 0);
  const [good, failed] = [total(app.good), total(app.failed)];
  svg.setAttribute("aria-label", `${appName(app)}: ${good} good and ${failed} failed polls in the last 24 hours`);
  return h("div", {}, svg, h("span", { class: "since" }, `${good} good, ${failed} failed`));
}

async function verify(place, health, again) {
  const checkAgain = h("button", { type: "button", onclick: () => {
    place.replaceChildren(h("p", { class: "waiting" }, "Recomputing the chain of hashes …"));
    verify(place, health, true);
  } }, "Check again");
  try {
    const result = await ask("verification", { again: again || null });
    const how = h("span", {}, `${count(result.rows_checked, "change")} in ${count(result.chains, "chain")}, checked `, when(result.at, { seconds: true }), ` in ${result.took_seconds.toFixed(1)} s. `);
    place.replaceChildren(
      !result.chains ? notice("info", "There is no change yet, so there is no chain to check.", how, { "data-chain": "none" })
      : result.ok ? notice("good", "Every chain is intact.", how, { "data-chain": "ok" })
        : notice("error", `${count(result.broken.length, "chain")} ${result.broken.length === 1 ? "is" : "are"} broken: the record was altered.`,
          h("span", {}, how, "First bad rows: ", result.broken.slice(0, BROKEN_SHOWN).map((each) => `${each.region}/${each.sdk_app_id} at ${each.first_bad_seq}`).join(", "),
            result.broken.length > BROKEN_SHOWN ? ` and ${count(result.broken.length - BROKEN_SHOWN, "more chain")}` : "", ". Leave the database unchanged; ", runbook(health, "verify: chain"), " has the steps."), { "data-chain": "broken" }),
      checkAgain,
      h("p", { class: "since" }, "This check cannot see that a chain was rewritten as a whole, truncated or deleted. im-attr-audit verify can, with chain heads that are stored separately."));
  } catch (error) {
    place.replaceChildren(notice("error", error.message, error.next), checkAgain);
  }
}
