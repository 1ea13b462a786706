"use strict";
// Panels, buttons, keys and playback. The page is a function of `view`.

const LAYERS = ["lanes", "lines", "edges", "crosswalks", "signs", "lights", "agents", "ids", "routes", "trails", "log"];
const HIDDEN_AT_FIRST = ["ids", "routes"];
const FIRST_RADIUS = 50; // half the side of the view, m
const ZOOM = 1.25;

const byId = (id) => document.getElementById(id);
const view = {
  time: 0, playing: false, agent: null, follow: true, headingUp: false, x: 0, y: 0, up: NORTH, radius: FIRST_RADIUS,
  ruler: { active: false, points: [], fixed: 0 },
  layers: new Set(LAYERS.filter((layer) => !HIDDEN_AT_FIRST.includes(layer))),
};
let scene, strokes, lanes, events, rows, panels;
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
  if (!view.headingUp) view.up = NORTH;
  else if (pose) view.up = pose.yaw;
  const scale = Math.max(Math.min(width, height), 1) / (2 * view.radius);
  return { x: view.x, y: view.y, up: view.up, scale, width, height };
}

function render() {
  const step = Math.floor(view.time);
  // First, because it changes the width of the maps.
  showFacts();
  for (const panel of panels) {
    panel.camera = panelCamera(panel);
    drawPanel(panel.canvas.getContext("2d"), scene, strokes, panel.rollout, view, panel.camera);
    showProbe(panel);
  }
  for (const row of rows) {
    drawRow(scene, row, view.agent);
    row.output.textContent = valuesText(scene, row, view.agent, step);
  }
  byId("timeline").style.setProperty("--progress", view.time / (scene.length - 1));
  byId("time").value = step;
  byId("clock").textContent = clockText();
  byId("play").textContent = view.playing ? "Pause" : "Play";
  byId("follow").setAttribute("aria-pressed", view.follow);
  byId("heading-up").setAttribute("aria-pressed", view.headingUp);
  byId("ruler").setAttribute("aria-pressed", view.ruler.active);
  byId("agent").value = view.agent ?? "";
  for (const box of byId("layers").querySelectorAll("input")) box.checked = view.layers.has(box.value);
  writeLink();
  recordFrame();
}

// The clock of the record.
function clockText() {
  return `step ${Math.floor(view.time)} of ${scene.length - 1}, ${recordTime(scene, view.time).toFixed(2)} s`;
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

function play(before) {
  requestAnimationFrame((now) => {
    if (!view.playing) return;
    const elapsed = ((now - before) / 1000) * Number(byId("speed").value);
    view.time = stepAt(scene, recordTime(scene, view.time) + elapsed);
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

// Moves the view by a fraction of its radius, to the right and upwards on the screen.
function panOnScreen(right, upwards) {
  const [dx, dy] = toMapOffset({ scale: 1, up: view.up }, right, upwards);
  pan(PAN * view.radius * dx, PAN * view.radius * dy);
}

function toggleHeadingUp() {
  toggle("headingUp");
  if (view.headingUp) view.follow = true;
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
  [["h"], "heading of the agent up", toggleHeadingUp],
  [["m"], "measure a distance", toggleRuler],
  [["+", "="], "zoom in", () => zoom(ZOOM)],
  [["-"], "zoom out", () => zoom(1 / ZOOM)],
  [["0"], "whole scene", fit],
  [["w"], "move up", () => panOnScreen(0, 1)],
  [["a"], "move left", () => panOnScreen(-1, 0)],
  [["s"], "move down", () => panOnScreen(0, -1)],
  [["d"], "move right", () => panOnScreen(1, 0)],
  [["g"], "log over the simulation", () => toggleLayer("log")],
  [["i"], "ids", () => toggleLayer("ids")],
  [["r"], "routes", () => toggleLayer("routes")],
  [["t"], "dark or light", switchTheme],
];

function closeMenus(except = null) {
  const open = [...document.querySelectorAll("details[open]")].filter((menu) => menu !== except);
  for (const menu of open) menu.open = false;
  return open;
}

// Closes a menu, or else ends the ruler.
function pressEscape() {
  const [menu] = closeMenus();
  if (menu) menu.querySelector("summary").focus();
  else if (view.ruler.active) toggleRuler();
}

function press(event) {
  if (event.key === "Escape") pressEscape();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  // The space bar presses the button that has the focus.
  if (event.key === " " && event.target.matches("button, summary")) return;
  const binding = KEYS.find(([keys]) => keys.includes(event.key));
  if (!binding) return;
  event.preventDefault();
  binding[2](event);
}

function buildPanels() {
  const shown = scene.rollouts.length ? scene.rollouts : [null];
  byId("panels").style.gridTemplateColumns = `repeat(${Math.ceil(Math.sqrt(shown.length))}, minmax(0, 1fr))`;
  return shown.map((rollout, index) => {
    const [name, color] = rollout ? [rollout.name, rolloutColor(index)] : ["log", "ghost"];
    const canvas = element("canvas", { tabIndex: 0, role: "img", ariaLabel: `Map of ${name}` });
    const probe = element("div", { className: "probe", hidden: true });
    const node = element("section", { className: "panel" }, element("h2", { textContent: name }), canvas, probe);
    node.style.setProperty("--color", `var(--${color})`);
    byId("panels").append(node);
    const panel = { canvas, rollout, name, color, probe, camera: null, pointer: null };
    addPointerHandlers(panel);
    new ResizeObserver(draw).observe(canvas);
    return panel;
  });
}

function buildControls() {
  byId("agent").append(element("option", { value: "", textContent: "none" }), ...scene.agents.map((agent, index) =>
    element("option", { value: index, textContent: agentName(agent) })));
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
    play: () => toggle("playing"), follow: () => toggle("follow"), "heading-up": toggleHeadingUp, ruler: toggleRuler,
    image: exportImage, video: exportVideo,
    closer: () => zoom(ZOOM), farther: () => zoom(1 / ZOOM), fit,
    theme: switchTheme, previous: () => jumpToEvent(-1), next: () => jumpToEvent(1),
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).onclick = action;
  for (const id of ["previous", "next"]) byId(id).hidden = !events.length;
  byId("video").disabled = typeof MediaRecorder === "undefined";
  const current = `${scene.now}, at ${scene.times[scene.now].toFixed(2)} s`;
  byId("clock").title = `Time of the record from its first step. Its current step is ${current}.`;
  document.onkeydown = press;
  document.onpointerdown = (event) => closeMenus(event.target.closest("details"));
  window.onhashchange = readLink;
}

async function main() {
  scene = decodeScene(await inflate(byId("scene").textContent));
  strokes = mapStrokes(scene);
  lanes = findLanes(scene);
  events = findEvents(scene);
  rows = buildTimeline(scene, events, jump);
  panels = buildPanels();
  byId("timeline").append(...rows.map((row) => row.node));
  const sdc = scene.agents.findIndex((agent) => agent.sdc);
  view.agent = sdc < 0 ? null : sdc;
  view.time = scene.now;
  buildControls();
  if (view.agent === null) fit();
  readLink();
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.ready = "yes";
}

main();
