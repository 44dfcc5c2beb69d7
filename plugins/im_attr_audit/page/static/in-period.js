// Whether every app had a name in all of a period, as a campaign needs it.
import { appLink, ask, count, h, longTime, nameOf, query, span } from "./page.js";
import { bigTable } from "./big-table.js";

/** So many names that contain the text are answered for; where one is exactly the text, that alone. */
const NAMES = 3;
const VERDICTS = {
  yes: ["good", "✓", "throughout"],
  "yes, with gaps": ["unsure", "?", "never seen missing, but not certain throughout"],
  partly: ["odd", "≠", "only part of the time"],
  no: ["odd", "✕", "at no time"],
  unknown: ["unsure", "?", "not known"],
};
const ORDER = ["no", "partly", "unknown", "yes, with gaps", "yes"];

/** ``uses``: the names that contain the text of the search. */
export async function inPeriod(text, uses, group) {
  const names = [...new Set(uses.map((use) => use.name))];
  const chosen = names.includes(text) ? [text] : names.slice(0, NAMES);
  const answers = await Promise.all(chosen.map((name) => ask("name-in-period", { name, group, since: query.get("since"), until: query.get("until") })));
  return answers.map((answer, at) => section(answer, at, names.length > chosen.length && at === chosen.length - 1 ? names.length - chosen.length : 0));
}

function section(answer, at, more) {
  const counts = ORDER.map((verdict) => [verdict, answer.apps.filter((app) => app.verdict === verdict).length]).filter(([, number]) => number);
  const apps = [...answer.apps].sort((a, b) => ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict));
  const id = `period-${at}`;
  return h("section", { "aria-labelledby": id, class: "in-period" },
    h("h2", { id }, "Did every app have ", nameOf(answer.name), " throughout?", h("small", {}, ` from ${longTime(answer.since)} to ${longTime(answer.until)}`)),
    h("p", { class: "chips" }, counts.map(([verdict, number]) => badge(verdict, `: ${count(number, "app")}`))),
    bigTable({
      className: "list cards",
      label: `Whether each app had ${answer.name} in the period`,
      head: ["App", "App group", "Had the name", "Slot", "Certain share of the period", "Not watched for"].map((title) => h("th", { scope: "col" }, title)),
      widths: [16, 11, 15, 6, 14, 9],
      count: apps.length,
      row: (which) => row(apps[which]),
    }),
    more ? h("p", {}, `${count(more, "more name")} contain${more === 1 ? "s" : ""} this text. Enter the full name.`) : null);
}

function badge(verdict, more = "") {
  const [look, sign, words] = VERDICTS[verdict] ?? ["unsure", "?", verdict];
  return h("span", { class: `badge ${look}` }, h("span", { "aria-hidden": "true" }, `${sign} `), words, more);
}

function row(app) {
  const percent = (number) => `${Math.floor(number * 10) / 10} %`;
  const certain = percent(app.certain_pct), possible = percent(app.possible_pct);
  return h("tr", {},
    h("th", { scope: "row" }, appLink(app)), h("td", {}, h("bdi", {}, app.app_group)), h("td", {}, badge(app.verdict)),
    h("td", { class: "number" }, app.slots.length ? app.slots.join(", ") : h("span", { class: "none" }, "none")),
    h("td", { class: "number" }, certain, certain === possible ? null : h("span", { class: "since" }, ` at most ${possible}`)),
    h("td", {}, app.blind_seconds ? span(app.blind_seconds) : h("span", { class: "none" }, "no gap")));
}
