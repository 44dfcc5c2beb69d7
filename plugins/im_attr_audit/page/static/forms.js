// Filters: plain GET forms, so that every state of a view has its address.
import { appName, h } from "./page.js";

/** A labelled field. */
export function field(label, control) {
  control.id = `field-${control.name}`;
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
}

export function choice(name, options, chosen) {
  const select = h("select", { name });
  const values = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  if (chosen && !values.some(([value]) => value === chosen)) values.push([chosen, chosen]);
  for (const [value, text] of values) {
    const option = h("option", { value }, text);
    option.selected = value === (chosen ?? "");
    select.append(option);
  }
  return select;
}

/** The options of a filter by something that the apps have; the first one filters nothing. */
export function allOf(apps, key) {
  return [["", "all"], ...new Set(apps.map((app) => app[key]))];
}

/** One app of few is chosen; of many it is written, with suggestions. */
export function appField(apps, chosen) {
  if (apps.length <= 50) return field("App", choice("app", [["", "all"], ...apps.map(appName)], chosen));
  const of = field("App", h("input", { name: "app", list: "apps", value: chosen ?? "", placeholder: "region/sdk_app_id", autocomplete: "off" }));
  of.append(h("datalist", { id: "apps" }, apps.slice(0, 300).map((app) => h("option", { value: appName(app) }))));
  return of;
}

/** A box to tick. */
export function tick(name, label, checked) {
  return h("div", { class: "field check" }, h("input", { type: "checkbox", name, value: "yes", id: `field-${name}`, checked }), h("label", { for: `field-${name}` }, label));
}

// Times ---------------------------------------------------------------------------------------

const CLOCK = /^\s*(\d{1,2})(?:[:.\s]?(\d{2}))?(?:[:.\s]?(\d{2}))?\s*$/;

/**
 * An instant in the browser's zone: the day by the browser's own field, in its locale, and the time
 * in 24 hours, as everywhere on the page, which the browser's field for times is not in every locale.
 * ``endsDay``: a day without a time means its end.
 */
export function timeField(label, name, text, { endsDay = false } = {}) {
  const [day, time] = split(text);
  const date = h("input", { type: "date", name, id: `field-${name}`, value: day, "data-time": endsDay ? "end" : "begin" });
  const clock = h("input", { name: `${name}-time`, class: "clock", value: time, "aria-label": `${label}, time in 24 hours`, placeholder: endsDay ? "24:00" : "00:00", autocomplete: "off", inputmode: "numeric", maxlength: 8 });
  Object.assign(date.dataset, { was: `${day} ${time}`, exactly: text ?? "" });
  clock.addEventListener("change", () => {
    clock.value = tidy(clock.value) ?? clock.value;
    clock.setCustomValidity(clock.value && !tidy(clock.value) ? "Write a time from 00:00 to 24:00." : "");
  });
  clock.addEventListener("input", () => clock.setCustomValidity(""));
  clock.addEventListener("keydown", (event) => step(event, clock));
  return h("div", { class: "field", role: "group", "aria-label": label }, h("label", { for: date.id }, label), h("div", { class: "instant" }, date, clock));
}

/** The begin and the end of a period, which stay beside each other. */
export function periodFields([from, to], since, until) {
  return h("div", { class: "together" }, timeField(from, "since", since), timeField(to, "until", until, { endsDay: true }));
}

/** The day and the time of an instant, as the two fields have them. */
function split(text) {
  const at = new Date(text ?? NaN);
  if (Number.isNaN(+at)) return ["", ""];
  const local = new Date(at - at.getTimezoneOffset() * 60e3).toISOString();
  const seconds = local.slice(17, 19);
  return [local.slice(0, 10), local.slice(11, 16) + (seconds === "00" ? "" : `:${seconds}`)];
}

/** A time as it is written in full; null where it is none. */
function tidy(text) {
  const [, hour, minute = "00", second] = CLOCK.exec(text) ?? [];
  if (hour === undefined || minute > 59 || second > 59 || hour > 24 || (hour === "24" && Number(minute + (second ?? "")))) return null;
  return [hour.padStart(2, "0"), minute, second].filter(Boolean).join(":");
}

/** The arrow keys change the hour or the minute at the cursor. */
function step(event, clock) {
  const by = { ArrowUp: 1, ArrowDown: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  const [place, parts] = [clock.selectionStart > 2 ? 1 : 0, (tidy(clock.value) ?? "00:00").split(":")];
  const size = place ? 60 : 24;
  parts[place] = String((Number(parts[place]) + by + size) % size).padStart(2, "0");
  clock.value = parts.join(":");
  clock.setCustomValidity("");
  clock.setSelectionRange(3 * place, 3 * place + 2);
}

/** The instant of the two fields in UTC; one that nobody touched is exactly the one it was. */
function instant(date, clock) {
  if (!date.value) return "";
  if (`${date.value} ${clock.value}` === date.dataset.was) return date.dataset.exactly;
  const at = new Date(`${date.value}T${tidy(clock.value) ?? "00:00"}`);
  if (!clock.value && date.dataset.time === "end") at.setDate(at.getDate() + 1);
  return Number.isNaN(+at) ? "" : at.toISOString();
}

// The form ------------------------------------------------------------------------------------

/** Empty fields are left out of the address; ``keep``: parameters that no field has. */
export function filterForm(fields, label, keep = {}) {
  const form = h("form", { class: "filter", role: "search", "aria-label": label },
    fields, Object.entries(keep).filter(([, value]) => value).map(([name, value]) => h("input", { type: "hidden", name, value })),
    h("button", { type: "submit" }, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const given = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (name.endsWith("-time")) continue;
      const control = form.elements[name];
      const meant = control.dataset?.time ? instant(control, form.elements[`${name}-time`]) : value;
      if (meant) given.set(name, meant);
    }
    location.assign(`${location.pathname}${given.size ? `?${given}` : ""}`);
  });
  // On a phone the fields would fill the first screen; there they are behind one line.
  const set = [...new FormData(form)].filter(([name, value]) => value && !name.endsWith("-time") && !(name in keep)).length;
  const wide = matchMedia("(min-width: 721px)");
  const folded = h("details", { class: "filters", open: wide.matches }, h("summary", {}, set ? `Filter (${set} set)` : "Filter"), form);
  wide.addEventListener("change", () => { folded.open = wide.matches; });
  return folded;
}
