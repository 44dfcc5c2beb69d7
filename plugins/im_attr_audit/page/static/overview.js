// Overview: what needs somebody, the most urgent first: who, where, since when, and the one thing to do.
import { ago, appLink, appOf, ask, count, h, kindOf, lookalikeOf, nameOf, nothingYet, notice, run, show, someApps, span, unreadableList, when, appName } from "./page.js";
import { bigTable } from "./big-table.js";

/** So many of a kind are shown; the view that has all of them is linked. */
const SHOWN = 6;
const SEALED_FOR = 26 * 3600e3;

run(async () => {
  const overview = await ask("overview");
  const empty = overview.apps ? null : await nothingYet([]);
  if (empty) return show(empty);
  const needs = [
    ...limited(overview.stale, (cause) => need("bad", "⚠", staleTitle(cause), since(cause), cause.advice ?? "No poll has been recorded since. Check that the DAG is not paused and that Airflow's scheduler runs.", causeApps(cause)), "health", "stale apps"),
    ...misconfigured(overview.unreadable),
    ...limited(overview.failing, (cause) => need("", "✕", `The newest poll of ${count(cause.apps, "app")} failed: ${cause.outcome}${cause.error_code ? ` ${cause.error_code}` : ""}`, since(cause), cause.advice, causeApps(cause)), "health", "failures"),
    ...unsealed(overview),
    ...limited(overview.drift, driftNeed, "names?only=yes", "slots with drift"),
  ];
  show(
    sentence(overview),
    needs.length ? h("ul", { class: "needs", "aria-label": "What needs attention" }, needs) : null,
    h("section", { "aria-labelledby": "newest" }, h("h2", { id: "newest" }, "Changes of the last 7 days"),
      overview.changes.length
        ? [changes(overview.changes), h("p", { class: "pager" }, h("a", { href: "changes" }, overview.more_changes ? "All changes" : "Earlier changes"))]
        : h("p", {}, "No change was seen. ", h("a", { href: "changes" }, "Earlier changes"))));
});

function sentence(overview) {
  const stale = total(overview.stale), failing = total(overview.failing);
  const seen = overview.seen_at ? `seen ${ago(overview.seen_at, overview.at)}` : "not seen yet";
  const parts = [];
  if (stale) parts.push(`${stale} of ${count(overview.apps, "app")} ${stale === 1 ? "is" : "are"} stale`);
  if (overview.unreadable.length) parts.push(`${count(overview.unreadable.length, "connection")} ${overview.unreadable.length === 1 ? "is" : "are"} misconfigured`);
  if (failing) parts.push(`the newest poll of ${count(failing, "app")} failed`);
  if (overview.drift.length) parts.push(`${count(overview.drift.length, "slot")} ${overview.drift.length === 1 ? "drifts" : "drift"}`);
  const seal = overview.newest_seal;
  const overdue = unsealed(overview).length;
  if (overdue) parts.push("the record's seal is overdue");
  const sealed = seal ? `, sealed ${ago(seal.sealed_at, overview.at)}` : "";
  const limit = `An app is stale after ${span(overview.stale_after_seconds)} without a good poll.`;
  if (!parts.length) {
    return notice("good", `All is well: ${overview.apps === 1 ? "the app was" : `all ${count(overview.apps, "app")} were`} ${seen} or later, and no names drift${sealed}.`, limit, { "data-state": "well" });
  }
  const text = parts.join(", ");
  return notice(stale || overview.unreadable.length ? "error" : "warning", `${text[0].toUpperCase()}${text.slice(1)}.`,
    stale < overview.apps ? `Every other app was ${seen} or later. ${limit}` : limit, { "data-state": "needs" });
}

function total(causes) {
  return causes.reduce((sum, cause) => sum + cause.apps, 0);
}

function limited(items, make, address, what) {
  const shown = items.slice(0, SHOWN).map(make);
  if (items.length > SHOWN) shown.push(h("li", { class: "need" }, h("span"), h("p", {}, h("a", { href: address }, `All ${what}`))));
  return shown;
}

function need(look, sign, what, sinceWhen, todo, where) {
  return h("li", { class: `need ${look}` },
    h("span", { class: "sign", "aria-hidden": "true" }, sign),
    h("div", {}, h("p", { class: "what" }, what), h("p", { class: "since" }, where), sinceWhen ? h("p", { class: "since" }, sinceWhen) : null),
    h("div", { class: "do" }, h("p", {}, todo)));
}

function staleTitle(cause) {
  return `${count(cause.apps, "app")} ${cause.apps === 1 ? "is" : "are"} stale: ${cause.advice ? cause.outcome : "not polled"}${cause.error_code ? ` ${cause.error_code}` : ""}`;
}

function causeApps(cause) {
  const shown = cause.app_groups.slice(0, 3);
  return [shown.map((group, at) => [at ? ", " : "", h("bdi", {}, group)]),
    cause.app_groups.length > shown.length ? ` and ${count(cause.app_groups.length - shown.length, "more group")}` : "", ": ", someApps(cause.some, cause.apps)];
}

function since(cause) {
  const never = cause.never_seen === cause.apps;
  return [never ? "never seen, polled since " : cause.apps === 1 ? "last seen " : "the first of them last seen ", when(cause.since)];
}

function misconfigured(unreadable) {
  if (!unreadable.length) return [];
  return [need("bad", "✕", `${count(unreadable.length, "connection")} ${unreadable.length === 1 ? "does" : "do"} not name an app; nothing was sent`, null,
    "Fix them in Airflow under Admin, Connections.", unreadableList(unreadable.slice(0, SHOWN)))];
}

/** Where seals are made at all, one a day is expected. */
function unsealed({ newest_seal: seal, at }) {
  if (!seal || new Date(at) - new Date(seal.sealed_at) < SEALED_FOR) return [];
  return [need("", "◷", `The record was last sealed ${ago(seal.sealed_at, at)}`, ["seal ", seal.n, ", ", when(seal.sealed_at)],
    "Check the job that runs im-attr-audit checkpoint: what was recorded since can still be rewritten unnoticed by the database's owner.", null)];
}

function driftNeed(slot) {
  const address = `names?${new URLSearchParams({ group: slot.app_group, slot: slot.slot })}`;
  return need("", "≠", h("a", { href: address }, "Slot ", slot.slot, " of ", h("bdi", {}, slot.app_group), " drifts"),
    slot.newest_change_at ? ["newest change seen ", when(slot.newest_change_at)] : "so since the baseline",
    "Find out which name is right, then have the others changed in Tencent's console.",
    [nameOf(slot.usual.name), ` in ${slot.usual.apps} of ${slot.apps}`, slot.others.slice(0, 4).map((other) => ["; ", nameOf(other.name), " in ", other.apps === 1 ? appLink(other.some[0]) : count(other.apps, "app")]),
      slot.others.length > 4 ? `; ${slot.others.length - 4} more names` : ""]);
}

function changes(list) {
  return bigTable({
    label: "Newest changes",
    head: ["Seen", "App", "Slot", "Kind", "From", "To"].map((title) => h("th", { scope: "col" }, title)),
    count: list.length,
    row: (at) => {
      const change = list[at];
      return h("tr", {},
        h("td", {}, h("a", { href: `changes?${new URLSearchParams({ app: appName(change), seq: change.seq })}` }, when(change.seen_at))),
        h("td", {}, appOf(change)), h("td", { class: "number" }, change.slot), h("td", {}, kindOf(change.kind)),
        h("td", {}, nameOf(change.old_name)), h("td", {}, nameOf(change.new_name), change.lookalike ? [" ", lookalikeOf(change.lookalike)] : null));
    },
  });
}
