"use strict";
// Lanes and routes at a position, and derivatives of tracks. No access to the document.

const LANE_HALF_WIDTH = 1.85; // as drawn, m
const MAX_LANE_ANGLE = Math.PI / 4; // between an agent and its lane, rad
const MAX_LANE_HEIGHT = 4; // between an agent and the middle of the level of its lane, m
const SLOPE_STEPS = 2; // on each side of a step

// The distance of a position to a line, m, and the direction of its nearest segment, rad.
function nearestOnLine({ x, y }, atX, atY) {
  let nearest = { distance: Math.hypot(x[0] - atX, y[0] - atY), yaw: 0 };
  for (let index = 1; index < x.length; index++) {
    const [dx, dy] = [x[index] - x[index - 1], y[index] - y[index - 1]];
    const along = (atX - x[index - 1]) * dx + (atY - y[index - 1]) * dy;
    const fraction = Math.min(Math.max(along / (dx * dx + dy * dy || 1), 0), 1);
    const distance = Math.hypot(x[index - 1] + fraction * dx - atX, y[index - 1] + fraction * dy - atY);
    // The first segment replaces the direction of its starting point.
    if (distance < nearest.distance || index === 1) nearest = { distance, yaw: Math.atan2(dy, dx) };
  }
  return nearest;
}

// The lanes of the map with their ids and speed limits (m/s, 0 where unknown).
function findLanes(scene) {
  return scene.map.filter((group) => group.id).flatMap(({ id, limit, level, lines }) =>
    lines.map((line, index) => ({ id: id[index], limit: limit[index], height: (level + 0.5) * scene.level_height, line })));
}

// The lane nearest to a position, or to a pose with a heading and a height; null if it is on none.
function laneAt(lanes, { x, y, z = null, yaw = null }) {
  let nearest = null;
  let minDistance = LANE_HALF_WIDTH;
  for (const lane of lanes) {
    if (z !== null && Math.abs(lane.height - z) > MAX_LANE_HEIGHT) continue;
    const { distance, yaw: direction } = nearestOnLine(lane.line, x, y);
    if (distance > minDistance || (yaw !== null && Math.cos(direction - yaw) < Math.cos(MAX_LANE_ANGLE))) continue;
    [nearest, minDistance] = [lane, distance];
  }
  return nearest;
}

// The relation of a position to the routes of the sdc: "on", "other path", or "off"; null without routes.
function routeAt(scene, { x, y }) {
  if (!scene.routes.length) return null;
  const near = scene.routes.filter((route) => nearestOnLine(route, x, y).distance <= LANE_HALF_WIDTH);
  return near.some((route) => route.on_route) ? "on" : near.length ? "other path" : "off";
}

function limitText(lane) {
  return lane?.limit ? `${lane.limit} m/s` : "–";
}

// Slope of a line of least squares through values at times; null for less than three values.
function slope(times, values) {
  if (times.length < 3) return null;
  const mean = (list) => list.reduce((sum, value) => sum + value, 0) / list.length;
  const [middle, level] = [mean(times), mean(values)];
  const spread = times.reduce((sum, time) => sum + (time - middle) ** 2, 0);
  return spread ? times.reduce((sum, time, index) => sum + (time - middle) * (values[index] - level), 0) / spread : null;
}

// Longitudinal acceleration (m/s²) and yaw rate (rad/s) at a step: slopes over the valid steps next to it.
function derivatives(scene, rollout, agent, step) {
  const track = getTrack(scene, rollout, agent);
  const end = rollout ? rollout.last : scene.length - 1;
  const steps = [];
  if (track.valid[step] && step <= end) {
    let [first, last] = [step, step];
    while (first > step - SLOPE_STEPS && track.valid[first - 1]) first--;
    while (last < Math.min(step + SLOPE_STEPS, end) && track.valid[last + 1]) last++;
    for (let index = first; index <= last; index++) steps.push(index);
  }
  const times = steps.map((index) => scene.times[index]);
  const speeds = steps.map((index) =>
    track.vx[index] * Math.cos(track.yaw[index]) + track.vy[index] * Math.sin(track.yaw[index]));
  return { acceleration: slope(times, speeds), yawRate: slope(times, steps.map((index) => track.yaw[index])) };
}
