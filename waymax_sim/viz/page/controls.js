"use strict";
// The page: panels, buttons, keys, and the clock. What is shown is a function of `view`.

const LAYERS = ["lanes", "lines", "edges", "crosswalks", "lights", "agents", "ids", "routes", "trails", "log"];
const HIDDEN_AT_FIRST = ["ids", "routes"];
const STEPS_PER_SECOND = 10;
const FIRST_RADIUS = 50; // m around the agent in the middle
const ZOOM = 1.25;

const by = (id) => document.getElementById(id);
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
function cameraOf({ canvas, rollout }) {
  const { width, height } = fitCanvas(canvas);
  const pose = view.follow && view.agent !== null ? agentAt(scene, rollout, view.agent, view.time) : null;
  // Who is gone leaves the view where it was.
  if (pose) [view.x, view.y] = [pose.x, pose.y];
  return { x: view.x, y: view.y, scale: Math.max(Math.min(width, height), 1) / (2 * view.radius), width, height };
}

function render() {
  const step = Math.floor(view.time);
  // Before the maps, whose width it changes.
  showFacts();
  for (const panel of panels) {
    panel.camera = cameraOf(panel);
    drawPanel(panel.canvas.getContext("2d"), scene, strokes, panel.rollout, view, panel.camera);
  }
  for (const row of rows) {
    drawRow(scene, row, view.agent);
    row.output.textContent = valuesText(scene, row, view.agent, step);
  }
  by("timeline").style.setProperty("--progress", view.time / (scene.length - 1));
  by("time").value = step;
  by("clock").textContent = `step ${step} of ${scene.length - 1}, ${scene.times[step].toFixed(1)} s`;
  by("play").textContent = view.playing ? "Pause" : "Play";
  by("follow").setAttribute("aria-pressed", view.follow);
  by("agent").value = view.agent ?? "";
  for (const box of by("layers").querySelectorAll("input")) box.checked = view.layers.has(box.value);
}

function showFacts() {
  const facts = by("facts");
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
    nodes.push(title, list(stateFacts(rollout)));
  }
  facts.replaceChildren(...nodes);
}

function stateFacts(rollout) {
  const pose = agentAt(scene, rollout, view.agent, view.time);
  if (!pose) return [["not there", ""]];
  const turn = 2 * Math.PI;
  const yaw = (((pose.yaw + Math.PI) % turn) + turn) % turn - Math.PI;
  const facts = [
    ["x", `${pose.x.toFixed(2)} m`], ["y", `${pose.y.toFixed(2)} m`], ["z", `${pose.z.toFixed(1)} m`],
    ["heading", `${((yaw * 180) / Math.PI).toFixed(1)}°`], ["speed", `${Math.hypot(pose.vx, pose.vy).toFixed(1)} m/s`],
  ];
  if (!rollout) return facts;
  const logged = poseAt(scene.log[view.agent], view.time);
  const distance = logged ? `${Math.hypot(pose.x - logged.x, pose.y - logged.y).toFixed(2)} m` : "–";
  const now = happening(scene, rollout, view.agent, Math.floor(view.time)).map((metric) => metric.name).join(", ");
  return [...facts, ["from the log", distance], ["driven by", driverName(rollout, view.agent)], ["now", now || "–"]];
}

function jump(step, event = null) {
  view.time = Math.min(Math.max(step, 0), scene.length - 1);
  if (event) {
    if (event.agents[0] !== null) view.agent = event.agents[0];
    by("status").textContent = eventText(scene, event);
  }
  draw();
}

function jumpToEvent(direction) {
  const step = Math.floor(view.time);
  const ahead = events.filter((event) => (event.step - step) * direction > 0);
  const event = direction > 0 ? ahead[0] : ahead.at(-1);
  if (event) jump(event.step, event);
  else by("status").textContent = `no event ${direction > 0 ? "after" : "before"} step ${step}`;
}

function toggle(name) {
  if (name === "playing" && !view.playing && view.time >= scene.length - 1) view.time = 0;
  view[name] = !view[name];
  if (name === "playing" && view.playing) requestAnimationFrame(play);
  draw();
}

function play(before) {
  requestAnimationFrame((now) => {
    if (!view.playing) return;
    view.time += ((now - before) / 1000) * STEPS_PER_SECOND * Number(by("speed").value);
    if (view.time >= scene.length - 1) [view.time, view.playing] = [scene.length - 1, false];
    draw();
    play(now);
  });
}

function toggleLayer(layer) {
  if (!view.layers.delete(layer)) view.layers.add(layer);
  draw();
}

function choose(agent) {
  view.agent = agent;
  draw();
}

function chooseNext(direction) {
  const step = Math.floor(view.time);
  const there = scene.agents.map((_, index) => index).filter((index) =>
    panels.some(({ rollout }) => agentAt(scene, rollout, index, step)));
  const place = there.indexOf(view.agent);
  const start = place < 0 && direction < 0 ? 0 : place;
  if (there.length) choose(there[(start + direction + there.length) % there.length]);
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
  const tracks = scene.log.flatMap((track) => linesOf(track, 0, scene.length - 1));
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
  [["]"], "next agent", () => chooseNext(1)],
  [["["], "previous agent", () => chooseNext(-1)],
  [["f"], "follow the agent", () => toggle("follow")],
  [["+", "="], "zoom in", () => zoom(ZOOM)],
  [["-"], "zoom out", () => zoom(1 / ZOOM)],
  [["0"], "whole scene", fit],
  [["w"], "move up", () => pan(0, PAN * view.radius)],
  [["a"], "move left", () => pan(-PAN * view.radius, 0)],
  [["s"], "move down", () => pan(0, -PAN * view.radius)],
  [["d"], "move right", () => pan(PAN * view.radius, 0)],
  [["g"], "log beside the simulation", () => toggleLayer("log")],
  [["i"], "ids", () => toggleLayer("ids")],
  [["r"], "routes", () => toggleLayer("routes")],
  [["t"], "dark or light", switchTheme],
];

function press(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  // The space bar presses the button that has the focus.
  if (event.key === " " && event.target.matches("button, summary")) return;
  const found = KEYS.find(([keys]) => keys.includes(event.key));
  if (!found) return;
  event.preventDefault();
  found[2](event);
}

// Dragging moves the view, the wheel zooms around the pointer, a click chooses an agent.
function listen(panel) {
  const { canvas } = panel;
  let travelled = 0;
  const place = (event) => {
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
    const metres = devicePixelRatio / panel.camera.scale;
    if (travelled > 4) pan(-event.movementX * metres, event.movementY * metres);
  };
  canvas.onclick = (event) => {
    const reach = (10 * devicePixelRatio) / panel.camera.scale;
    if (travelled <= 4) choose(agentNear(scene, panel.rollout, view.time, ...place(event), reach));
  };
  canvas.onwheel = (event) => {
    event.preventDefault();
    const [x, y] = place(event);
    const before = view.radius;
    zoom(ZOOM ** (-event.deltaY / 100));
    const nearer = 1 - view.radius / before;
    if (!view.follow) pan((x - panel.camera.x) * nearer, (y - panel.camera.y) * nearer);
  };
}

function buildPanels() {
  const shown = scene.rollouts.length ? scene.rollouts : [null];
  by("panels").style.gridTemplateColumns = `repeat(${Math.ceil(Math.sqrt(shown.length))}, minmax(0, 1fr))`;
  return shown.map((rollout, index) => {
    const [name, color] = rollout ? [rollout.name, rolloutColor(index)] : ["log", "ghost"];
    const canvas = element("canvas", { tabIndex: 0, role: "img", ariaLabel: `Map of ${name}` });
    const node = element("section", { className: "panel" }, element("h2", { textContent: name }), canvas);
    node.style.setProperty("--color", `var(--${color})`);
    by("panels").append(node);
    const panel = { canvas, rollout, name, color, camera: null };
    listen(panel);
    new ResizeObserver(draw).observe(canvas);
    return panel;
  });
}

function buildControls() {
  by("agent").append(element("option", { value: "", textContent: "none" }), ...scene.agents.map((agent, index) =>
    element("option", { value: index, textContent: `${agent.sdc ? "sdc" : agent.type} ${agent.id}` })));
  by("layers").append(...LAYERS.map((layer) => {
    const box = element("input", { type: "checkbox", value: layer, onchange: () => toggleLayer(layer) });
    return element("label", {}, box, ` ${layer}`);
  }));
  const names = { " ": "space", ArrowRight: "→", ArrowLeft: "←" };
  by("keys").append(...KEYS.flatMap(([[key], text]) =>
    [element("dt", {}, element("kbd", { textContent: names[key] ?? key })), element("dd", { textContent: text })]));
  by("time").max = scene.length - 1;
  by("time").oninput = () => jump(Number(by("time").value));
  by("agent").onchange = () => choose(by("agent").value === "" ? null : Number(by("agent").value));
  const buttons = {
    play: () => toggle("playing"), follow: () => toggle("follow"),
    closer: () => zoom(ZOOM), farther: () => zoom(1 / ZOOM), fit,
    theme: switchTheme, previous: () => jumpToEvent(-1), next: () => jumpToEvent(1),
  };
  for (const [id, action] of Object.entries(buttons)) by(id).onclick = action;
  for (const id of ["previous", "next"]) by(id).hidden = !events.length;
  document.onkeydown = press;
}

async function main() {
  scene = decodeScene(await inflate(by("scene").textContent));
  strokes = mapStrokes(scene);
  events = eventsOf(scene);
  rows = buildTimeline(scene, events, jump);
  panels = buildPanels();
  by("timeline").append(...rows.map((row) => row.node));
  const sdc = scene.agents.findIndex((agent) => agent.sdc);
  view.agent = sdc < 0 ? null : sdc;
  view.time = scene.now;
  buildControls();
  if (view.agent === null) fit();
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.ready = "yes";
}

main();
