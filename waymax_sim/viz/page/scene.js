"use strict";
// The scene and what is asked of it. Nothing here touches the document.

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(plain).text());
}

// Lists of numbers hold the differences of whole multiples of a unit.
function numbers(differences, unit) {
  let sum = 0;
  return differences.map((difference) => (sum += difference) * unit);
}

// Lists of flags hold the steps at which they change.
function flags(changes, length) {
  let flag = false;
  const steps = new Set(changes);
  return Array.from({ length }, (_, step) => (flag = steps.has(step) ? !flag : flag));
}

function decodeScene(packed) {
  const { place, ...units } = packed.units;
  const length = packed.times.length;
  const line = ([x, y]) => ({ x: numbers(x, place), y: numbers(y, place) });
  const track = (item) => {
    const fields = Object.entries(units).map(([name, unit]) => [name, numbers(item[name], unit)]);
    return { valid: flags(item.valid, length), ...Object.fromEntries(fields) };
  };
  const series = (items, { quantum }) => items.map(({ agent, valid, value }) =>
    ({ agent, valid: flags(valid, length), value: numbers(value, quantum) }));
  return {
    ...packed,
    length,
    map: packed.map.map((group) => ({ ...group, lines: group.lines.map(line) })),
    routes: packed.routes.map((route) => ({ ...route, ...line(route.line) })),
    lights: packed.lights.map(({ lane, valid, state, x, y }) =>
      ({ lane, valid: flags(valid, length), state: numbers(state, 1), ...line([x, y]) })),
    log: packed.log.map(track),
    rollouts: packed.rollouts.map((rollout) => ({
      ...rollout,
      tracks: new Map(Object.entries(rollout.tracks).map(([agent, item]) => [Number(agent), track(item)])),
      metrics: rollout.metrics.map((items, index) => series(items, packed.metrics[index])),
    })),
  };
}

// Where a track is at a time in steps, straight between two steps; null where it is not there.
function poseAt(track, time) {
  const step = Math.floor(time);
  if (!track.valid[step]) return null;
  const next = track.valid[step + 1] ? step + 1 : step;
  const between = (values) => values[step] + (time - step) * (values[next] - values[step]);
  const { x, y, z, yaw, vx, vy } = track;
  return { x: between(x), y: between(y), z: between(z), yaw: between(yaw), vx: between(vx), vy: between(vy) };
}

// The track of an agent in a rollout, or in the log where there is no rollout.
function trackOf(scene, rollout, agent) {
  return rollout?.tracks.get(agent) ?? scene.log[agent];
}

// An agent in a rollout, which shows nothing after its end.
function agentAt(scene, rollout, agent, time) {
  return rollout && time > rollout.last ? null : poseAt(trackOf(scene, rollout, agent), time);
}

function isDriven(rollout, agent) {
  return Boolean(rollout?.controller[agent]);
}

function driverName(rollout, agent) {
  const controller = rollout?.controller[agent] ?? 0;
  return ["log", "caller"][controller] ?? `policy ${controller - 2}`;
}

// The values over time of a metric for an agent, or for the scene.
function seriesOf(rollout, metric, agent) {
  return rollout.metrics[metric].find((series) => series.agent === agent || series.agent === null);
}

function isOn(series, step) {
  return Boolean(series.valid[step] && series.value[step]);
}

// Steps at which a metric with events begins to hold for some agent, in order.
function eventsOf(scene) {
  const events = [];
  scene.rollouts.forEach((rollout, index) => scene.metrics.forEach((metric, row) => {
    if (!metric.events) return;
    for (let step = rollout.first; step <= rollout.last; step++) {
      const begun = rollout.metrics[row].filter((series) => isOn(series, step) && !isOn(series, step - 1));
      if (begun.length) events.push({ step, rollout: index, metric: row, agents: begun.map((series) => series.agent) });
    }
  }));
  return events.sort((a, b) => a.step - b.step);
}

// Metrics with events that hold for an agent at a step.
function happening(scene, rollout, agent, step) {
  if (!rollout) return [];
  return scene.metrics.filter((metric, row) =>
    metric.events && rollout.metrics[row].some((series) => series.agent === agent && isOn(series, step)));
}

// The agent at a place: the one whose centre is nearest, within half its length or `reach` metres.
function agentNear(scene, rollout, time, x, y, reach) {
  let found = null;
  let nearest = Infinity;
  scene.agents.forEach((agent, index) => {
    const pose = agentAt(scene, rollout, index, time);
    const distance = pose ? Math.hypot(pose.x - x, pose.y - y) : Infinity;
    if (distance < Math.min(nearest, Math.max(agent.size[0] / 2, reach))) [found, nearest] = [index, distance];
  });
  return found;
}
