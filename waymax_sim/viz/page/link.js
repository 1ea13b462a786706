"use strict";
// The step and the id of the selected agent in the address: #step=73&agent=1047. In a frame, its attribute `data-hash`
// has the same form.

const LINK_DELAY_MS = 300; // without a change of the view
let linkTimer = null;

function linkText() {
  const agent = view.agent === null ? "" : `&agent=${scene.agents[view.agent].id}`;
  return `#step=${Math.floor(view.time)}${agent}`;
}

function readLink() {
  const fields = new URLSearchParams((location.hash || window.frameElement?.dataset.hash || "").replace("#", ""));
  const step = Number.parseInt(fields.get("step"), 10);
  const agent = scene.agents.findIndex(({ id }) => String(id) === fields.get("agent"));
  if (agent >= 0) [view.agent, view.follow] = [agent, true];
  if (!Number.isNaN(step)) jump(step);
}

// Not in frames, whose address belongs to the outer page, and not while playing: browsers limit the rate of changes.
function writeLink() {
  if (window !== window.top || view.playing) return;
  clearTimeout(linkTimer);
  linkTimer = setTimeout(() => {
    if (location.hash !== linkText()) history.replaceState(null, "", linkText());
  }, LINK_DELAY_MS);
}
