"use strict";
// The state of the selected agent: a row per quantity, a column for the log and for each rollout.

const COLUMN_EM = 7.5; // width of a column: a width that depends on the numbers would move the maps

function numberText(value, digits, unit) {
  if (value === null) return "–";
  // Adding zero removes the sign of a negative zero.
  return `${(Number(value.toFixed(digits)) + 0).toFixed(digits)} ${unit}`;
}

// Names break after underscores.
function breakable(name) {
  return name.replaceAll("_", "_\u200b");
}

function degrees(angle) {
  return (angle * 180) / Math.PI;
}

// Quantities of an agent by name; null where it is not valid.
function agentState(rollout) {
  const pose = agentAt(scene, rollout, view.agent, view.time);
  if (!pose) return null;
  const step = Math.floor(view.time);
  const turn = 2 * Math.PI;
  const yaw = (((pose.yaw + Math.PI) % turn) + turn) % turn - Math.PI;
  const { acceleration, yawRate } = derivatives(scene, rollout, view.agent, step);
  const lane = laneAt(lanes, pose);
  const logged = rollout ? poseAt(scene.log[view.agent], view.time) : null;
  const active = activeEvents(scene, rollout, view.agent, step).map((metric) => metric.name);
  return {
    x: numberText(pose.x, 2, "m"), y: numberText(pose.y, 2, "m"), z: numberText(pose.z, 1, "m"),
    heading: `${degrees(yaw).toFixed(1)}°`, speed: numberText(Math.hypot(pose.vx, pose.vy), 1, "m/s"),
    acceleration: numberText(acceleration, 1, "m/s²"),
    "yaw rate": numberText(yawRate === null ? null : degrees(yawRate), 1, "°/s"),
    lane: lane ? `${lane.id}` : "–", "speed limit": limitText(lane), route: routeAt(scene, pose) ?? "–",
    "from the log": logged ? numberText(Math.hypot(pose.x - logged.x, pose.y - logged.y), 2, "m") : "–",
    "driven by": breakable(driverName(rollout, view.agent)), now: breakable(active.join(", ")) || "–",
  };
}

function factsTable(columns) {
  const states = columns.map(({ rollout }) => agentState(rollout));
  const names = [...new Set(states.flatMap((state) => Object.keys(state ?? {})))];
  const heads = columns.map(({ name, color }) => {
    const head = element("th", { scope: "col", textContent: breakable(name) });
    head.style.setProperty("--color", `var(--${color})`);
    return head;
  });
  const row = (name) => element("tr", {}, element("th", { scope: "row", textContent: name }),
    ...states.map((state) => element("td", { textContent: state ? state[name] : "not valid" })));
  return element("table", {},
    element("thead", {}, element("tr", {}, element("td"), ...heads)), element("tbody", {}, ...names.map(row)));
}

function showFacts() {
  const facts = byId("facts");
  facts.hidden = view.agent === null;
  if (facts.hidden) return;
  const agent = scene.agents[view.agent];
  const [length, width, height] = agent.size;
  const about = `row ${agent.row}, ${length} m long, ${width} m wide, ${height} m high`;
  const columns = [{ rollout: null, name: "log", color: "ghost" }, ...panels.filter((panel) => panel.rollout)];
  facts.style.width = `${COLUMN_EM * (columns.length + 1)}em`;
  facts.replaceChildren(
    element("h2", { textContent: agentName(agent) }), element("p", { textContent: about }), factsTable(columns));
}
