"use strict";
// Lights, signs, ids and the ruler. Lights are discs or triangles with a dark outline, stop signs octagons with a white one.

const STOP_SIGN_RADIUS = 1.3; // m
const STOP_SIGN_RANGE_PX = [6, 14];
const STOP_TEXT_PX = 10; // smallest radius with text

function drawDot(context, x, y, color, px, hollow = false) {
  const path = new Path2D();
  path.arc(x, y, Math.min(Math.max(0.8, 3 * px), 7 * px), 0, 2 * Math.PI);
  context.fillStyle = hollow ? colors.ground : colors[color];
  context.fill(path);
  strokePath(context, path, hollow ? color : "outline", (hollow ? 2 : 1) * px);
}

// A triangle that points up on the canvas.
function drawArrow(context, x, y, color, { scale, up }) {
  const px = 1 / scale;
  const size = Math.min(Math.max(1, 4 * px), 9 * px);
  const [cos, sin] = [size * Math.cos(up), size * Math.sin(up)];
  const path = toPath([{ x: [x - cos - sin, x - cos + sin, x + cos], y: [y - sin + cos, y - sin - cos, y + sin] }], true);
  context.fillStyle = colors[color];
  context.fill(path);
  strokePath(context, path, "outline", px);
}

// Arrows are triangles, flashing lights are hollow.
function drawLights(context, scene, time, camera) {
  const step = Math.floor(time);
  for (const light of scene.lights) {
    if (!light.valid[step]) continue;
    const name = scene.light_states[light.state[step]];
    const color = name.split("_").at(-1);
    const [x, y] = [light.x[step], light.y[step]];
    if (name.startsWith("arrow")) drawArrow(context, x, y, color, camera);
    else drawDot(context, x, y, color, 1 / camera.scale, name.startsWith("flashing"));
  }
}

function drawStopSign(context, column, row, scale) {
  const px = devicePixelRatio;
  const [smallest, largest] = STOP_SIGN_RANGE_PX.map((radius) => radius * px);
  const radius = Math.min(Math.max(STOP_SIGN_RADIUS * scale, smallest), largest);
  inPixels(context, () => {
    const corners = Array.from({ length: 8 }, (_, corner) => ((corner + 0.5) * Math.PI) / 4);
    const octagon = toPath([{
      x: corners.map((angle) => column + radius * Math.cos(angle)),
      y: corners.map((angle) => row + radius * Math.sin(angle)),
    }], true);
    context.fillStyle = colors["stop-sign"];
    context.fill(octagon);
    strokePath(context, octagon, "edge", 4 * px);
    strokePath(context, octagon, "sign-border", 2 * px);
    if (radius < STOP_TEXT_PX * px) return;
    Object.assign(context, { font: `bold ${0.62 * radius}px system-ui`, fillStyle: colors["sign-border"] });
    context.fillText("STOP", column, row);
  });
}

function drawIds(context, scene, rollout, time, camera) {
  inPixels(context, () => scene.agents.forEach((agent, index) => {
    const pose = agentAt(scene, rollout, index, time);
    if (pose) drawText(context, agent.id, ...toCanvas(camera, pose.x, pose.y));
  }));
}

// The measured line between two positions of the map; the text states its length.
function drawRuler(context, { points }, camera) {
  if (!points.length) return;
  const px = 1 / camera.scale;
  const ends = { x: points.map(([x]) => x), y: points.map(([, y]) => y) };
  strokePath(context, toPath([ends]), "page", 4 * px);
  strokePath(context, toPath([ends]), "focus", 2 * px);
  for (const [x, y] of points) drawDot(context, x, y, "focus", 0.6 * px);
  if (points.length < 2) return;
  const [column, row] = toCanvas(camera, (ends.x[0] + ends.x[1]) / 2, (ends.y[0] + ends.y[1]) / 2);
  inPixels(context, () => drawText(context, rulerText(points), column, row - 12 * devicePixelRatio));
}

function rulerText([[x, y], [otherX, otherY]]) {
  return `${Math.hypot(otherX - x, otherY - y).toFixed(2)} m`;
}
