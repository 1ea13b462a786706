"use strict";
// Dragging moves the view, the wheel zooms around the pointer, a click selects an agent or ends the line of the ruler.

const CLICK_PX = 4; // largest travel of the pointer in a click
const REACH_PX = 10; // largest distance of a click to the agent that it selects

// The position of the map under the pointer.
function pointerPosition({ camera }, { offsetX, offsetY }) {
  return toMap(camera, offsetX * devicePixelRatio, offsetY * devicePixelRatio);
}

function measure(position) {
  const { points, fixed } = view.ruler;
  // A third click begins another line.
  if (fixed === 1) view.ruler = { ...view.ruler, points: [points[0], position], fixed: 2 };
  else view.ruler = { ...view.ruler, points: [position], fixed: 1 };
  draw();
}

function toggleRuler() {
  view.ruler = { active: !view.ruler.active, points: [], fixed: 0 };
  byId("status").textContent = view.ruler.active ? "ruler: click on both ends of a distance" : "";
  draw();
}

// Lane, speed limit, route and agent at a position.
function probeText(panel, [x, y]) {
  const [lane, route] = [laneAt(lanes, { x, y }), routeAt(scene, { x, y })];
  const agent = nearestAgent(scene, panel.rollout, view.time, x, y, 0);
  const parts = [`x ${x.toFixed(1)}, y ${y.toFixed(1)} m`];
  if (lane) parts.push(`lane ${lane.id}`, `limit ${limitText(lane)}`);
  if (route) parts.push(`route: ${route}`);
  if (agent !== null) {
    const { vx, vy } = agentAt(scene, panel.rollout, agent, view.time);
    parts.push(`${agentName(scene.agents[agent])}, ${Math.hypot(vx, vy).toFixed(1)} m/s`);
  }
  return parts.join(" · ");
}

function showProbe(panel) {
  panel.probe.hidden = panel.pointer === null;
  if (panel.pointer) panel.probe.textContent = probeText(panel, pointerPosition(panel, panel.pointer));
}

function addPointerHandlers(panel) {
  const { canvas } = panel;
  let travelled = 0;
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    travelled = 0;
  };
  canvas.onpointermove = (event) => {
    panel.pointer = { offsetX: event.offsetX, offsetY: event.offsetY };
    if (event.buttons) {
      travelled += Math.abs(event.movementX) + Math.abs(event.movementY);
      const [right, upwards] = [event.movementX, -event.movementY].map((px) => px * devicePixelRatio);
      const [dx, dy] = toMapOffset(panel.camera, right, upwards);
      if (travelled > CLICK_PX) pan(-dx, -dy);
    } else if (view.ruler.fixed === 1) {
      view.ruler.points = [view.ruler.points[0], pointerPosition(panel, event)];
    }
    draw();
  };
  canvas.onpointerleave = () => {
    panel.pointer = null;
    draw();
  };
  canvas.onclick = (event) => {
    if (travelled > CLICK_PX) return;
    const position = pointerPosition(panel, event);
    if (view.ruler.active) return measure(position);
    const radius = (REACH_PX * devicePixelRatio) / panel.camera.scale;
    selectAgent(nearestAgent(scene, panel.rollout, view.time, ...position, radius));
  };
  canvas.onwheel = (event) => {
    event.preventDefault();
    const [x, y] = pointerPosition(panel, event);
    const before = view.radius;
    zoom(ZOOM ** (-event.deltaY / 100));
    const nearer = 1 - view.radius / before;
    if (!view.follow) pan((x - panel.camera.x) * nearer, (y - panel.camera.y) * nearer);
  };
}
