// What the views share: making elements, calling the API, showing names, times and errors.
// Everything from the record is put into the page as text, never as markup.

export const DAG = "im_attr_name_audit";

/** An element. Attributes that are null or false are left out; children are nodes or texts. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const content = document.getElementById("content");
export const query = new URLSearchParams(location.search);

/** Replace the content and mark the page as ready. */
export function show(...nodes) {
  content.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
  document.getElementById("main").setAttribute("aria-busy", "false");
}

/** Announce to a screen reader what has just happened. */
export function announce(text) {
  document.getElementById("said").textContent = text;
}

export class PageError extends Error {
  constructor(what, next, code) {
    super(what);
    this.next = next;
    this.code = code;
  }
}

/** Call the API; empty parameters are left out. Throws PageError. */
export async function ask(path, parameters = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") given.set(name, value);
  }
  const address = `api/${path}${given.size ? `?${given}` : ""}`;
  let answer;
  try {
    // Without headers of its own: only then it is the request that the page's frame has begun.
    answer = await fetch(address);
  } catch {
    throw new PageError("Airflow's API server does not answer.", "Check that it is running, then reload this page.", "offline");
  }
  if (answer.ok) return answer.json();
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    throw new PageError("You are no longer logged in to Airflow.", "Log in to Airflow, then reload this page.", "login");
  }
  if (answer.status === 403) {
    throw new PageError(`You do not have permission to read the DAG ${DAG}.`, "Ask an Airflow administrator for read access to it.", "forbidden");
  }
  if (answer.status === 422) {
    const details = Array.isArray(said.detail)
      ? said.detail.map((each) => `${each.loc?.at(-1)}: ${each.msg}`).join("; ")
      : said.detail;
    throw new PageError("This URL has an invalid parameter.", details ?? "Correct the filter.", "invalid");
  }
  throw new PageError(said.what ?? said.detail ?? `The page failed (${answer.status}).`, said.next ?? "Reload this page. If the error remains, check the log of Airflow's API server.", said.error ?? "failed");
}

let drawn = new AbortController();

/** Ends when the view is drawn again: for what it adds outside of its own content. */
export function lifetime() {
  return drawn.signal;
}

/** Run a view; an error is shown with what to do. */
export async function run(view) {
  zone();
  const before = drawn;
  drawn = new AbortController();
  try {
    await view();
  } catch (error) {
    if (!(error instanceof PageError)) console.error(error);
    const trouble = error instanceof PageError ? error : new PageError("This view cannot be drawn.", String(error), "defect");
    show(notice("error", trouble.message, trouble.next, { "data-trouble": trouble.code }));
    announce(trouble.message);
  } finally {
    before.abort();
  }
}

/** A notice with a heading and what to do next. */
export function notice(kind, what, next, attributes = {}) {
  const sign = { error: "✕", warning: "⚠", info: "ℹ", good: "✓" }[kind];
  return h("div", { class: `notice ${kind}`, ...attributes },
    h("p", { class: "what" }, h("span", { "aria-hidden": "true", class: "sign" }, sign), ` ${what}`),
    next ? h("p", {}, next) : null);
}

/** Without any app: how far the setup is, and the next step. Null where there is an app. */
export async function nothingYet(apps) {
  if (apps.length) return null;
  const setup = await ask("setup");
  if (setup.misconfigured.length) {
    return [notice("warning", "No app has been polled: every connection is misconfigured.",
      "Fix them in Airflow under Admin, Connections, then trigger the DAG.", { "data-empty": "misconfigured" }),
    misconfiguredList(setup.misconfigured)];
  }
  if (setup.apps.length) {
    return notice("info", "All apps are retired: none is listed now.",
      "List connections in the Variable im_attr_audit_conn_ids. Changes and As of still show the past.", { "data-empty": "retired" });
  }
  if (setup.targets_listed) {
    return notice("info", "Connections are listed, but none has been polled yet.",
      h("span", {}, "The next scheduled run polls them. To poll now, unpause or trigger ", dagLink("the DAG"), "."), { "data-empty": "no-poll" });
  }
  return notice("info", "No connections are listed yet.",
    h("span", {}, "Create one connection of type tencent_im for each app (Admin, Connections), list their ids in the Variable im_attr_audit_conn_ids as JSON, such as [\"im_frankfurt\"], then unpause ", dagLink("the DAG"), "."), { "data-empty": "no-targets" });
}

/** Rows of attr_audit.seal that are not of a seal. */
export function unreadableSeals(seals) {
  return seals?.length ? notice("warning", `${seals.map((each) => `Seal ${each.n}`).join(", ")}: unreadable in attr_audit.seal, and not counted as a seal.`,
    "Somebody with the sealer's login wrote it. Compare with the witnesses: im-attr-audit verify --checkpoints DIR.", { "data-unreadable": seals.length }) : null;
}

export function misconfiguredList(connections) {
  return h("ul", { class: "misconfigured" }, connections.map((each) =>
    h("li", {}, h("code", {}, each.conn_id), ": ", each.what ?? "misconfigured", " (", when(each.at), ")")));
}

// Links into Airflow --------------------------------------------------------------------------

/** A link into Airflow. Inside Airflow's frame, Airflow itself follows it. */
export function airflowLink(path, ...children) {
  return h("a", { href: `../${path}`, onclick: leaveTheFrame }, ...children);
}

export function dagLink(...children) {
  return airflowLink(`dags/${DAG}`, ...children);
}

/** A run, in short unless asked for the whole id: how it began, and for when. */
export function runLink(runId, { whole = false } = {}) {
  const link = airflowLink(`dags/${DAG}/runs/${encodeURIComponent(runId)}`, h("bdi", {}, whole ? runId : shortRun(runId)),
    whole ? null : h("span", { class: "unseen" }, ` ${runId}`));
  link.title = runId;
  return link;
}

function shortRun(runId) {
  const [, kind, time] = /^([a-z]+)(?:_[a-z]+)*__(\d{4}-\d\d-\d\dT\d\d:\d\d\S*)$/.exec(runId) ?? [];
  const at = new Date(time?.replace(/^(.{16})$/, "$1Z"));
  if (kind && !Number.isNaN(+at)) return `${kind} ${short.format(at)}`;
  return runId.length > 24 ? `${runId.slice(0, 23)}…` : runId;
}

function leaveTheFrame(event) {
  if (window.parent === window || event.defaultPrevented) return;
  try {
    const outer = window.parent.document;
    const link = outer.createElement("a");
    link.href = event.currentTarget.href;
    outer.body.append(link);
    event.preventDefault();
    link.click();
    link.remove();
  } catch {
    // Another site's frame: the link stays an ordinary one.
  }
}

// Names ---------------------------------------------------------------------------------------

// Characters that are invisible or change the direction of text are shown by their number.
const UNSEEN = /[\p{Cc}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u00ad\u061c\u115f\u1160\u180e\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0]|^\s+|\s+$/gu;
const UNSEEN_INSIDE = new RegExp(UNSEEN.source.replace("|^\\s+|\\s+$", ""), "gu");
const UNSEEN_AND_SPACES = new RegExp(UNSEEN.source.replace("|^\\s+|\\s+$", "|\\s+"), "gu");

/** A name exactly as it is, as text only. */
export function nameOf(name, type = null) {
  if (name === null || name === undefined) return h("span", { class: "none" }, "no name");
  const element = h("bdi", { class: "name" }, partsOf(name));
  return type === null ? element : h("span", {}, element, h("span", { class: "type" }, ` type ${type}`));
}

/** Whether the name before a change is unknown: a baseline is the first that is known of a slot. */
function isOldUnknown(change) {
  return change.old_name === null && change.kind === "baseline";
}

/** The name before a change. */
export function oldNameOf(change) {
  return isOldUnknown(change) ? h("span", { class: "none" }, "unknown") : nameOf(change.old_name, change.old_type);
}

/** The same as a plain text, for labels. */
export function oldNameText(change) {
  return isOldUnknown(change) ? "unknown" : nameText(change.old_name);
}

/** What is in such an element: for one that is of the class name and isolates the direction of its text. */
export function partsOf(name) {
  return name === "" ? h("span", { class: "none" }, "(empty)") : signs(name, UNSEEN);
}

/** A part of a name; ``spaces``: blanks are shown, too. */
export function textOf(text, spaces = false) {
  return signs(text, spaces ? UNSEEN_AND_SPACES : UNSEEN_INSIDE);
}

/** The text in pieces; what matches is shown by its number. */
function signs(text, unseen) {
  const pieces = [];
  let last = 0;
  for (const match of text.matchAll(unseen)) {
    pieces.push(text.slice(last, match.index));
    for (const sign of match[0]) {
      const number = `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
      pieces.push(h("span", { class: "sign-of" }, sign === " " ? "␣" : number));
    }
    last = match.index + match[0].length;
  }
  pieces.push(text.slice(last));
  const whole = document.createDocumentFragment();
  whole.append(...pieces);
  return whole;
}

/** The same as a plain text, for labels. */
export function nameText(name) {
  return name === null || name === undefined ? "no name" : name === "" ? "(empty)" : nameOf(name).textContent;
}

export const KINDS = {
  baseline: ["◇", "baseline"],
  added: ["+", "added"],
  renamed: ["→", "renamed"],
  removed: ["−", "removed"],
  retyped: ["#", "retyped"],
};

export function kindOf(kind) {
  const [sign, word] = KINDS[kind] ?? ["?", kind];
  return h("span", { class: `kind ${kind}` }, h("span", { "aria-hidden": "true" }, sign), ` ${word}`);
}

export function appName(app) {
  return `${app.region}/${app.sdk_app_id}`;
}

/** An app's address, which is the same everywhere: region/sdk_app_id. */
export function appOf(app) {
  return h("span", { class: "app" }, h("bdi", {}, app.region), h("span", { class: "id" }, `/${app.sdk_app_id}`));
}

/** The same as a link to its changes. */
export function appLink(app) {
  return h("a", { href: `changes?app=${encodeURIComponent(appName(app))}` }, appOf(app));
}

/** What a row does that is a link as a whole; the link in it is for the keyboard. */
export function follows(address) {
  return (event) => { if (!event.target.closest("a, button") && !String(getSelection())) location.assign(address); };
}

/** A few apps of many. */
export function someApps(some, count) {
  return [some.map((app, at) => [at ? ", " : "", appLink(app)]), count > some.length ? ` and ${count - some.length} more` : ""];
}

/** Why a new name looks like the old one. */
export const LOOKALIKES = {
  case: "differs only in case",
  whitespace: "differs only in white space",
  normalization: "the same characters, coded differently",
  confusable: "looks the same but is different",
};

export function lookalikeOf(kind) {
  return h("span", { class: "badge stale" }, h("span", { "aria-hidden": "true" }, "≈ "), `look-alike: ${LOOKALIKES[kind] ?? kind}`);
}

export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

// Times ---------------------------------------------------------------------------------------

const DAY = { day: "numeric", month: "short" };
const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const short = new Intl.DateTimeFormat("en-GB", { ...DAY, ...CLOCK });
const long = new Intl.DateTimeFormat("en-GB", { ...DAY, ...CLOCK, year: "numeric" });
const clock = new Intl.DateTimeFormat("en-GB", CLOCK);
const exact = new Intl.DateTimeFormat("en-GB", { ...DAY, ...CLOCK, year: "numeric", second: "2-digit" });

function utc(text) {
  return text.replace("T", " ").replace(/(Z|\+00:00)$/, " UTC");
}

/** A time in the browser's zone, with UTC on hover. */
export function when(text, { seconds = false } = {}) {
  if (!text) return h("span", { class: "none" }, "never");
  const at = new Date(text);
  const format = seconds ? exact : Math.abs(Date.now() - at) > 300 * 86400e3 ? long : short;
  return h("time", { datetime: text, title: utc(text) }, format.format(at));
}

export function longTime(text) {
  return exact.format(new Date(text));
}

/** How long, in a word or two; ``round`` up where it is said as a bound. */
export function span(seconds, round = Math.floor) {
  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  for (const [unit, size] of units) if (seconds >= 2 * size) return `${round(seconds / size)} ${unit}`;
  return `${Math.max(0, round === Math.ceil ? Math.ceil(seconds) : Math.round(seconds))} s`;
}

export function ago(text, now) {
  return text ? `${span((new Date(now) - new Date(text)) / 1000)} ago` : "never";
}

/** Between which instants it happened. */
export function bounds(notBefore, seenAt) {
  if (!notBefore) return h("span", {}, "seen since ", when(seenAt));
  const [from, to] = [new Date(notBefore), new Date(seenAt)];
  const sameDay = from.toDateString() === to.toDateString();
  const later = sameDay && Math.abs(Date.now() - to) <= 300 * 86400e3
    ? h("time", { datetime: seenAt, title: utc(seenAt) }, clock.format(to))
    : when(seenAt);
  return h("span", {}, "between ", when(notBefore), " and ", later);
}

function zone() {
  const name = Intl.DateTimeFormat().resolvedOptions().timeZone ?? "the browser's zone";
  document.getElementById("foot").textContent =
    name === "UTC" ? "Times are in UTC." : `Times are in ${name}; hover over one for UTC.`;
}

// Widths --------------------------------------------------------------------------------------

const widths = new Map();
let ruler = null;

/** How wide a text is in the page's font, in pixels; ``font``: weight and size, as CSS writes them. */
export function widthOf(text, font) {
  if (!ruler) ruler = { context: document.createElement("canvas").getContext("2d"), family: getComputedStyle(document.documentElement).fontFamily };
  const key = `${font} ${text}`;
  if (!widths.has(key)) {
    ruler.context.font = `${font} ${ruler.family}`;
    widths.set(key, ruler.context.measureText(text).width);
  }
  return widths.get(key);
}

// Tables and addresses ------------------------------------------------------------------------

/** More rows than these scroll in their frame, so that the head stays in sight. */
const WITHOUT_SCROLLING = 15;

/** A table that scrolls in its own frame, by keyboard too. */
export function tableFrame(label, table, rows = table.tBodies[0].rows.length) {
  return h("div", { class: `frame ${rows > WITHOUT_SCROLLING ? "tall" : ""}`, tabindex: "0", role: "region", "aria-label": label }, table);
}

/** An address of this page with some parameters changed. */
export function here(changed) {
  const given = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changed)) {
    if (value === null || value === "") given.delete(name);
    else given.set(name, value);
  }
  return `${location.pathname}${given.size ? `?${given}` : ""}`;
}
