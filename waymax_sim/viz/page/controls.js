"use strict";
// Panels, buttons, keys and playback. The page is a function of `view`.

const LAYERS = ["lanes", "lines", "edges", "crosswalks", "lights", "agents", "ids", "routes", "trails", "log"];
const HIDDEN_AT_FIRST = ["ids", "routes"];
const FIRST_RADIUS = 50; // half the side of the view, m
const ZOOM = 1.25;

const byId = (id) => document.getElementById(id);
const view = {
  time: 0, playing: false, agent: null, follow: true, x: 0, y: 0, radius: FIRST_RADIUS,
  layers: new Set(LAYERS.filter((layer) => !HIDDEN_AT_FIRST.includes(layer))),
};
let scene, strokes, events, rows, panels;
let pending = false;

function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    render();
  });
}

// The camera of a panel. Each follows the agent of its own rollout.
function panelCamera({ canvas, rollout }) {
  const { width, height } = fitCanvas(canvas);
  const pose = view.follow && view.agent !== null ? agentAt(scene, rollout, view.agent, view.time) : null;
  // Without a valid pose of the agent the view stays.
  if (pose) [view.x, view.y] = [pose.x, pose.y];
  return { x: view.x, y: view.y, scale: Math.max(Math.min(width, height), 1) / (2 * view.radius), width, height };
}

function render() {
  const step = Math.floor(view.time);
  // First, because it changes the width of the maps.
  showFacts();
  for (const panel of panels) {
    panel.camera = panelCamera(panel);
    drawPanel(panel.canvas.getContext("2d"), scene, strokes, panel.rollout, view, panel.camera);
  }
  for (const row of rows) {
    drawRow(scene, row, view.agent);
    row.output.textContent = valuesText(scene, row, view.agent, step);
  }
  byId("timeline").style.setProperty("--progress", view.time / (scene.length - 1));
  byId("time").value = step;
  byId("clock").textContent = `step ${step} of ${scene.length - 1}, ${scene.times[step].toFixed(1)} s`;
  byId("play").textContent = view.playing ? "Pause" : "Play";
  byId("follow").setAttribute("aria-pressed", view.follow);
  byId("agent").value = view.agent ?? "";
  for (const box of byId("layers").querySelectorAll("input")) box.checked = view.layers.has(box.value);
}

function showFacts() {
  const facts = byId("facts");
  facts.hidden = view.agent === null;
  if (facts.hidden) return;
  const { id, row, type, size, sdc } = scene.agents[view.agent];
  const list = (pairs) => element("dl", {}, ...pairs.flatMap(([name, value]) =>
    [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  const nodes = [
    element("h2", { textContent: `${sdc ? "sdc" : type} ${id}` }),
    list([["row", row], ["length", `${size[0]} m`], ["width", `${size[1]} m`], ["height", `${size[2]} m`]]),
  ];
  const columns = [{ name: "log", color: "ghost" }, ...panels.filter((panel) => panel.rollout)];
  for (const { rollout, name, color } of columns) {
    const title = element("h3", { textContent: name });
    title.style.setProperty("--color", `var(--${color})`);
    nodes.push(title, list(agentState(rollout)));
  }
  facts.replaceChildren(...nodes);
}

function agentState(rollout) {
  const pose = agentAt(scene, rollout, view.agent, view.time);
  if (!pose) return [["not valid", ""]];
  const turn = 2 * Math.PI;
  const yaw = (((pose.yaw + Math.PI) % turn) + turn) % turn - Math.PI;
  const facts = [
    ["x", `${pose.x.toFixed(2)} m`], ["y", `${pose.y.toFixed(2)} m`], ["z", `${pose.z.toFixed(1)} m`],
    ["heading", `${((yaw * 180) / Math.PI).toFixed(1)}°`], ["speed", `${Math.hypot(pose.vx, pose.vy).toFixed(1)} m/s`],
  ];
  if (!rollout) return facts;
  const logged = poseAt(scene.log[view.agent], view.time);
  const distance = logged ? `${Math.hypot(pose.x - logged.x, pose.y - logged.y).toFixed(2)} m` : "–";
  const now = activeEvents(scene, rollout, view.agent, Math.floor(view.time)).map((metric) => metric.name).join(", ");
  return [...facts, ["from the log", distance], ["driven by", driverName(rollout, view.agent)], ["now", now || "–"]];
}

function jump(step, event = null) {
  view.time = Math.min(Math.max(step, 0), scene.length - 1);
  if (event) {
    if (event.agents[0] !== null) view.agent = event.agents[0];
    byId("status").textContent = eventText(scene, event);
  }
  draw();
}

function jumpToEvent(direction) {
  const step = Math.floor(view.time);
  const ahead = events.filter((event) => (event.step - step) * direction > 0);
  const event = direction > 0 ? ahead[0] : ahead.at(-1);
  if (event) jump(event.step, event);
  else byId("status").textContent = `no event ${direction > 0 ? "after" : "before"} step ${step}`;
}

function toggle(name) {
  if (name === "playing" && !view.playing && view.time >= scene.length - 1) view.time = 0;
  view[name] = !view[name];
  if (name === "playing" && view.playing) requestAnimationFrame(play);
  draw();
}

function stepsPerSecond() {
  const last = scene.length - 1;
  return last ? last / (scene.times[last] - scene.times[0]) : 1;
}

function play(before) {
  requestAnimationFrame((now) => {
    if (!view.playing) return;
    view.time += ((now - before) / 1000) * stepsPerSecond() * Number(byId("speed").value);
    if (view.time >= scene.length - 1) [view.time, view.playing] = [scene.length - 1, false];
    draw();
    play(now);
  });
}

function toggleLayer(layer) {
  if (!view.layers.delete(layer)) view.layers.add(layer);
  draw();
}

function selectAgent(agent) {
  view.agent = agent;
  draw();
}

function selectNextAgent(direction) {
  const step = Math.floor(view.time);
  const present = scene.agents.map((_, index) => index).filter((index) =>
    panels.some(({ rollout }) => agentAt(scene, rollout, index, step)));
  const selected = present.indexOf(view.agent);
  const start = selected < 0 && direction < 0 ? 0 : selected;
  if (present.length) selectAgent(present[(start + direction + present.length) % present.length]);
}

function zoom(factor) {
  view.radius = Math.min(Math.max(view.radius / factor, 3), 5000);
  draw();
}

function pan(x, y) {
  view.follow = false;
  [view.x, view.y] = [view.x + x, view.y + y];
  draw();
}

function fit() {
  const tracks = scene.log.flatMap((track) => validLines(track, 0, scene.length - 1));
  const lines = [...scene.map.flatMap((group) => group.lines), ...tracks];
  const range = (axis) => lines.reduce(([low, high], one) =>
    one[axis].reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [low, high]), [Infinity, -Infinity]);
  const [[left, right], [bottom, top]] = [range("x"), range("y")];
  view.follow = false;
  if (left <= right) {
    [view.x, view.y] = [(left + right) / 2, (bottom + top) / 2];
    view.radius = Math.max(right - left, top - bottom, 10) / 2;
  }
  draw();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  readColors();
  draw();
}

const switchTheme = () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
const PAN = 0.2; // of the radius
const KEYS = [
  [[" "], "play or pause", () => toggle("playing")],
  [["ArrowRight"], "next step (shift: ten)", (event) => jump(Math.floor(view.time) + (event.shiftKey ? 10 : 1))],
  [["ArrowLeft"], "step before (shift: ten)", (event) => jump(Math.ceil(view.time) - (event.shiftKey ? 10 : 1))],
  [["Home"], "first step", () => jump(0)],
  [["End"], "last step", () => jump(scene.length - 1)],
  [["n"], "next event", () => jumpToEvent(1)],
  [["p"], "previous event", () => jumpToEvent(-1)],
  [["]"], "next agent", () => selectNextAgent(1)],
  [["["], "previous agent", () => selectNextAgent(-1)],
  [["f"], "follow the agent", () => toggle("follow")],
  [["+", "="], "zoom in", () => zoom(ZOOM)],
  [["-"], "zoom out", () => zoom(1 / ZOOM)],
  [["0"], "whole scene", fit],
  [["w"], "move up", () => pan(0, PAN * view.radius)],
  [["a"], "move left", () => pan(-PAN * view.radius, 0)],
  [["s"], "move down", () => pan(0, -PAN * view.radius)],
  [["d"], "move right", () => pan(PAN * view.radius, 0)],
  [["g"], "log over the simulation", () => toggleLayer("log")],
  [["i"], "ids", () => toggleLayer("ids")],
  [["r"], "routes", () => toggleLayer("routes")],
  [["t"], "dark or light", switchTheme],
];

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  // The space bar presses the button that has the focus.
  if (event.key === " " && event.target.matches("button, summary")) return;
  const binding = KEYS.find(([keys]) => keys.includes(event.key));
  if (!binding) return;
  event.preventDefault();
  binding[2](event);
}

// Dragging moves the view, the wheel zooms around the pointer, a click selects an agent.
function addPointerHandlers(panel) {
  const { canvas } = panel;
  let travelled = 0;
  const mapPosition = (event) => {
    const { x, y, scale, width, height } = panel.camera;
    const px = devicePixelRatio;
    return [x + (event.offsetX * px - width / 2) / scale, y - (event.offsetY * px - height / 2) / scale];
  };
  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    travelled = 0;
  };
  canvas.onpointermove = (event) => {
    if (!event.buttons) return;
    travelled += Math.abs(event.movementX) + Math.abs(event.movementY);
    const metersPerPixel = devicePixelRatio / panel.camera.scale;
    if (travelled > 4) pan(-event.movementX * metersPerPixel, event.movementY * metersPerPixel);
  };
  canvas.onclick = (event) => {
    const radius = (10 * devicePixelRatio) / panel.camera.scale;
    if (travelled <= 4) selectAgent(nearestAgent(scene, panel.rollout, view.time, ...mapPosition(event), radius));
  };
  canvas.onwheel = (event) => {
    event.preventDefault();
    const [x, y] = mapPosition(event);
    const before = view.radius;
    zoom(ZOOM ** (-event.deltaY / 100));
    const nearer = 1 - view.radius / before;
    if (!view.follow) pan((x - panel.camera.x) * nearer, (y - panel.camera.y) * nearer);
  };
}

function buildPanels() {
  const shown = scene.rollouts.length ? scene.rollouts : [null];
  byId("panels").style.gridTemplateColumns = `repeat(${Math.ceil(Math.sqrt(shown.length))}, minmax(0, 1fr))`;
  return shown.map((rollout, index) => {
    const [name, color] = rollout ? [rollout.name, rolloutColor(index)] : ["log", "ghost"];
    const canvas = element("canvas", { tabIndex: 0, role: "img", ariaLabel: `Map of ${name}` });
    const node = element("section", { className: "panel" }, element("h2", { textContent: name }), canvas);
    node.style.setProperty("--color", `var(--${color})`);
    byId("panels").append(node);
    const panel = { canvas, rollout, name, color, camera: null };
    addPointerHandlers(panel);
    new ResizeObserver(draw).observe(canvas);
    return panel;
  });
}

function buildControls() {
  byId("agent").append(element("option", { value: "", textContent: "none" }), ...scene.agents.map((agent, index) =>
    element("option", { value: index, textContent: `${agent.sdc ? "sdc" : agent.type} ${agent.id}` })));
  byId("layers").append(...LAYERS.map((layer) => {
    const box = element("input", { type: "checkbox", value: layer, onchange: () => toggleLayer(layer) });
    return element("label", {}, box, ` ${layer}`);
  }));
  const names = { " ": "space", ArrowRight: "→", ArrowLeft: "←" };
  byId("keys").append(...KEYS.flatMap(([[key], text]) =>
    [element("dt", {}, element("kbd", { textContent: names[key] ?? key })), element("dd", { textContent: text })]));
  byId("time").max = scene.length - 1;
  byId("time").oninput = () => jump(Number(byId("time").value));
  byId("agent").onchange = () => selectAgent(byId("agent").value === "" ? null : Number(byId("agent").value));
  const buttons = {
    play: () => toggle("playing"), follow: () => toggle("follow"),
    closer: () => zoom(ZOOM), farther: () => zoom(1 / ZOOM), fit,
    theme: switchTheme, previous: () => jumpToEvent(-1), next: () => jumpToEvent(1),
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).onclick = action;
  for (const id of ["previous", "next"]) byId(id).hidden = !events.length;
  document.onkeydown = press;
}

async function main() {
  scene = decodeScene(await inflate(byId("scene").textContent));
  strokes = mapStrokes(scene);
  events = findEvents(scene);
  rows = buildTimeline(scene, events, jump);
  panels = buildPanels();
  byId("timeline").append(...rows.map((row) => row.node));
  const sdc = scene.agents.findIndex((agent) => agent.sdc);
  view.agent = sdc < 0 ? null : sdc;
  view.time = scene.now;
  buildControls();
  if (view.agent === null) fit();
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.ready = "yes";
}

main();
