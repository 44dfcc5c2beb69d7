// The drawing of one lane of the timeline and of its axis, as SVG.
import { appName, count, KINDS, longTime, nameText, oldNameText, widthOf } from "./page.js";
import { changeAddress } from "./change.js";

const HEIGHT = 28;
/** As page.css has it. */
const FONT = "12px";
const SVG = "http://www.w3.org/2000/svg";
const [MINUTE, HOUR, DAY] = [60e3, 3600e3, 86400e3];
const STEPS = [MINUTE, 5 * MINUTE, 15 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 91 * DAY, 365 * DAY];
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const month = new Intl.DateTimeFormat("en-GB", { month: "short", year: "numeric" });

function make(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The place of a time, in pixels. */
function x(scale, time) {
  return (+new Date(time) - scale.from) / (scale.to - scale.from) * scale.width;
}

/** Times at which there is a line: at round times of the browser's zone, far enough apart to be read. */
function ticks(scale) {
  const step = STEPS.find((each) => each / (scale.to - scale.from) * scale.width >= 74) ?? STEPS.at(-1);
  const zone = new Date(scale.from).getTimezoneOffset() * MINUTE;
  const times = [];
  for (let at = Math.ceil((scale.from - zone) / step) * step + zone; at <= scale.to; at += step) times.push(at);
  return { step, times };
}

export function drawAxis(scale) {
  const { step, times } = ticks(scale);
  const svg = make("svg", { width: scale.width, height: HEIGHT, "aria-hidden": "true" });
  for (const at of times) {
    const time = new Date(at);
    const text = step >= 91 * DAY ? month.format(time) : step >= DAY || (time.getHours() === 0 && time.getMinutes() === 0) ? day.format(time) : clock.format(time);
    svg.append(make("line", { class: "grid", x1: x(scale, at), x2: x(scale, at), y1: 18, y2: HEIGHT }));
    if (x(scale, at) + 4 + widthOf(text, FONT) <= scale.width) svg.append(make("text", { x: x(scale, at) + 4, y: 18 }, text));
  }
  return svg;
}

export function drawLane(lane, scale, limits, colours) {
  const svg = make("svg", { width: scale.width, height: HEIGHT });
  svg.append(make("path", { class: "grid", d: ticks(scale).times.map((at) => `M${x(scale, at).toFixed(1)} 0v${HEIGHT}`).join("") || "M0 0" }));
  const within = withinOf(limits);
  const gaps = gapsOf(lane, within);
  if (lane.slot === null) svg.append(...gapMarks(merged(gaps, scale), scale));
  svg.append(...spans(lane, scale, within, gaps, colours), ...failures(lane, scale), ...changeMarks(lane, scale, within));
  return svg;
}

function withinOf(limits) {
  return (time) => Math.min(Math.max(+new Date(time), limits[0]), limits[1]);
}

function gapsOf(lane, within) {
  return lane.gaps.map((gap) => [within(gap.gap_from), within(gap.gap_to)]).sort((a, b) => a[0] - b[0]);
}

/** What is in a lane at a place, in words. */
export function saidOf(lane, scale, limits, place) {
  const cross = crosses(lane, scale).find(({ at }) => Math.abs(at - place) < 5);
  if (cross) return failureText(cross.polls);
  const within = withinOf(limits);
  const has = (from, to) => x(scale, from) - 1 <= place && place <= x(scale, to) + 1;
  const gap = lane.slot === null ? merged(gapsOf(lane, within), scale).find(([from, to]) => has(from, to)) : null;
  if (gap) return gapText(gap, limits);
  const span = lane.spans.find((each) => has(within(each.seen_from), within(each.seen_to)));
  return span ? `${nameText(span.name)}: seen from ${longTime(span.seen_from)} to ${longTime(span.seen_to)}` : "";
}

/** Gaps that a few pixels part are one. */
function merged(gaps, scale) {
  const near = 6 / scale.width * (scale.to - scale.from);
  const found = [];
  for (const [from, to] of gaps) {
    const last = found.at(-1);
    if (last && from - last[1] <= near) [last[1], last[2]] = [Math.max(last[1], to), last[2] + 1];
    else found.push([from, to, 1]);
  }
  return found;
}

function gapText([from, to, many], limits) {
  const begin = from > limits[0] ? `from ${time(from)}` : `from ${time(from)} or before`;
  return many === 1 ? `No good poll ${begin} to ${time(to)}` : `${many} gaps without a good poll ${begin} to ${time(to)}`;
}

function gapMarks(gaps, scale) {
  return gaps.map(([from, to, many]) => {
    const [left, right] = [x(scale, from), x(scale, to)];
    const gap = make("g", { class: "gap" }, make("rect", { x: left, y: 4, width: Math.max(2, right - left), height: HEIGHT - 8, rx: 3 }));
    const text = many === 1 ? "no good poll" : `${many} gaps`;
    if (widthOf(text, FONT) <= right - left - 8) gap.append(make("text", { x: left + 4, y: HEIGHT / 2 + 4.5 }, text));
    return gap;
  });
}

/**
 * Faint as a whole: last known. On top of it what polls no further apart than the limit have seen.
 * One path for all names that look the same: an element for each of them would be thousands.
 */
function spans(lane, scale, within, gaps, colours) {
  const [faint, solid, texts] = [new Map(), new Map(), []];
  const piece = (paths, look, a, b) => {
    const [p, q] = [Math.max(-1, x(scale, a)), Math.min(scale.width + 1, x(scale, b))];
    if (q <= p) return;
    const width = Math.max(0.5, q - p).toFixed(1);
    paths.set(look, `${paths.get(look) ?? ""}M${p.toFixed(1)} 3h${width}v${HEIGHT - 6}h-${width}z`);
  };
  for (const each of lane.spans) {
    const [from, to] = [within(each.seen_from), within(each.seen_to)];
    const [left, right] = [Math.max(0, x(scale, from)), Math.min(scale.width, x(scale, to))];
    if (right < 0 || left > scale.width) continue;
    const colour = colours.of(lane, each.name);
    const look = colour === null ? "usual" : `c${colour}`;
    piece(faint, look, from, Math.max(to, from + 1));
    let begin = from;
    for (const [a, b] of gaps) {
      if (b <= begin || a >= to) continue;
      if (a > begin) piece(solid, look, begin, a);
      begin = Math.max(begin, b);
    }
    if (begin <= to) piece(solid, look, begin, Math.max(to, begin + 1));
    // Beside the mark of the change that the span begins with.
    const text = shortened(nameText(each.name), right - left - 23);
    if (text) texts.push(make("text", { class: "words", x: left + 19, y: HEIGHT / 2 + 4.5 }, text));
  }
  const drawn = (paths, kind) => [...paths].map(([look, d]) => make("path", { class: `${kind} ${look}`, d }));
  return [...drawn(faint, "faint"), ...drawn(solid, "solid"), ...texts];
}

/** The text, or as many of its words as there is room for; the whole of it is on hover. */
function shortened(text, room) {
  if (room < 12 || widthOf(text, FONT) <= room) return room < 12 ? "" : text;
  const words = text.split(" ");
  while (words.length > 1) {
    words.pop();
    const part = `${words.join(" ")} …`;
    if (widthOf(part, FONT) <= room) return part;
  }
  return "";
}

/** Failed polls that are too near each other to be distinguished are one. */
function crosses(lane, scale) {
  const places = [...lane.failed].sort((a, b) => (a.at < b.at ? -1 : 1));
  const groups = [];
  for (const poll of places) {
    const at = x(scale, poll.at);
    if (at < -8 || at > scale.width + 8) continue;
    const last = groups.at(-1);
    if (last && at - last.at < 9) last.polls.push(poll);
    else groups.push({ at, polls: [poll] });
  }
  return groups;
}

function failureText(polls) {
  const [first] = polls;
  const outcome = `${first.outcome}${first.error_code ? ` ${first.error_code}` : ""}`;
  return polls.length === 1
    ? `${outcome} at ${longTime(first.at)}${first.error_info ? `: ${first.error_info}` : ""}`
    : `${polls.length} failed polls from ${longTime(first.at)} to ${longTime(polls.at(-1).at)}, the first ${outcome}`;
}

function failures(lane, scale) {
  const found = crosses(lane, scale);
  if (!found.length) return [];
  const polls = found.flatMap((each) => each.polls);
  const drawn = make("path", { class: "failed", role: "img", "aria-label": failureText(polls), d: found.map(({ at }) => `M${(at - 4).toFixed(1)} ${HEIGHT / 2 - 4}l8 8m0 -8l-8 8`).join("") });
  drawn.dataset.polls = polls.length;
  return [drawn];
}

/** Each change with the time in which it happened; a baseline lies below, and smaller. */
function changeMarks(lane, scale, within) {
  const marks = [];
  const order = (change) => (change.kind === "baseline" ? 0 : 1);
  const seen = [...lane.changes].sort((a, b) => order(a) - order(b) || (a.seen_at < b.seen_at ? -1 : 1));
  let last = null;
  for (const change of seen) {
    const at = x(scale, within(change.seen_at));
    if (at < -12 || at > scale.width + 12) continue;
    if (last && order(last.change) === order(change) && at - last.at < 7) {
      last.more += 1;
      continue;
    }
    if (last) marks.push(mark(last, lane, scale, within));
    last = { change, at, more: 0 };
  }
  if (last) marks.push(mark(last, lane, scale, within));
  return marks;
}

function mark({ change, at, more }, lane, scale, within) {
  const [sign, word] = KINDS[change.kind];
  const label = `${appName(change)} slot ${change.slot} ${word}: ${oldNameText(change)} to ${nameText(change.new_name)}, seen ${longTime(change.seen_at)}${more ? `; ${count(more, "more change")} beside it` : ""}`;
  const many = `changes?${new URLSearchParams({ app: appName(change), slot: change.slot })}`;
  const begin = change.not_before ? Math.max(-2, x(scale, within(change.not_before))) : at;
  const place = Math.min(Math.max(at, 9), scale.width - 9);
  const small = change.kind === "baseline";
  const link = make("a", { href: more ? many : changeAddress(change), class: `mark ${change.kind}`, "aria-label": label, "data-tip": label });
  if (at - begin > 2) link.append(make("rect", { class: "between", x: begin, y: 3, width: at - begin, height: HEIGHT - 6 }));
  link.append(small
    ? make("path", { d: `M${place} ${HEIGHT / 2 - 5}l5 5l-5 5l-5 -5z` })
    : make("rect", { x: place - 8, y: 5, width: 16, height: 18, rx: 3 }));
  if (!small) link.append(make("text", { x: place, y: HEIGHT / 2 + 5, "text-anchor": "middle" }, more ? `${more + 1}` : sign));
  return link;
}

function time(at) {
  return longTime(new Date(at).toISOString());
}
