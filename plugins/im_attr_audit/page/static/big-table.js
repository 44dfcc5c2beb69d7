// A table of any length, and what a matrix has: columns by their names, arrow keys, tips.
import { h, lifetime, nameText, tableFrame, widthOf } from "./page.js";
import { RowsInSight } from "./in-sight.js";

/** Tables of up to this many rows are drawn in full. */
const FEW = 40;

/**
 * ``head``: the header cells. ``row(at)`` makes a row. ``widths`` of the columns of a table that is
 * not drawn in full: shares of the frame as numbers, or lengths.
 */
export function bigTable({ label, head, count, row, widths, className = "list" }) {
  const few = count <= FEW;
  const body = h("tbody");
  const table = h("table", { class: `${className} ${few ? "" : "fixed"}`, "aria-rowcount": few ? null : count + 1 },
    h("caption", { class: "unseen" }, label), few ? null : columns(widths),
    h("thead", {}, h("tr", {}, head)), body);
  const frame = tableFrame(label, table, count);
  const make = (at) => titled(row(at), head, className);
  if (few) for (let at = 0; at < count; at++) body.append(make(at));
  else new RowsInSight(frame, { count, columns: head.length, row: make });
  return frame;
}

/** As a card on a phone, each cell says what it is. */
function titled(row, head, className) {
  if (!className.includes("cards")) return row;
  let at = 0;
  for (const cell of row.children) {
    cell.dataset.title = head[at]?.textContent ?? "";
    at += cell.colSpan;
  }
  return row;
}

/** The narrowest and the widest column of a slot, and what is beside the name in it, in pixels. */
const NARROWEST = 88, WIDEST = 176, BESIDE = 30;

/** How wide a slot's column of a matrix is: as its widest name needs, within limits. */
export function slotWidth(cells, more = 0) {
  let widest = 0;
  for (const name of new Set(cells.map((cell) => cell?.name ?? ""))) {
    widest = Math.max(widest, widthOf(nameText(name), "500 14px"));
    if (widest + BESIDE >= WIDEST) break;
  }
  return `${Math.round(Math.min(WIDEST, Math.max(NARROWEST, widest + BESIDE)) + more)}px`;
}

function columns(widths) {
  const all = widths.reduce((sum, width) => sum + width, 0);
  return h("colgroup", {}, widths.map((width) => {
    const column = h("col");
    column.style.width = typeof width === "number" ? `${100 * width / all}%` : width;
    return column;
  }));
}

/** In a matrix the arrow keys go from cell to cell, and Tab goes past all of them. */
export function arrowKeys(frame) {
  frame.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    const links = (row) => [...(row?.querySelectorAll("td a") ?? [])];
    const cell = event.target.closest?.("td");
    if (!cell) {
      if (event.target === frame && event.key === "ArrowRight") links(frame.querySelector("tbody tr:not(.spacer)"))[0]?.focus();
      return;
    }
    const row = cell.parentElement;
    const at = [...row.children].indexOf(cell);
    const next = down ? (down > 0 ? row.nextElementSibling : row.previousElementSibling)?.children[at] : row.children[at + right];
    const link = next?.querySelector("a");
    if (!link) return;
    event.preventDefault();
    link.focus({ preventScroll: true });
    link.closest("td").scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}

const sayings = new WeakMap();

/** An element with a tip; ``say`` makes its text when it is wanted. */
export function tipped(element, say) {
  element.setAttribute("data-tip", "");
  sayings.set(element, say);
  return element;
}

/** What an element's tip says, beside it while it is pointed at or has the focus; ``follow``: beside the pointer. */
export function tips(place, { follow = false } = {}) {
  const tip = h("div", { class: "tip", role: "tooltip", hidden: true });
  document.body.append(tip);
  const showFor = (event) => {
    const of = event.target.closest?.("[data-tip]");
    const text = of ? sayings.get(of)?.(event) ?? of.dataset.tip : "";
    tip.hidden = !text;
    if (!text) return;
    if (tip.textContent !== text) tip.textContent = text;
    const box = of.getBoundingClientRect();
    const mine = tip.getBoundingClientRect();
    const above = box.bottom + mine.height + 8 > innerHeight;
    tip.style.left = `${Math.max(4, Math.min(follow && event.clientX ? event.clientX : box.left, innerWidth - mine.width - 8))}px`;
    tip.style.top = `${Math.max(4, above ? box.top - mine.height - 4 : box.bottom + 4)}px`;
  };
  const hide = () => { tip.hidden = true; };
  place.addEventListener(follow ? "mousemove" : "mouseover", showFor);
  place.addEventListener("focusin", showFor);
  place.addEventListener("mouseleave", hide);
  place.addEventListener("focusout", hide);
  place.addEventListener("scroll", hide, { capture: true, passive: true });
  const signal = lifetime();
  signal.addEventListener("abort", () => tip.remove());
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); }, { signal });
}
