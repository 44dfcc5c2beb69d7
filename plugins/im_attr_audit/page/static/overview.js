// Overview: what needs somebody, the most urgent first: who, where, since when, and the one thing to do.
import { ago, airflowLink, appLink, appOf, ask, count, follows, h, kindOf, lookalikeOf, nameOf, nothingYet, notice, show, someApps, span, misconfiguredList, when } from "./page.js";
import { bigTable } from "./big-table.js";
import { changeAddress } from "./change.js";
import { runAndRefresh } from "./refresh.js";

/** So many of a kind are shown; the view that has all of them is linked. */
const SHOWN = 6;
const SEALED_FOR = 24 * 3600e3;

runAndRefresh(async () => {
  const overview = await ask("overview");
  const empty = overview.apps ? null : await nothingYet([]);
  if (empty) return show(empty);
  const needs = [
    ...violations(overview),
    ...unreviewed(overview),
    ...limited(overview.stale, (cause) => need("bad", "⚠", h("a", { href: "health?outcome=stale" }, staleTitle(cause)), since(cause), cause.advice ?? "No poll has been recorded since. Check that the DAG is not paused and that Airflow's scheduler runs.", causeApps(cause)), "health", "stale apps"),
    ...misconfigured(overview.misconfigured),
    ...limited(overview.failing, (cause) => need("", "✕", h("a", { href: `health?outcome=${cause.outcome}` }, `The newest poll of ${count(cause.apps, "app")} failed: ${cause.outcome}${cause.error_code ? ` ${cause.error_code}` : ""}`), since(cause), cause.advice, causeApps(cause)), "health", "failures"),
    ...unsealed(overview),
    ...limited(overview.drift, driftNeed, "names?only=yes", "slots with drift"),
  ];
  show(
    sentence(overview),
    needs.length ? h("ul", { class: "needs", "aria-label": "What needs attention" }, needs) : null,
    h("section", { "aria-labelledby": "newest" }, h("h2", { id: "newest" }, "Changes of the last 7 days"),
      overview.changes.length
        ? [changes(overview.changes), h("p", { class: "pager" }, h("a", { href: "changes" }, "All changes"))]
        : h("p", {}, "No change was seen. ", h("a", { href: "changes" }, "All changes"))),
    hints(overview));
});

function sentence(overview) {
  const stale = total(overview.stale), failing = total(overview.failing), wrong = overview.violating_slots;
  const lastGood = overview.seen_at ? ago(overview.seen_at, overview.at) : null;
  const seen = lastGood ? `a good poll within the last ${span((new Date(overview.at) - new Date(overview.seen_at)) / 1000, Math.ceil)}` : "no good poll yet";
  const parts = [];
  const part = (number, word, one, many) => { if (number) parts.push(`${count(number, word)} ${number === 1 ? one : many}`); };
  part(wrong, "slot", "is not as declared", "are not as declared");
  if (overview.unknown_apps > stale) parts.push(`${count(overview.unknown_apps, "app")} with declared names ${overview.unknown_apps === 1 ? "has" : "have"} no recent good poll`);
  // Where nobody reviews, an unreviewed change needs no attention.
  if (overview.is_reviewed && overview.unreviewed_changes) {
    parts.push(`${overview.more_unreviewed ? "more than " : ""}${count(overview.unreviewed_changes, "change")} ${overview.unreviewed_changes === 1 ? "is" : "are"} unreviewed`);
  }
  if (stale) parts.push(`${stale} of ${count(overview.apps, "app")} ${stale === 1 ? "is" : "are"} stale`);
  part(overview.misconfigured.length, "connection", "is misconfigured", "are misconfigured");
  if (failing) parts.push(`the newest poll of ${count(failing, "app")} failed`);
  if (unsealed(overview).length) parts.push("the record's seal is overdue");
  part(overview.drift.length, "slot", "drifts", "drift");
  const seal = overview.newest_seal;
  const slots = wrong || overview.drift.length ? ` A slot is one of an app's numbered user attributes${overview.drift.length ? "; it drifts when apps of its group have different names in it" : ""}.` : "";
  const limit = `An app is stale after ${span(overview.stale_after_seconds)} without a good poll.${slots}`;
  if (!parts.length) {
    const declared = overview.declared_groups.length;
    const names = !declared ? "No names drift" : declared === overview.groups ? "All names are as declared" : "All declared names are as declared, and no others drift";
    return notice("good", `${names}${lastGood ? `, seen ${lastGood}` : ""}${seal ? `, sealed ${ago(seal.sealed_at, overview.at)}` : ""}.`,
      `${overview.apps === 1 ? "The app" : `Each of ${count(overview.apps, "app")}`} had ${seen}. ${limit}`, { "data-state": "well" });
  }
  const text = parts.join("; ");
  const bad = stale || wrong || overview.misconfigured.length || unsealed(overview).length;
  return notice(bad ? "error" : "warning", `${text[0].toUpperCase()}${text.slice(1)}.`,
    stale < overview.apps ? `${stale ? "Every other app" : overview.apps === 1 ? "The app" : "Every app"} had ${seen}. ${limit}` : limit, { "data-state": "needs" });
}

const VIOLATIONS = {
  different: "has a different name than declared",
  missing: "has no name where one is declared",
  undeclared: "has a name where none is declared",
};

function violations(overview) {
  const shown = overview.violations.slice(0, SHOWN).map((cause) => need("bad", "≠",
    h("a", { href: `names?${new URLSearchParams({ group: cause.app_group, slot: cause.slot })}` }, "Slot ", cause.slot, " of ", h("bdi", {}, cause.app_group), ` ${VIOLATIONS[cause.violation] ?? cause.violation}`),
    ["declared: ", cause.declared_name === null ? h("span", { class: "none" }, "unused") : nameOf(cause.declared_name), ", is: ", nameOf(cause.actual_name), cause.lookalike ? [" ", lookalikeOf(cause.lookalike)] : ""],
    cause.violation === "undeclared" ? "Have the attribute removed in Tencent's console, or declare its name." : "Have the name corrected in Tencent's console, or declare an exception with its reason.",
    ["not as declared: ", cause.some.map((app, at) => [at ? ", " : "", appLink(app), " since ", when(app.since)]), cause.apps > cause.some.length ? ` and ${count(cause.apps - cause.some.length, "more app")}` : ""]));
  const more = overview.violation_causes - shown.length;
  if (more > 0) shown.push(moreOf("names?only=yes", `${count(more, "more difference")} from the declared names`));
  // Stale apps are listed by their cause; only apps that are not among them are missing here.
  if (overview.unknown_apps > total(overview.stale)) {
    shown.push(need("", "?", `${count(overview.unknown_apps, "app")} with declared names ${overview.unknown_apps === 1 ? "has" : "have"} no recent good poll`, null, "Find the cause in Health.", h("a", { href: "health" }, "Health")));
  }
  return shown;
}

function unreviewed(overview) {
  const waiting = overview.unreviewed_changes;
  if (!waiting || !overview.is_reviewed) return [];
  const oldest = overview.unreviewed.at(-1);
  return [need("", "◔", h("a", { href: "changes?review=unreviewed" }, `${overview.more_unreviewed ? "More than " : ""}${count(waiting, "change")} of the last 30 days ${waiting === 1 ? "is" : "are"} unreviewed`),
    waiting > overview.unreviewed.length ? null : ["waiting since ", when(oldest.seen_at)],
    ["Answer in Airflow under Browse, ", airflowLink("required_actions", "Required Actions"), ": was it expected? Or declare the new name."],
    overview.unreviewed.map((change, at) => [at ? ", " : "", h("a", { href: changeAddress(change) }, nameOf(change.new_name ?? change.old_name), change.new_name === null ? " removed" : ""), " in ", appOf(change)]))];
}

/** What nobody has used: no alarm, but the page can say less without it. */
function hints(overview) {
  const missing = [
    overview.declared_groups.length ? null
      : ["No names are declared, so only drift can be shown. Write the right names into the Variable im_attr_audit_declared_names, or into declared_names.yaml in the DAG's folder; ", h("code", {}, "im-attr-audit declare FILE"), " checks it first."],
    overview.is_reviewed ? null
      : ["No change has been reviewed yet. While ", airflowLink("dags/im_attr_name_review", "the DAG im_attr_name_review"), " is not paused, it asks about each change that is not as declared."],
    overview.newest_seal ? null
      : ["The record is not sealed. Run ", h("code", {}, "im-attr-audit checkpoint"), " every 15 minutes, on a machine that Airflow cannot write to, so that an outsider can check that nothing was rewritten."],
  ].filter(Boolean);
  return missing.length ? h("section", { "aria-labelledby": "hints" }, h("h2", { id: "hints" }, "Not used yet"), h("ul", { class: "hints" }, missing.map((hint) => h("li", {}, hint)))) : null;
}

function total(causes) {
  return causes.reduce((sum, cause) => sum + cause.apps, 0);
}

function limited(items, make, address, what) {
  const shown = items.slice(0, SHOWN).map(make);
  if (items.length > SHOWN) shown.push(moreOf(address, `All ${what}`));
  return shown;
}

function moreOf(address, text) {
  return h("li", { class: "need" }, h("span"), h("p", {}, h("a", { href: address }, text)));
}

function need(look, sign, what, sinceWhen, todo, where) {
  return h("li", { class: `need ${look}` },
    h("span", { class: "sign", "aria-hidden": "true" }, sign),
    h("div", {}, h("p", { class: "what" }, what), h("p", { class: "since" }, where), sinceWhen ? h("p", { class: "since" }, sinceWhen) : null),
    h("div", { class: "do" }, h("p", {}, todo)));
}

function staleTitle(cause) {
  return `${count(cause.apps, "app")} ${cause.apps === 1 ? "is" : "are"} stale: ${cause.advice ? `newest poll ${cause.outcome}` : "not polled"}${cause.error_code ? ` ${cause.error_code}` : ""}`;
}

function causeApps(cause) {
  const shown = cause.app_groups.slice(0, 3);
  return [shown.map((group, at) => [at ? ", " : "", h("bdi", {}, group)]),
    cause.app_groups.length > shown.length ? ` and ${count(cause.app_groups.length - shown.length, "more group")}` : "", ": ", someApps(cause.some, cause.apps)];
}

function since(cause) {
  const never = cause.never_seen === cause.apps;
  return [never ? "no good poll since the first poll, " : cause.apps === 1 ? "last good poll " : "oldest last good poll ", when(cause.since)];
}

function misconfigured(connections) {
  if (!connections.length) return [];
  return [need("bad", "✕", `${count(connections.length, "connection")} ${connections.length === 1 ? "does" : "do"} not name an app; nothing was sent`, null,
    "Fix them in Airflow under Admin, Connections.", misconfiguredList(connections.slice(0, SHOWN)))];
}

/** Where seals are made at all, one a day is expected. */
function unsealed({ newest_seal: seal, at }) {
  if (!seal || new Date(at) - new Date(seal.sealed_at) < SEALED_FOR) return [];
  return [need("bad", "◷", `The record was last sealed ${ago(seal.sealed_at, at)}`, ["seal ", seal.n, ", ", when(seal.sealed_at)],
    "Check the job that runs im-attr-audit checkpoint. The database's owner can still rewrite what was recorded since then without being noticed.", null)];
}

function driftNeed(slot) {
  const address = `names?${new URLSearchParams({ group: slot.app_group, slot: slot.slot })}`;
  return need("", "≠", h("a", { href: address }, "Slot ", slot.slot, " of ", h("bdi", {}, slot.app_group), " drifts"),
    slot.newest_change_at ? ["newest change seen ", when(slot.newest_change_at)] : "since the baseline",
    "If the names differ on purpose, declare them. Otherwise have the wrong ones corrected in Tencent's console.",
    [nameOf(slot.usual.name), ` in ${slot.usual.apps} of ${slot.apps}`, slot.others.slice(0, 4).map((other) => ["; ", nameOf(other.name), " in ", other.apps === 1 ? appLink(other.some[0]) : count(other.apps, "app")]),
      slot.others.length > 4 ? `; ${count(slot.others.length - 4, "more name")}` : ""]);
}

function changes(list) {
  return bigTable({
    label: "Newest changes",
    className: "list cards",
    head: ["Seen", "App", "Slot", "Kind", "From", "To"].map((title) => h("th", { scope: "col" }, title)),
    count: list.length,
    row: (at) => {
      const change = list[at];
      const cells = [h("a", { href: changeAddress(change) }, when(change.seen_at)), appOf(change), h("span", { class: "number" }, change.slot), kindOf(change.kind),
        nameOf(change.old_name, change.old_type), [nameOf(change.new_name, change.new_type), change.lookalike ? [" ", lookalikeOf(change.lookalike)] : null]];
      return h("tr", { class: "link", onclick: follows(changeAddress(change)) }, cells.map((cell) => h("td", {}, cell)));
    },
  });
}
