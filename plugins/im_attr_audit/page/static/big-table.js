// A table of any length: of many rows only those in sight are elements of the page.
import { h, lifetime, nameText, tableFrame, widthOf } from "./page.js";

/** So many rows are all drawn at once. */
export const FEW = 40;
const ABOVE_AND_BELOW = 8;
/** How high a row is taken for until one has been drawn, in pixels. */
const GUESS = 40;

/**
 * ``head``: the header cells. ``row(at)`` makes a row. ``widths``: of the columns where there are too
 * many rows to look at all of them. Rows are as high as they need: those that have been drawn are
 * measured, the others are taken for as high as those on average.
 */
export function bigTable({ label, head, count, row, widths, className = "list" }) {
  const few = count <= FEW;
  const body = h("tbody");
  const table = h("table", { class: `${className} ${few ? "" : "fixed"}`, "aria-rowcount": few ? null : count + 1 },
    h("caption", { class: "unseen" }, label), few ? null : columns(widths ?? head.map(() => "10rem")),
    h("thead", {}, h("tr", {}, head)), body);
  const frame = tableFrame(label, table, count);
  if (few) {
    for (let at = 0; at < count; at++) body.append(titled(row(at), head, className));
    return frame;
  }
  const above = spacer(head.length), below = spacer(head.length);
  let [from, to] = [0, 0];
  let rows = [];
  body.append(above, below);
  // How high each row is, 0 where it is not known; where each begins, and where the last one ends.
  const heights = new Float64Array(count), begins = new Float64Array(count + 1);
  const place = () => {
    const known = heights.filter((height) => height);
    const typical = known.length ? known.reduce((sum, height) => sum + height) / known.length : GUESS;
    for (let at = 0; at < count; at++) begins[at + 1] = begins[at] + (heights[at] || typical);
  };
  const keepPlace = () => {
    above.firstChild.style.height = `${begins[from]}px`;
    below.firstChild.style.height = `${begins[count] - begins[to]}px`;
  };
  /** Whether a row is not as high as it was taken for. */
  const measure = () => {
    if (!frame.clientHeight) return false;
    const tops = [...rows, below].map((each) => each.getBoundingClientRect().top);
    let isNew = false;
    rows.forEach((_, at) => {
      const height = tops[at + 1] - tops[at];
      if (Math.abs(heights[from + at] - height) < 0.5) return;
      heights[from + at] = height;
      isNew = true;
    });
    if (isNew) {
      place();
      keepPlace();
    }
    return isNew;
  };
  const make = (at) => {
    const made = titled(row(at), head, className);
    made.setAttribute("aria-rowindex", at + 2);
    return made;
  };
  // Rows that stay in sight stay as they are: while somebody scrolls there is time for a few new ones only.
  const draw = (first, last) => {
    if (first === from && last === to) return;
    const kept = rows.filter((each, at) => from + at >= first && from + at < last);
    for (const each of rows) if (!kept.includes(each)) each.remove();
    const begin = kept.length ? Math.max(first, from) : last;
    const [before, after] = [[], []];
    for (let at = first; at < begin; at++) before.push(make(at));
    for (let at = begin + kept.length; at < last; at++) after.push(make(at));
    above.after(...before);
    below.before(...after);
    [from, to, rows] = [first, last, [...before, ...kept, ...after]];
    keepPlace();
  };
  /** The row at a place, in pixels. */
  const rowAt = (at) => {
    let [low, high] = [0, count];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (begins[middle] <= at) low = middle;
      else high = middle;
    }
    return low;
  };
  let isPrinting = false;
  const look = () => {
    if (isPrinting) return draw(0, count);
    const isAtEnd = frame.scrollTop > 0 && frame.scrollTop + frame.clientHeight >= frame.scrollHeight - 1;
    const top = rowAt(frame.scrollTop);
    const seen = rowAt(frame.scrollTop + (frame.clientHeight || 800)) + 1 - top;
    // In steps, so that most scrolling changes nothing.
    const first = Math.max(0, Math.floor((top - ABOVE_AND_BELOW) / 8) * 8);
    draw(first, Math.min(count, first + seen + 2 * ABOVE_AND_BELOW + 8));
    const was = begins[top];
    if (!measure()) return;
    // What is read does not move, and the end is the end.
    const moved = isAtEnd ? frame.scrollHeight : frame.scrollTop + begins[top] - was;
    if (moved !== frame.scrollTop) frame.scrollTop = moved;
    // Less high than they were taken for, they may not fill the frame.
    look();
  };
  let waiting = false;
  frame.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; look(); });
  }, { passive: true });
  const signal = lifetime();
  let width = 0;
  const resized = () => {
    if (frame.clientWidth !== width) {
      const top = rowAt(frame.scrollTop);
      width = frame.clientWidth;
      heights.fill(0);
      if (measure()) frame.scrollTop = begins[top];
    }
    look();
  };
  addEventListener("resize", resized, { signal });
  for (const [event, prints] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      isPrinting = prints;
      look();
    }, { signal });
  }
  place();
  draw(0, Math.min(count, 30));
  requestAnimationFrame(resized);
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
  return h("colgroup", {}, widths.map((width) => {
    const column = h("col");
    column.style.width = width;
    return column;
  }));
}

function spacer(columns) {
  return h("tr", { class: "spacer", "aria-hidden": "true" }, h("td", { colspan: columns }));
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
