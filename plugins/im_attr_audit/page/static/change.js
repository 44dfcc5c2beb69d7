// One change in full: both names, both bounds, the run that recorded it, its place in the chain.
import { announce, appLink, appName, ask, h, kindOf, lookalikeOf, nameOf, oldNameOf, runLink, show, textOf, when } from "./page.js";

/** The address of a change. */
export function changeAddress(change) {
  return `changes?${new URLSearchParams({ app: appName(change), seq: change.seq })}`;
}

/** Show a change; ``app`` is region/sdk_app_id. */
export async function changeView(app, seq) {
  const cut = app.lastIndexOf("/");
  const change = await ask("change", { region: app.slice(0, cut), sdk_app_id: app.slice(cut + 1), seq });
  const to = (number, text) => h("a", { href: changeAddress({ ...change, seq: number }) }, text);
  document.querySelector(".purpose")?.remove();
  document.title = `Change ${change.seq} of ${app} - Attribute names`;
  show(h("section", { "aria-labelledby": "change", class: "change" },
    h("h2", { id: "change" }, `Change ${change.seq} of ${app}`),
    h("nav", { class: "pager", "aria-label": "The chain" },
      change.seq > 1 ? to(change.seq - 1, "← Previous in the chain") : null,
      change.seq < change.head_seq ? to(change.seq + 1, "Next in the chain →") : h("span", {}, "This is the newest change of the app."),
      h("a", { href: `changes?${new URLSearchParams({ app, slot: change.slot })}` }, `All changes of slot ${change.slot}`),
      h("a", { href: `changes?${new URLSearchParams({ app })}` }, "All changes of the app"),
      h("a", { href: `timeline?${new URLSearchParams({ app, slot: change.slot })}` }, "Timeline")),
    names(change), details(change)));
}

/** From and to; of two names the characters that differ are marked. */
function names(change) {
  const both = change.kind === "renamed";
  const [from, to] = both ? difference(change.old_name, change.new_name) : [oldNameOf(change), nameOf(change.new_name, change.new_type)];
  return h("table", { class: "list names-of-change" }, h("caption", { class: "unseen" }, "The names"),
    h("tbody", {},
      h("tr", {}, h("th", { scope: "row" }, "From"), h("td", {}, from)),
      h("tr", {}, h("th", { scope: "row" }, "To"), h("td", {}, to, change.lookalike ? [" ", lookalikeOf(change.lookalike)] : null))));
}

/** Two names as elements; what is in one of them alone is marked. */
export function difference(a, b) {
  const [x, y] = [[...a], [...b]];
  const inBoth = common(x, y);
  return [marked(x, inBoth.map(([at]) => at)), marked(y, inBoth.map(([, at]) => at))];
}

function common(x, y) {
  if (x.length * y.length > 250_000) return [];
  const lengths = Array.from({ length: x.length + 1 }, () => new Uint16Array(y.length + 1));
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      lengths[i][j] = x[i] === y[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    if (x[i] === y[j]) pairs.push([i++, j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

function marked(signs, inBoth) {
  const kept = new Set(inBoth);
  const element = h("bdi", { class: "name" });
  for (let at = 0; at < signs.length;) {
    const same = kept.has(at);
    let end = at;
    while (end < signs.length && kept.has(end) === same) end++;
    const text = signs.slice(at, end).join("");
    element.append(same ? textOf(text) : h("mark", { title: codes(text) }, textOf(text, true)));
    at = end;
  }
  return signs.length ? element : nameOf("");
}

function codes(text) {
  return [...text].slice(0, 12).map((sign) => `${sign} U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join("  ");
}

/** What happened, and below it where that is on record. */
function details(change) {
  const isBaseline = change.kind === "baseline";
  const none = (text) => h("span", { class: "none" }, text);
  const said = (text) => h("span", { class: "since" }, text);
  return [list([
    ["Kind", [kindOf(change.kind), `, slot ${change.slot}`]],
    ["App", appLink(change)],
    ["App group", h("bdi", {}, change.app_group)],
    ["Moved", change.moved_from_slot === null ? null : `from slot ${change.moved_from_slot}, in the same poll`],
    ["Not before", change.not_before ? [when(change.not_before, { seconds: true }), said("the last good poll before it was seen")] : "unknown: it is part of the baseline"],
    ["Seen at", [when(change.seen_at, { seconds: true }), isBaseline ? null : said("the first good poll that saw it")]],
    ["Declared", isBaseline ? null : change.declared === null ? none("nothing was declared at that time") : [declaredOf(change.declared), " when it was seen"]],
    ["Review", isBaseline ? null : change.verdict
      ? [verdictOf(change.verdict), " by ", h("bdi", {}, change.reviewer), ", ", when(change.reviewed_at, { seconds: true }), change.ticket ? [", ticket ", h("bdi", {}, change.ticket)] : ", no ticket"]
      : none(change.declared ? "not needed: it is as declared" : "not reviewed yet")],
    ["Made by", isBaseline ? null : none("unknown: Tencent's API does not report who changes a name")],
    ["Seen by run", change.dag_run_id ? runLink(change.dag_run_id, { whole: true }) : "none"],
  ]), h("h3", {}, "Evidence"), list([
    ["Proof", change.seal ? proof(change) : none("available once it is sealed")],
    ["Seal", change.seal ? [`seal ${change.seal.n}, `, when(change.seal.sealed_at, { seconds: true })] : none("not sealed")],
    ["Recorded at", when(change.recorded_at, { seconds: true })],
    ["Place in the chain", `${change.seq} of ${change.head_seq}`],
    ["Hash", [h("code", { class: "whole" }, change.row_hash), " ", copy(change.row_hash, "hash")]],
    ["Previous hash", change.prev_hash ? h("code", { class: "whole" }, change.prev_hash) : "none: this is the first change of its app"],
    ["Connection", change.conn_id ? h("code", {}, change.conn_id) : none("its poll has been deleted by retention")],
    ["Reads", change.reads === null ? null : `${change.reads}, in poll ${change.poll_id}`],
    ["Tencent's answer", change.answer ? h("pre", { tabindex: "0", "aria-label": "Tencent's answer" }, change.answer) : null],
  ])];
}

function list(rows) {
  return h("dl", {}, rows.filter(([, value]) => value !== null).map(([title, value]) => [h("dt", {}, title), h("dd", {}, value)]));
}

/** One file by which a stranger can check the change, and one about the poll that saw it. */
function proof(change) {
  return [h("p", {}, proofLink(change, { seq: change.seq }, "Download the proof of this change"),
    change.requested_at ? [" or ", proofLink(change, { at: change.requested_at }, "of its poll")] : "",
    ". An outsider checks it with the public key alone."),
  h("code", { class: "whole" }, command(change))];
}

/** ``which``: the seq of a change, or the time at which a poll was requested. */
export function proofLink({ region, sdk_app_id }, which, text) {
  return h("a", { href: `api/proof?${new URLSearchParams({ region, sdk_app_id, ...which })}`, download: "" }, text);
}

/** The same by command; for a POSIX shell. */
function command(change) {
  const quoted = `'${change.region.replaceAll("'", "'\\''")}'`;
  return `im-attr-audit prove --region ${/^[\w-]+$/.test(change.region) ? change.region : quoted} --app ${change.sdk_app_id} --seq ${change.seq} --out change.json`;
}

export function declaredOf(declared) {
  if (declared === null) return null;
  return h("span", { class: `badge ${declared ? "good" : "odd"}` }, h("span", { "aria-hidden": "true" }, declared ? "✓ " : "≠ "), declared ? "as declared" : "not as declared");
}

export function verdictOf(verdict) {
  const good = verdict === "expected";
  return h("span", { class: `badge ${good ? "good" : "bad"}` }, h("span", { "aria-hidden": "true" }, good ? "✓ " : "✕ "), good ? "expected" : "not expected");
}

function copy(text, what) {
  if (!navigator.clipboard) return null;
  return h("button", { type: "button", class: "small", "aria-label": `Copy the ${what}`, onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      announce(`The ${what} is copied.`);
    } catch {
      announce(`The browser does not allow copying. Select the ${what} instead.`);
    }
  } }, "Copy");
}
