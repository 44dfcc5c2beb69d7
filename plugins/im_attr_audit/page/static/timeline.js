// Timeline: one lane per app and slot, coloured by name; gaps stay gaps, failed polls are marks.
// vis-timeline draws it; the list below it has the same content for screen readers.
import { announce, appName, ask, bounds, choice, colourOf, field, filterForm, h, here, kindOf, KINDS, longTime, nameOf, nameText, nothingYet, notice, query, run, show, tableFrame, timeInput, when } from "./page.js";
import { changeDialog } from "./change.js";
import { DataSet, Timeline } from "./vendor/vis-timeline.mjs";

const HOUR = 3600e3;
const WINDOWS = [["24 hours", 24], ["7 days", 168], ["30 days", 720], ["90 days", 2160], ["1 year", 8760]];

run(async () => {
  const chosen = Object.fromEntries(["region", "group", "app", "slot", "since", "until", "after"].map((name) => [name, query.get(name)]));
  const [setup, data] = await Promise.all([ask("setup"), ask("timeline", chosen)]);
  const empty = setup.apps.length ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  const place = h("div", { class: "timeline" });
  const lanes = lanesOf(data);
  show(form(chosen, setup.apps), windows(data),
    data.drawn_from ? notice("warning", `Too many changes to draw: the timeline is complete only from ${longTime(data.drawn_from)} on.`, "Choose a shorter period, one app or one slot.") : null,
    data.failed_from ? notice("warning", `Too many failed polls to mark: they are marked only from ${longTime(data.failed_from)} on.`, "Choose a shorter period or one app.") : null,
    !data.apps.length ? notice("info", "No app matches this filter.", h("a", { href: "timeline" }, "Show all apps"), { "data-empty": "no-app" })
      : [controls(() => timeline), place, legend(),
        data.more ? h("p", { class: "pager" }, h("span", {}, `The first ${data.apps.length} apps.`), h("a", { href: here({ after: data.more }) }, "Next apps")) : null,
        list(data)]);
  let timeline = null;
  if (data.apps.length) timeline = draw(place, data, lanes);
});

function form(chosen, apps) {
  const of = (key) => [["", "any"], ...new Set(apps.map((app) => app[key]))];
  return filterForm([
    field("App group", choice("group", of("app_group"), chosen.group)),
    field("Region", choice("region", of("region"), chosen.region)),
    field("App", choice("app", [["", "any"], ...apps.map(appName)], chosen.app)),
    field("Slot", h("input", { type: "number", name: "slot", min: "0", max: "999", value: chosen.slot ?? "" })),
    field("From", timeInput("since", chosen.since)),
    field("To", timeInput("until", chosen.until)),
  ], "Filter of the timeline");
}

function windows(data) {
  const to = new Date(data.window_to);
  const first = data.apps.map((app) => app.first_ok_at).filter(Boolean).sort()[0];
  const links = WINDOWS.map(([text, hours]) => h("a", { href: here({ since: new Date(to - hours * HOUR).toISOString() }) }, text));
  if (first) links.push(h("a", { href: here({ since: new Date(new Date(first) - HOUR).toISOString(), until: null }) }, "Since the baseline"));
  return h("p", { class: "pager" }, h("span", {}, "Show the last"), links);
}

function controls(timeline) {
  const button = (text, label, act) => h("button", { type: "button", "aria-label": label, onclick: () => act(timeline()) }, text);
  const move = (share) => (t) => {
    const range = t.getWindow();
    const by = (range.end - range.start) * share;
    t.setWindow(+range.start + by, +range.end + by, { animation: false });
  };
  return h("div", { class: "controls", role: "group", "aria-label": "Zoom and pan" },
    button("←", "Earlier", move(-0.4)), button("→", "Later", move(0.4)),
    button("+", "Zoom in", (t) => t.zoomIn(0.5, { animation: false })), button("−", "Zoom out", (t) => t.zoomOut(0.5, { animation: false })));
}

/** The lanes: for each app one for its polls, then one for each slot that has something to show. */
function lanesOf(data) {
  const lanes = [];
  for (const app of data.apps) {
    const key = appName(app);
    const mine = (each) => appName(each) === key;
    lanes.push({ id: key, app, slot: null });
    const slots = new Set([...data.spans.filter(mine), ...data.changes.filter(mine)].map((each) => each.slot));
    for (const slot of [...slots].sort((a, b) => a - b)) lanes.push({ id: `${key}#${slot}`, app, slot });
  }
  return lanes;
}

function draw(place, data, lanes) {
  const from = new Date(data.window_from), to = new Date(data.window_to);
  const clip = (time) => new Date(Math.min(Math.max(new Date(time), from), to));
  const gaps = new Map();
  for (const gap of data.gaps) gaps.set(appName(gap), [...(gaps.get(appName(gap)) ?? []), [+new Date(gap.gap_from), +new Date(gap.gap_to), gap]]);
  const items = [];
  for (const each of data.spans) {
    const key = appName(each);
    for (const [begin, end] of without([+clip(each.seen_from), +clip(each.seen_to)], gaps.get(key) ?? [])) {
      items.push({ id: `s${items.length}`, group: `${key}#${each.slot}`, type: "range", start: begin, end: Math.max(end, begin + 1), className: `span c${colourOf(each.name)}`, show: { kind: "span", of: each }, order: 0 });
    }
  }
  for (const change of data.changes) {
    const start = change.not_before ? clip(change.not_before) : clip(change.seen_at);
    items.push({ id: `c${items.length}`, group: `${appName(change)}#${change.slot}`, type: "range", start, end: Math.max(+clip(change.seen_at), +start + 1), className: `change ${change.kind}`, show: { kind: "change", of: change } });
  }
  for (const poll of data.failed) {
    items.push({ id: `f${items.length}`, group: appName(poll), type: "range", start: new Date(poll.at), end: +new Date(poll.at) + 1, className: "failed", show: { kind: "failed", of: poll } });
  }
  for (const [key, list] of gaps) {
    for (const [begin, end, gap] of list) {
      items.push({ id: `g${items.length}`, group: key, type: "range", start: clip(begin), end: clip(end), className: "gap", show: { kind: "gap", of: gap } });
      for (const lane of lanes.filter((each) => each.slot !== null && appName(each.app) === key)) {
        items.push({ id: `b${items.length}`, group: lane.id, type: "background", start: clip(begin), end: clip(end), className: "gap", show: { kind: "nothing" } });
      }
    }
  }
  const rows = lanes.map((lane, order) => ({ id: lane.id, order, lane, className: lane.slot === null ? "polls" : "names", content: "" }));
  const timeline = new Timeline(place, new DataSet(items), new DataSet(rows), {
    // Where not all is drawn, begin with what is.
    start: data.drawn_from ? clip(data.drawn_from) : from, end: to, min: new Date(+from - 24 * HOUR), max: new Date(+to + 24 * HOUR), zoomMin: 60e3,
    stack: false, selectable: false, showCurrentTime: false, showTooltips: false, orientation: "top",
    zoomKey: "ctrlKey", horizontalScroll: false, verticalScroll: false, margin: { item: { horizontal: 0, vertical: 3 }, axis: 3 },
    groupOrder: "order", xss: { disabled: false },
    template: (item) => contentOf(item.show), groupTemplate: (row) => row && laneLabel(row.lane),
  });
  place.addEventListener("keydown", (event) => {
    const range = timeline.getWindow();
    const by = (range.end - range.start) * 0.2;
    if (event.key === "+" || event.key === "=") timeline.zoomIn(0.5, { animation: false });
    else if (event.key === "-") timeline.zoomOut(0.5, { animation: false });
    else if (event.key === "ArrowLeft") timeline.setWindow(+range.start - by, +range.end - by, { animation: false });
    else if (event.key === "ArrowRight") timeline.setWindow(+range.start + by, +range.end + by, { animation: false });
    else return;
    event.preventDefault();
  });
  timeline.on("changed", () => { place.dataset.drawn = "yes"; });
  timeline.on("rangechanged", ({ byUser, start, end }) => {
    if (byUser) announce(`From ${longTime(start.toISOString())} to ${longTime(end.toISOString())}`);
  });
  return timeline;
}

/** What is left of a span outside the gaps. */
function without([begin, end], gaps) {
  let parts = [[begin, end]];
  for (const [from, to] of gaps) {
    parts = parts.flatMap(([a, b]) => (to <= a || from >= b ? [[a, b]] : [[a, from], [to, b]].filter(([x, y]) => y > x)));
  }
  return parts.length ? parts : [];
}

function laneLabel(lane) {
  return lane.slot === null
    ? h("span", { class: "lane app" }, h("bdi", {}, lane.app.region), h("small", {}, ` ${lane.app.sdk_app_id}, `, h("bdi", {}, lane.app.app_group)))
    : h("span", { class: "lane" }, `slot ${lane.slot}`);
}

function contentOf(shown) {
  if (!shown) return "";
  const { kind, of } = shown;
  if (kind === "span") {
    const text = nameOf(of.name);
    text.title = `${nameText(of.name)}: seen from ${longTime(of.seen_from)} to ${longTime(of.seen_to)}`;
    return text;
  }
  if (kind === "change") {
    const label = `${appName(of)} slot ${of.slot} ${KINDS[of.kind][1]}: ${nameText(of.old_name)} to ${nameText(of.new_name)}, seen ${longTime(of.seen_at)}`;
    return h("button", { type: "button", class: "mark", "aria-label": label, title: label, onclick: () => changeDialog(appName(of), of.seq) }, KINDS[of.kind][0]);
  }
  if (kind === "failed") {
    const label = `${of.outcome}${of.error_code ? ` ${of.error_code}` : ""} at ${longTime(of.at)}${of.error_info ? `: ${of.error_info}` : ""}`;
    return h("span", { class: "cross", role: "img", "aria-label": label, title: label }, "✕");
  }
  if (kind === "gap") {
    const label = `No good poll from ${longTime(of.gap_from)} to ${longTime(of.gap_to)}`;
    return h("span", { class: "gap-label", title: label }, "no good poll");
  }
  return "";
}

function legend() {
  return h("p", { class: "legend since" },
    h("span", { class: "swatch span c3" }, "name"), " seen with this name; ",
    Object.values(KINDS).map(([sign, word]) => [h("span", { class: "swatch mark" }, sign), ` ${word}; `]),
    h("span", { class: "swatch cross" }, "✕"), " failed poll; ", h("span", { class: "swatch gap" }, "\u00a0"), " no good poll: what happened in this period is unknown. ",
    "Zoom with Ctrl and the mouse wheel, or + and −; pan by dragging or with the arrow keys.");
}

function list(data) {
  if (!data.changes.length) return notice("info", "No change was seen in this period.", null, { "data-empty": "no-change" });
  const shown = data.changes.slice(0, 200);
  return h("details", { class: "as-list" },
    h("summary", {}, `The ${data.changes.length} changes of this period as a list`),
    shown.length < data.changes.length ? h("p", {}, `The newest ${shown.length}; `, h("a", { href: "changes" }, "Changes has all.")) : null,
    tableFrame("Changes of this period", h("table", { class: "list" },
      h("caption", { class: "unseen" }, "Changes of this period, newest first"),
      h("thead", {}, h("tr", {}, ["When", "App", "Slot", "Kind", "From", "To"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, shown.map((change) => h("tr", {},
        h("td", {}, change.not_before ? bounds(change.not_before, change.seen_at) : when(change.seen_at)),
        h("td", {}, h("a", { href: `changes?app=${encodeURIComponent(appName(change))}&seq=${change.seq}` }, appName(change))),
        h("td", { class: "number" }, change.slot), h("td", {}, kindOf(change.kind)), h("td", {}, nameOf(change.old_name)), h("td", {}, nameOf(change.new_name))))))));
}
