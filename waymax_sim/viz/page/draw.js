"use strict";
// Drawing of one panel: the map, then agents and lights. Lengths are meters unless they end with "px".

// By feature type of the map: layer, color, drawing order within a level of height, and stroke or fill.
const line = (color, width, dash = []) => ({ layer: "lines", color, order: 0.3, width, dash });
const area = (color) => ({ layer: "crosswalks", color, order: 0.1, fill: true });
const lane = (color, asphalt) => ({ layer: "lanes", color, order: 0.2, width: 0.15, dash: [], asphalt });
const edge = (color) => ({ layer: "edges", color, order: 0.4, width: 0.35, dash: [] });
const BROKEN = [3, 4.5];
const FEATURE_STYLES = {
  0: lane("lane", 3.7), 1: lane("lane", 3.7), 2: lane("lane", 3.7), 3: lane("bike", 1.6),
  5: line("white", 0.18), 6: line("white", 0.18, BROKEN), 7: line("white", 0.18), 8: line("white", 0.36),
  9: line("yellow", 0.18, BROKEN), 10: line("yellow", 0.36, BROKEN), 11: line("yellow", 0.18),
  12: line("yellow", 0.36), 13: line("yellow", 0.36, [3, 1, 1, 1]),
  14: edge("edge"), 15: edge("edge"), 16: edge("median"),
  17: { layer: "signs", color: "stop-sign", order: 0.5, sign: true },
  18: area("crosswalk"), 19: area("bump"), 20: area("driveway"),
};
// Asphalt is drawn this number of levels below its lane, so that it covers only roads well below.
const ASPHALT_LEVELS = 2;
const TRAIL_STEPS = 20;

let colors = {};

function readColors() {
  const style = getComputedStyle(document.documentElement);
  colors = new Proxy({}, {
    get: (known, name) => (known[name] ??= style.getPropertyValue(`--${name}`).trim()),
  });
}

function toPath(lines, close) {
  const path = new Path2D();
  for (const { x, y } of lines) {
    x.forEach((_, index) => (index ? path.lineTo(x[index], y[index]) : path.moveTo(x[index], y[index])));
    if (close) path.closePath();
  }
  return path;
}

// The map in drawing order.
function mapStrokes(scene) {
  const strokes = [];
  for (const { level, type, lines } of scene.map) {
    const look = FEATURE_STYLES[type];
    if (!look) continue;
    const path = toPath(lines, look.fill);
    strokes.push({ ...look, path, lines, order: level + look.order });
    if (look.asphalt) {
      const asphalt = { layer: "lanes", color: "asphalt", width: look.asphalt, dash: [] };
      strokes.push({ ...asphalt, path, order: level - ASPHALT_LEVELS });
    }
  }
  return strokes.sort((a, b) => a.order - b.order);
}

function drawPanel(context, scene, strokes, rollout, view, camera) {
  const { scale, width, height } = camera;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = colors.ground;
  context.fillRect(0, 0, width, height);
  context.setTransform(...mapTransform(camera));
  context.lineCap = context.lineJoin = "round";
  const px = 1 / scale;
  const shown = (layer) => view.layers.has(layer);
  for (const stroke of strokes) if (shown(stroke.layer)) drawStroke(context, stroke, camera);
  if (shown("routes")) drawRoutes(context, scene, px);
  if (shown("lights")) drawLights(context, scene, view.time, camera);
  if (shown("agents")) {
    if (shown("trails")) drawTrails(context, scene, rollout, view.time, px);
    if (shown("log")) drawLog(context, scene, rollout, view, px);
    drawAgents(context, scene, rollout, view, px);
  }
  if (shown("ids")) drawIds(context, scene, rollout, view.time, camera);
  drawRuler(context, view.ruler, camera);
}

function drawStroke(context, stroke, camera) {
  if (stroke.sign) {
    for (const { x, y } of stroke.lines) drawStopSign(context, ...toCanvas(camera, x[0], y[0]), camera.scale);
  } else if (stroke.fill) {
    context.fillStyle = colors[stroke.color];
    context.fill(stroke.path);
  } else {
    strokePath(context, stroke.path, stroke.color, Math.max(stroke.width, 0.5 / camera.scale), stroke.dash);
  }
}

function strokePath(context, path, color, width, dash = []) {
  context.strokeStyle = colors[color];
  context.lineWidth = width;
  // Round caps would fill the gaps of dashed lines.
  context.lineCap = dash.length ? "butt" : "round";
  context.setLineDash(dash);
  context.stroke(path);
}

function drawRoutes(context, scene, px) {
  for (const route of scene.routes) {
    context.globalAlpha = route.on_route ? 0.8 : 0.35;
    strokePath(context, toPath([route]), "route", Math.max(0.3, 1.5 * px), route.on_route ? [] : [2, 2]);
  }
  context.globalAlpha = 1;
}

function agentColor(agent) {
  return agent.sdc ? "sdc" : agent.type in { vehicle: 0, pedestrian: 0, cyclist: 0 } ? agent.type : "other";
}

// The positions of a track over a range of steps: one line per interval in which it is valid.
function validLines(track, first, last) {
  const lines = [];
  for (let step = Math.max(first, 0); step <= last; step++) {
    if (!track.valid[step]) continue;
    if (!lines.length || !track.valid[step - 1]) lines.push({ x: [], y: [] });
    lines.at(-1).x.push(track.x[step]);
    lines.at(-1).y.push(track.y[step]);
  }
  return lines;
}

function drawTrails(context, scene, rollout, time, px) {
  const step = Math.floor(time);
  context.globalAlpha = 0.5;
  scene.agents.forEach((agent, index) => {
    if (!agentAt(scene, rollout, index, step)) return;
    const trail = toPath(validLines(getTrack(scene, rollout, index), step - TRAIL_STEPS, step));
    strokePath(context, trail, agentColor(agent), Math.max(0.3, px));
  });
  context.globalAlpha = 1;
}

// Logged boxes of agents that leave the log in the rollout, and the whole logged path of the selected agent.
function drawLog(context, scene, rollout, view, px) {
  for (const index of rollout?.tracks.keys() ?? []) {
    const pose = poseAt(scene.log[index], view.time);
    if (pose) strokePath(context, outline(pose, scene.agents[index].size), "ghost", 1.2 * px, [4 * px, 3 * px]);
  }
  if (view.agent === null) return;
  const path = toPath(validLines(scene.log[view.agent], 0, scene.length - 1));
  strokePath(context, path, "ghost", px, [4 * px, 4 * px]);
}

// Outline of a box, wider by a margin.
function outline(pose, size, margin = 0) {
  const [length, width] = [size[0] / 2 + margin, size[1] / 2 + margin];
  const [cos, sin] = [Math.cos(pose.yaw), Math.sin(pose.yaw)];
  const corners = [[length, width], [-length, width], [-length, -width], [length, -width]];
  const x = corners.map(([forward, left]) => pose.x + forward * cos - left * sin);
  const y = corners.map(([forward, left]) => pose.y + forward * sin + left * cos);
  return toPath([{ x, y }], true);
}

function drawAgents(context, scene, rollout, view, px) {
  const someDriven = rollout?.controller.some(Boolean);
  scene.agents.forEach((agent, index) => {
    const pose = agentAt(scene, rollout, index, view.time);
    if (!pose) return;
    const strong = agent.sdc || isDriven(rollout, index);
    const box = outline(pose, agent.size);
    context.globalAlpha = someDriven && !strong ? 0.55 : 1;
    context.fillStyle = colors[agentColor(agent)];
    context.fill(box);
    strokePath(context, box, "outline", (strong ? 1.5 : 0.5) * px);
    // At least 1.5 m long, so that the heading of a pedestrian is visible.
    const nose = Math.max(agent.size[0], 1.5) / 2;
    const [x, y] = [pose.x + nose * Math.cos(pose.yaw), pose.y + nose * Math.sin(pose.yaw)];
    strokePath(context, toPath([{ x: [pose.x, x], y: [pose.y, y] }]), "outline", Math.max(0.2, px));
    context.globalAlpha = 1;
    activeEvents(scene, rollout, index, Math.floor(view.time)).forEach((metric, order) =>
      strokePath(context, outline(pose, agent.size, 0.3 * (order + 1)), eventColor(metric), Math.max(0.3, 2 * px)));
    if (index === view.agent) strokePath(context, outline(pose, agent.size, 0.8), "focus", 2 * px, [6 * px, 4 * px]);
  });
}

function eventColor(metric) {
  return metric.name in { overlap: 0, offroad: 0 } ? metric.name : "event";
}
