// The rows of a long table: only those in sight are elements of the page.
import { h, lifetime } from "./page.js";

const ABOVE_AND_BELOW = 8;
/** So many rows are drawn before anything is known of the frame. */
const FIRST = 30;
/** Assumed row height until one is measured, in pixels. */
const GUESS = 40;
/** What is measured can change what is in sight, which is then measured, and so on; few passes are enough. */
const MOST_PASSES = 10;
/** Heights that differ less are the same; of many rows even this adds up, in pixels. */
const SAME = 0.02;

/**
 * Fills the body of the table in a frame that scrolls. ``row(at)`` makes one of ``count`` rows. Drawn
 * rows are measured; the others are assumed to have the average height.
 */
export class RowsInSight {
  constructor(frame, { count, columns, row }) {
    Object.assign(this, { frame, count, row, from: 0, to: 0, rows: [], width: 0, isPrinting: false });
    [this.above, this.below] = [spacer(columns), spacer(columns)];
    // How high each row is, 0 where it is not known; where each begins, and where the last one ends.
    [this.heights, this.begins] = [new Float64Array(count), new Float64Array(count + 1)];
    frame.querySelector("tbody").append(this.above, this.below);
    this.settle();
    this.draw(0, Math.min(count, FIRST));
    this.listen(lifetime());
  }

  listen(signal) {
    let isWaiting = false;
    this.frame.addEventListener("scroll", () => {
      if (isWaiting) return;
      isWaiting = true;
      requestAnimationFrame(() => { isWaiting = false; this.look(); });
    }, { passive: true });
    // The frame becomes narrower with its view, too, not only with the window.
    const observer = new ResizeObserver(() => requestAnimationFrame(() => this.resize()));
    observer.observe(this.frame);
    signal.addEventListener("abort", () => observer.disconnect());
    for (const [event, prints] of [["beforeprint", true], ["afterprint", false]]) {
      addEventListener(event, () => {
        this.isPrinting = prints;
        this.look();
      }, { signal });
    }
  }

  /** Where each row begins, by what is known of their heights. */
  settle() {
    const { heights, begins, count } = this;
    const known = heights.filter((height) => height);
    const typical = known.length ? known.reduce((sum, height) => sum + height) / known.length : GUESS;
    for (let at = 0; at < count; at++) begins[at + 1] = begins[at] + (heights[at] || typical);
  }

  /** The room of the rows that are not drawn. */
  keepRoom() {
    const { begins, count, from, to } = this;
    this.above.firstChild.style.height = `${begins[from]}px`;
    this.below.firstChild.style.height = `${begins[count] - begins[to]}px`;
  }

  /** Whether a drawn row is not as high as it was known or assumed to be. */
  measure() {
    const { frame, heights, begins, from, rows } = this;
    if (!frame.clientHeight) return false;
    const tops = [...rows, this.below].map((each) => each.getBoundingClientRect().top);
    let isOther = false;
    for (let at = 0; at < rows.length; at++) {
      const height = tops[at + 1] - tops[at];
      isOther ||= Math.abs(begins[from + at + 1] - begins[from + at] - height) > SAME;
      heights[from + at] = height;
    }
    if (isOther) {
      this.settle();
      this.keepRoom();
    }
    return isOther;
  }

  make(at) {
    const made = this.row(at);
    made.setAttribute("aria-rowindex", at + 2);
    return made;
  }

  /** Rows that stay in sight stay as they are: while somebody scrolls there is time for a few new ones only. */
  draw(first, last) {
    const { from, to, rows } = this;
    if (first === from && last === to) return;
    const kept = rows.filter((each, at) => from + at >= first && from + at < last);
    for (const each of rows) {
      if (kept.includes(each)) continue;
      // The keyboard goes on from the frame.
      if (each.contains(document.activeElement)) this.frame.focus({ preventScroll: true });
      each.remove();
    }
    const begin = kept.length ? Math.max(first, from) : last;
    const [before, after] = [[], []];
    for (let at = first; at < begin; at++) before.push(this.make(at));
    for (let at = begin + kept.length; at < last; at++) after.push(this.make(at));
    this.above.after(...before);
    this.below.before(...after);
    [this.from, this.to, this.rows] = [first, last, [...before, ...kept, ...after]];
    this.keepRoom();
  }

  /** The row at a height, in pixels. */
  rowAt(height) {
    let [low, high] = [0, this.count];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.begins[middle] <= height) low = middle;
      else high = middle;
    }
    return low;
  }

  look() {
    if (this.isPrinting) this.draw(0, this.count);
    else for (let pass = 0; pass < MOST_PASSES && this.drawInSight(); pass++);
  }

  /** Whether something was measured that can change what is in sight. */
  drawInSight() {
    const { frame, heights, begins, count } = this;
    // Read first: near the end the browser changes it as soon as the rows are less high.
    const place = frame.scrollTop;
    const isAtEnd = place > 0 && place + frame.clientHeight >= frame.scrollHeight - 1;
    const top = this.rowAt(place);
    const seen = this.rowAt(place + (frame.clientHeight || 800)) + 1 - top;
    // In steps, so that most scrolling changes nothing.
    const first = Math.max(0, Math.floor((top - ABOVE_AND_BELOW) / 8) * 8);
    this.draw(first, Math.min(count, first + seen + 2 * ABOVE_AND_BELOW + 8));
    // The first row in sight whose height was known stays in its place; the end stays the end.
    const known = heights.subarray(top, top + seen).findIndex((height) => height > 0);
    const fixed = top + Math.max(0, known);
    const was = begins[fixed];
    if (!this.measure()) return false;
    frame.scrollTop = isAtEnd ? frame.scrollHeight : place + begins[fixed] - was;
    return true;
  }

  /** Rows of another width have other heights. */
  resize() {
    const { frame, heights, begins } = this;
    if (frame.clientWidth !== this.width) {
      const top = this.rowAt(frame.scrollTop);
      const inside = frame.scrollTop - begins[top];
      this.width = frame.clientWidth;
      heights.fill(0);
      if (this.measure()) frame.scrollTop = begins[top] + Math.min(inside, heights[top]);
    }
    this.look();
  }
}

function spacer(columns) {
  return h("tr", { class: "spacer", "aria-hidden": "true" }, h("td", { colspan: columns }));
}
