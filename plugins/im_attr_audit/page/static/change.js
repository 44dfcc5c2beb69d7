// One change in full: both names, both bounds, the run that recorded it, its place in the chain.
import { announce, ask, h, kindOf, nameOf, runLink, when } from "./page.js";

/** Open the details of a change; ``app`` is region/sdk_app_id. */
export async function changeDialog(app, seq) {
  const cut = app.lastIndexOf("/");
  const opener = document.activeElement;
  const dialog = h("dialog", { "aria-labelledby": "change-title", class: "change" },
    h("h2", { id: "change-title" }, `Change ${seq} of ${app}`),
    h("div", { class: "body" }, h("p", { class: "waiting" }, "Reading the record …")),
    h("form", { method: "dialog" }, h("button", { type: "submit" }, "Close")));
  document.body.append(dialog);
  dialog.addEventListener("close", () => {
    dialog.remove();
    opener?.focus?.();
  });
  dialog.showModal();
  const body = dialog.querySelector(".body");
  try {
    const change = await ask("change", { region: app.slice(0, cut), sdk_app_id: app.slice(cut + 1), seq });
    body.replaceChildren(details(change, app));
  } catch (error) {
    body.replaceChildren(h("p", {}, error.message), h("p", {}, error.next ?? ""));
    announce(error.message);
  }
}

function details(change, app) {
  const rows = [
    ["What", [kindOf(change.kind), `, slot ${change.slot}`]],
    ["From", nameOf(change.old_name, change.old_type)],
    ["To", nameOf(change.new_name, change.new_type)],
    ["Not before", change.not_before ? when(change.not_before, { seconds: true }) : "unknown: it is part of the baseline"],
    ["Seen at", when(change.seen_at, { seconds: true })],
    ["Recorded at", when(change.recorded_at, { seconds: true })],
    ["Run", change.dag_run_id ? runLink(change.dag_run_id) : "none"],
    ["Connection", change.conn_id ? h("code", {}, change.conn_id) : h("span", { class: "none" }, "its poll has been deleted by retention")],
    ["Reads", change.reads === null ? null : `${change.reads}, in poll ${change.poll_id}`],
    ["Place in the chain", `${change.seq}`],
    ["Hash", h("code", { class: "whole" }, change.row_hash)],
    ["Previous hash", change.prev_hash ? h("code", { class: "whole" }, change.prev_hash) : "none: it is the first change of its app"],
    ["Answer", change.answer ? h("pre", { tabindex: "0", "aria-label": "The vendor's answer" }, change.answer) : null],
    ["Address", h("a", { href: `changes?app=${encodeURIComponent(app)}&seq=${change.seq}` }, "link to this change")],
  ];
  return h("dl", {}, rows.filter(([, value]) => value !== null).map(([title, value]) => [h("dt", {}, title), h("dd", {}, value)]));
}
