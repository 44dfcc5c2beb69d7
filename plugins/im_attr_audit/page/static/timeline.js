// Timeline: a lane for each app and slot that changed; unusual names in colour, failed polls and gaps.
// The list below the lanes has the same changes for screen readers.
import { count, announce, appName, appOf, ask, bounds, h, here, KINDS, kindOf, longTime, nameOf, nameText, nothingYet, notice, oldNameOf, query, run, show, span, tableFrame, when } from "./page.js";
import { allOf, appField, choice, field, filterForm, tick, periodFields } from "./forms.js";
import { changeAddress } from "./change.js";
import { drawAxis, drawLane, saidOf } from "./lanes.js";
import { tipped, tips } from "./big-table.js";

const HOUR = 3600e3;
const WINDOWS = [["24 hours", 24], ["7 days", 168], ["30 days", 720], ["90 days", 2160], ["1 year", 8760]];
const COLOURS = 7;
/** So many pixels above and below what is in sight are drawn too; the keyboard's focus goes there. */
const BEYOND = 120;

run(async () => {
  const chosen = Object.fromEntries(["region", "group", "app", "slot", "since", "until", "after", "lanes"].map((name) => [name, query.get(name)]));
  const [setup, data] = await Promise.all([ask("setup"), ask("timeline", chosen)]);
  const empty = setup.apps.length ? null : await nothingYet(setup.apps);
  if (empty) return show(empty);
  const all = chosen.lanes === "all";
  const lanes = lanesOf(data, all, chosen.slot);
  const colours = coloursOf(data, lanes);
  const frame = h("div", { class: "frame tall timeline", tabindex: "0", role: "region", "aria-label": "Timeline; pan with the arrow keys, zoom with plus and minus" });
  show(form(chosen, setup.apps, all), h("div", { class: "above" }, windows(data), lanes.length ? controls(() => view) : null, all || chosen.app || !lanes.length ? null : h("p", { class: "since" }, chosen.slot ? "Only apps with a seen change of this slot are shown." : "Only apps and slots with a seen change are shown.")),
    data.drawn_from ? notice("warning", `Too many changes to draw: the timeline is complete only from ${longTime(data.drawn_from)} on.`, "Choose a shorter period, one app or one slot.") : null,
    data.failed_from ? notice("warning", `Too many failed polls to mark: they are marked only from ${longTime(data.failed_from)} on.`, "Choose a shorter period or one app.") : null,
    lanes.length
      ? [legend(colours, data), frame,
        data.more ? h("p", { class: "pager" }, h("span", {}, `The first ${data.apps.length} apps.`), h("a", { href: here({ after: data.more }) }, "Next apps")) : null,
        list(data)]
      : nothing(all, chosen));
  const view = lanes.length ? new View(frame, data, lanes, colours) : null;
});

function nothing(all, chosen) {
  const filtered = ["region", "group", "app", "slot"].some((name) => chosen[name]);
  return all
    ? notice("info", "No app matches this filter.", h("a", { href: "timeline" }, "Show all apps"), { "data-empty": "no-app" })
    : notice("info", filtered ? "No change of an app that matches this filter was seen in this period." : "No change was seen in this period.",
      h("a", { href: here({ lanes: "all" }) }, "Show slots without a seen change, too"), { "data-empty": "no-change" });
}

function form(chosen, apps, all) {
  const ticked = tick("lanes", "Slots without a seen change, too", all);
  ticked.querySelector("input").value = "all";
  return filterForm([
    field("App group", choice("group", allOf(apps, "app_group"), chosen.group)),
    field("Region", choice("region", allOf(apps, "region"), chosen.region)),
    appField(apps, chosen.app),
    field("Slot", h("input", { type: "number", name: "slot", min: "0", max: "999", value: chosen.slot ?? "" })),
    periodFields(["From", "To"], chosen.since, chosen.until),
    ticked,
  ], "Filter of the timeline");
}

function windows(data) {
  const to = new Date(data.window_to);
  const first = data.apps.map((app) => app.first_ok_at).filter(Boolean).sort()[0];
  const shown = (to - new Date(data.window_from)) / HOUR;
  const links = WINDOWS.map(([text, hours]) => h("a", { href: here({ since: new Date(to - hours * HOUR).toISOString() }), "aria-current": Math.abs(shown - hours) < 0.01 * hours ? "true" : null }, text));
  if (first) links.push(h("span", {}, "or"), h("a", { href: here({ since: new Date(new Date(first) - HOUR).toISOString(), until: null }) }, "everything since the baseline"));
  return h("p", { class: "pager" }, h("span", {}, "Period: ", when(data.window_from), " to ", when(data.window_to)), h("span", {}, "Show the last"), links);
}

function controls(view) {
  const button = (text, label, act) => h("button", { type: "button", class: "small", "aria-label": label, title: label, onclick: () => act(view()) }, text);
  return h("div", { class: "controls", role: "group", "aria-label": "Zoom and pan" },
    button("←", "Earlier", (v) => v.move(-0.4)), button("→", "Later", (v) => v.move(0.4)),
    button("+", "Zoom in", (v) => v.zoom(0.5)), button("−", "Zoom out", (v) => v.zoom(2)));
}

/** For each app one lane for its polls, then one for each slot; where a slot is chosen, that lane alone. */
function lanesOf(data, all, slot) {
  const byApp = (items) => {
    const found = new Map(data.apps.map((app) => [appName(app), []]));
    for (const each of items) found.get(appName(each))?.push(each);
    return found;
  };
  const [spans, changes, failed, gaps] = [data.spans, data.changes, data.failed, data.gaps].map(byApp);
  const lanes = [];
  for (const app of data.apps) {
    const key = appName(app);
    const polls = { failed: failed.get(key), gaps: gaps.get(key) };
    const changed = new Set(changes.get(key).filter((each) => all || each.kind !== "baseline").map((each) => each.slot));
    const slots = all ? new Set([...changed, ...spans.get(key).map((each) => each.slot)]) : changed;
    const ofSlot = (items, number) => items.get(key).filter((each) => each.slot === number);
    if (slot) {
      lanes.push({ app, slot: Number(slot), ...polls, spans: spans.get(key), changes: changes.get(key) });
      continue;
    }
    lanes.push({ app, slot: null, ...polls, spans: [], changes: [] });
    for (const number of [...slots].sort((a, b) => a - b)) {
      lanes.push({ app, slot: number, failed: [], gaps: gaps.get(key), spans: ofSlot(spans, number), changes: ofSlot(changes, number) });
    }
  }
  return lanes;
}

/** Per slot of a group: the usual name is neutral, each other one has a colour of few. */
function coloursOf(data, lanes) {
  const usual = new Map(data.usual.map((each) => [`${each.slot} ${each.app_group}`, each.name]));
  const found = new Map();
  for (const lane of lanes) {
    const key = `${lane.slot} ${lane.app.app_group}`;
    for (const each of lane.spans) {
      if (each.name === usual.get(key)) continue;
      if (!found.has(key)) found.set(key, { slot: lane.slot, group: lane.app.app_group, names: new Map() });
      const names = found.get(key).names;
      if (!names.has(each.name)) names.set(each.name, names.size % COLOURS);
    }
  }
  return { of: (lane, name) => found.get(`${lane.slot} ${lane.app.app_group}`)?.names.get(name) ?? null, found: [...found.values()] };
}

function legend(colours, data) {
  const groups = new Set(data.apps.map((app) => app.app_group)).size;
  const isPhone = innerWidth <= 720;
  const most = isPhone ? 3 : 8;
  const entries = colours.found.slice(0, most).map((each) => h("span", {}, groups > 1 ? [h("bdi", {}, each.group), " "] : "", `slot ${each.slot}: `,
    [...each.names].slice(0, COLOURS).map(([name, colour]) => [h("span", { class: `swatch c${colour}` }, nameOf(name)), " "])));
  if (colours.found.length > most) entries.push(h("span", {}, `and ${count(colours.found.length - most, "more slot")}`));
  const drawn = h("div", { class: "legend" }, entries, h("span", {}, h("span", { class: "swatch usual" }, "name"), " most common name now"),
    h("span", {}, h("span", { class: "swatch faint" }, "name"), " last known name"),
    h("span", {}, h("span", { class: "swatch no-poll", "aria-hidden": "true" }, "\u00a0"), ` no good poll for more than ${span(data.stale_after_seconds)}`),
    h("span", {}, h("span", { class: "swatch between", "aria-hidden": "true" }, "\u00a0"), " changed at some time in this span"),
    h("span", {}, h("span", { class: "cross" }, "✕"), " failed poll"),
    Object.values(KINDS).map(([sign, word]) => h("span", {}, `${sign} ${word}`)));
  // On a phone it would fill the screen before the first lane.
  return isPhone ? h("details", { class: "as-list" }, h("summary", {}, "Colours and signs"), drawn) : drawn;
}

/** What is drawn, from when to when. */
class View {
  constructor(frame, data, lanes, colours) {
    Object.assign(this, { frame, lanes, colours });
    this.limits = [+new Date(data.window_from), +new Date(data.window_to)];
    // Where not all is drawn, begin with what is.
    this.window = [data.drawn_from ? +new Date(data.drawn_from) : this.limits[0], this.limits[1]];
    this.axis = h("div", { class: "axis" });
    this.rows = lanes.map((lane) => h("div", { class: `lane ${lane.slot === null ? "polls" : ""} ${isOfApp(lane) ? "app-lane" : ""}` }, label(lane), this.track(lane)));
    frame.append(h("div", { class: "lane head" }, h("span", { class: "label" }), this.axis), ...this.rows);
    frame.addEventListener("keydown", (event) => this.key(event));
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      this.zoom(event.deltaY > 0 ? 1.25 : 0.8, event);
    }, { passive: false });
    this.drag();
    tips(frame, { follow: true });
    let waiting = false;
    frame.addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; this.look(); });
    }, { passive: true });
    addEventListener("resize", () => this.draw());
    addEventListener("beforeprint", () => this.look(Infinity));
    this.draw();
  }

  /** Where a lane is drawn; pointed at, it says what is there. */
  track(lane) {
    const track = h("div", { class: "track" });
    return tipped(track, (event) => saidOf(lane, this.scale, this.limits, event.clientX - track.getBoundingClientRect().left));
  }

  draw() {
    const width = Math.max(120, this.frame.clientWidth - this.frame.querySelector(".label").offsetWidth);
    this.scale = { from: this.window[0], to: this.window[1], width };
    this.axis.replaceChildren(drawAxis(this.scale));
    for (const row of this.rows) row.lastChild.replaceChildren();
    this.look();
    this.frame.dataset.drawn = "yes";
    this.frame.dataset.from = new Date(this.window[0]).toISOString();
  }

  /** Draw the lanes in sight, and empty the others: many apps have hundreds. */
  look(beyond = BEYOND) {
    const [top, bottom] = [this.frame.scrollTop - beyond, this.frame.scrollTop + this.frame.clientHeight + beyond];
    const places = this.rows.map((row) => [row.offsetTop, row.offsetHeight]);
    this.rows.forEach((row, at) => {
      const track = row.lastChild;
      const isInSight = places[at][0] + places[at][1] >= top && places[at][0] <= bottom;
      if (isInSight === track.hasChildNodes() || (!isInSight && track.contains(document.activeElement))) return;
      track.replaceChildren(...(isInSight ? [drawLane(this.lanes[at], this.scale, this.limits, this.colours)] : []));
    });
  }

  set(from, to) {
    const length = Math.min(Math.max(to - from, 60e3), 1.5 * (this.limits[1] - this.limits[0]));
    const margin = 0.25 * (this.limits[1] - this.limits[0]);
    const begin = Math.min(Math.max(from, this.limits[0] - margin), this.limits[1] + margin - length);
    this.window = [begin, begin + length];
    this.draw();
    clearTimeout(this.said);
    this.said = setTimeout(() => announce(`From ${longTime(new Date(begin).toISOString())} to ${longTime(new Date(begin + length).toISOString())}`), 500);
  }

  move(share) {
    const by = (this.window[1] - this.window[0]) * share;
    this.set(this.window[0] + by, this.window[1] + by);
  }

  zoom(factor, event = null) {
    const box = this.axis.getBoundingClientRect();
    const share = event && box.width ? Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) : 0.5;
    const [from, to] = this.window;
    const at = from + (to - from) * share;
    this.set(at - (at - from) * factor, at + (to - at) * factor);
  }

  key(event) {
    const act = { "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), ArrowLeft: () => this.move(-0.2), ArrowRight: () => this.move(0.2) }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  drag() {
    let begun = null;
    this.frame.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && event.pointerType === "mouse" && event.target.closest(".track")) begun = { x: event.clientX, window: [...this.window], moved: false };
    });
    addEventListener("pointermove", (event) => {
      if (!begun || (!begun.moved && Math.abs(event.clientX - begun.x) < 5)) return;
      begun.moved = true;
      const by = (event.clientX - begun.x) / this.axis.clientWidth * (begun.window[1] - begun.window[0]);
      this.set(begun.window[0] - by, begun.window[1] - by);
    });
    addEventListener("pointerup", () => { begun = null; });
  }
}

/** Whether a lane is labelled with its app: that of its polls, or the only one of a slot. */
function isOfApp(lane) {
  return lane.slot === null || Boolean(query.get("slot"));
}

function label(lane) {
  const slot = `slot ${lane.slot}`;
  return h("span", { class: "label", title: `${appName(lane.app)}${lane.slot === null ? "" : `, ${slot}`}` },
    isOfApp(lane) ? appOf(lane.app) : slot);
}

function list(data) {
  const changes = data.changes;
  if (!changes.length) return notice("info", "No change was seen in this period.", null, { "data-empty": "no-change" });
  // Made when it is opened: a fifth of all elements of the view.
  const details = h("details", { class: "as-list", ontoggle: () => { if (details.children.length === 1) details.append(...listed(changes)); } },
    h("summary", {}, changes.length === 1 ? "The change of this period as a list" : `The ${count(changes.length, "change")} of this period as a list`));
  return details;
}

function listed(changes) {
  const shown = changes.slice(0, 30);
  return [shown.length < changes.length ? h("p", {}, `The newest ${shown.length}; `, h("a", { href: "changes" }, "Changes has all.")) : null,
    tableFrame("Changes of this period", h("table", { class: "list" },
      h("caption", { class: "unseen" }, "Changes of this period, newest first"),
      h("thead", {}, h("tr", {}, ["When", "App", "Slot", "Kind", "From", "To"].map((title) => h("th", { scope: "col" }, title)))),
      h("tbody", {}, shown.map((change) => h("tr", {},
        h("td", {}, change.not_before ? bounds(change.not_before, change.seen_at) : when(change.seen_at)),
        h("td", {}, h("a", { href: changeAddress(change) }, appOf(change))),
        h("td", {}, change.slot), h("td", {}, kindOf(change.kind)), h("td", {}, oldNameOf(change)), h("td", {}, nameText(change.new_name)))))))].filter(Boolean);
}
