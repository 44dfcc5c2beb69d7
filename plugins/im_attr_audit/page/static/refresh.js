// While a run is going: the view is drawn again, but nothing moves under who reads further down.
import { announce, content, DAG, h, run } from "./page.js";

const EVERY = 15_000;
let isFilledIn = false;
content.addEventListener("input", () => { isFilledIn = true; });

/** Draw a view, and again while a run of the DAG is going and once after it. */
export function runAndRefresh(view) {
  run(view);
  let wasGoing = false;
  const offer = h("button", { type: "button", class: "newer", hidden: true, onclick: () => { offer.hidden = true; again(view); } }, "Show newer data");
  document.body.append(offer);
  setInterval(async () => {
    if (document.hidden) return;
    const going = await isGoing();
    if (going || wasGoing) {
      if (isReading()) offer.hidden = false;
      else {
        offer.hidden = true;
        await again(view);
      }
    }
    wasGoing = going;
  }, EVERY);
}

/** Whether Airflow has a run of the DAG that has not ended; not known is no. */
async function isGoing() {
  try {
    const answer = await fetch(`../api/v2/dags/${DAG}/dagRuns?state=running&state=queued&limit=1`, { headers: { Accept: "application/json" } });
    return answer.ok && (await answer.json()).dag_runs.length > 0;
  } catch {
    return false;
  }
}

/** Somebody has scrolled, selected or filled in something or is at something with the keyboard. */
function isReading() {
  const scrolled = scrollY > 0 || [...content.querySelectorAll(".frame")].some((frame) => frame.scrollTop || frame.scrollLeft);
  return scrolled || isFilledIn || String(getSelection()) !== "" || content.contains(document.activeElement) || content.querySelector("details[open]:not(.filters)") !== null;
}

async function again(view) {
  await run(view);
  isFilledIn = false;
  announce("The view was refreshed.");
}
