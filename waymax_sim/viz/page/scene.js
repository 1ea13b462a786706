"use strict";
// Decoding of the scene, and queries. No access to the document.

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
  const { position, ...units } = packed.units;
  const length = packed.times.length;
  const line = ([x, y]) => ({ x: numbers(x, position), y: numbers(y, position) });
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

// The pose of a track at a time in steps, interpolated linearly; null where it is not valid.
function poseAt(track, time) {
  const step = Math.floor(time);
  if (!track.valid[step]) return null;
  const next = track.valid[step + 1] ? step + 1 : step;
  const between = (values) => values[step] + (time - step) * (values[next] - values[step]);
  const { x, y, z, yaw, vx, vy } = track;
  return { x: between(x), y: between(y), z: between(z), yaw: between(yaw), vx: between(vx), vy: between(vy) };
}

// The track of an agent in a rollout, or in the log without a rollout.
function getTrack(scene, rollout, agent) {
  return rollout?.tracks.get(agent) ?? scene.log[agent];
}

// The pose of an agent in a rollout; null after the end of the rollout.
function agentAt(scene, rollout, agent, time) {
  return rollout && time > rollout.last ? null : poseAt(getTrack(scene, rollout, agent), time);
}

function isDriven(rollout, agent) {
  return Boolean(rollout?.controller[agent]);
}

// The name of the policy that drives an agent; policies without a name have numbers from 1.
function driverName(rollout, agent) {
  const controller = rollout?.controller[agent] ?? 0;
  return ["log", "caller"][controller] ?? rollout.drivers[controller - 2] ?? `policy ${controller - 1}`;
}

function agentName({ sdc, type, id }) {
  return `${sdc ? "sdc" : type} ${id}`;
}

// The time of the record at a time in steps, interpolated linearly, s.
function recordTime(scene, time) {
  const step = Math.floor(time);
  const next = Math.min(step + 1, scene.length - 1);
  return scene.times[step] + (time - step) * (scene.times[next] - scene.times[step]);
}

// The time in steps at a time of the record (s): the inverse of `recordTime`.
function stepAt(scene, seconds) {
  const next = scene.times.findIndex((time) => time > seconds);
  if (next < 0) return scene.length - 1;
  if (next === 0) return 0;
  const [before, after] = [scene.times[next - 1], scene.times[next]];
  return next - 1 + (seconds - before) / (after - before);
}

// The values over time of a metric for an agent, or for the scene.
function findSeries(rollout, metric, agent) {
  return rollout.metrics[metric].find((series) => series.agent === agent || series.agent === null);
}

function isActive(series, step) {
  return Boolean(series.valid[step] && series.value[step]);
}

// Steps at which an event metric becomes active for an agent, sorted by step.
function findEvents(scene) {
  const events = [];
  scene.rollouts.forEach((rollout, index) => scene.metrics.forEach((metric, row) => {
    if (!metric.events) return;
    for (let step = rollout.first; step <= rollout.last; step++) {
      const begun = rollout.metrics[row].filter((series) => isActive(series, step) && !isActive(series, step - 1));
      if (begun.length) events.push({ step, rollout: index, metric: row, agents: begun.map((series) => series.agent) });
    }
  }));
  return events.sort((a, b) => a.step - b.step);
}

// Metrics with events that are active for an agent at a step.
function activeEvents(scene, rollout, agent, step) {
  if (!rollout) return [];
  return scene.metrics.filter((metric, row) =>
    metric.events && rollout.metrics[row].some((series) => series.agent === agent && isActive(series, step)));
}

// The agent with the nearest center within half its length or `radius` (m); null if there is none.
function nearestAgent(scene, rollout, time, x, y, radius) {
  let nearest = null;
  let minDistance = Infinity;
  scene.agents.forEach((agent, index) => {
    const pose = agentAt(scene, rollout, index, time);
    const distance = pose ? Math.hypot(pose.x - x, pose.y - y) : Infinity;
    if (distance < Math.min(minDistance, Math.max(agent.size[0] / 2, radius))) {
      [nearest, minDistance] = [index, distance];
    }
  });
  return nearest;
}
