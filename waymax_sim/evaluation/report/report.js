"use strict";
// The table of scenes, the scatter plot, and links into the viewers.

const data = JSON.parse(document.getElementById("data").textContent);
const SIZE = 360; // of the scatter plot, pixels
const MARGIN = 34;
const byId = (id) => document.getElementById(id);
const sorting = { column: null, descending: false };

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function shape(tag, attributes, ...children) {
  const node = document.createElementNS(byId("scatter").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function valueText(value) {
  return value === null ? "–" : `${value}`;
}

function metricText({ name, unit }) {
  return name.replaceAll("_", " ") + (unit === "1" ? "" : ` (${unit})`);
}

// Columns of the table for a result. Undefined values come last in both directions.
function tableColumns(result) {
  return [
    { name: "scene", value: (scene) => scene.id },
    { name: "kinds", value: (scene) => scene.kinds.join(", ") },
    { name: "difficulty", value: (scene) => scene.difficulty },
    ...data.metrics.map((metric, index) => ({ name: metricText(metric), value: (scene) => scene.values[result][index] })),
  ];
}

function compareScenes({ value }, descending) {
  return (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return (x < y ? -1 : x > y ? 1 : 0) * (descending ? -1 : 1);
  };
}

function selectedScenes(columns) {
  const words = byId("filter").value.toLowerCase();
  const kind = byId("kind").value;
  const scenes = data.scenes.filter((scene) =>
    `${scene.id} ${scene.file}`.toLowerCase().includes(words) && (!kind || scene.kinds.includes(kind)));
  const column = columns.find(({ name }) => name === sorting.column);
  return column ? scenes.sort(compareScenes(column, sorting.descending)) : scenes;
}

function sortBy(name) {
  sorting.descending = sorting.column === name && !sorting.descending;
  sorting.column = name;
  showTable();
}

function eventLinks(scene, result) {
  const links = scene.events.filter((event) => event.result === result).map(({ text, hash }) =>
    element("a", { href: `#viewer-${scene.index}`, textContent: text, onclick: () => openViewer(scene.index, hash) }));
  return links.flatMap((link, index) => (index ? [document.createTextNode("; "), link] : [link]));
}

function showTable() {
  const result = Number(byId("result").value);
  const columns = tableColumns(result);
  const scenes = selectedScenes(columns);
  const heads = columns.map(({ name }) => {
    const head = element("th", { scope: "col" }, element("button", { textContent: name, onclick: () => sortBy(name) }));
    if (name === sorting.column) head.setAttribute("aria-sort", sorting.descending ? "descending" : "ascending");
    return head;
  });
  const rows = scenes.map((scene) => element("tr", {},
    ...columns.map(({ value }) => element("td", { textContent: valueText(value(scene)) })),
    element("td", {}, ...eventLinks(scene, result))));
  byId("scenes").replaceChildren(element("table", {},
    element("thead", {}, element("tr", {}, ...heads, element("th", { textContent: "first events" }))),
    element("tbody", {}, ...rows)));
  byId("count").textContent = `${scenes.length} of ${data.scenes.length} scenes`;
}

// Shows a step and an agent in the viewer of a scene, which may not be loaded yet.
function openViewer(index, hash) {
  const frame = document.querySelector(`#viewer-${index} iframe`);
  frame.dataset.hash = hash;
  if (frame.contentDocument?.documentElement.dataset.ready) frame.contentWindow.dispatchEvent(new Event("hashchange"));
}

function showScatter() {
  const [x, y, metric] = ["x", "y", "metric"].map((id) => Number(byId(id).value));
  const points = data.scenes.map((scene) => ({ scene, x: scene.values[x][metric], y: scene.values[y][metric] }))
    .filter((point) => point.x !== null && point.y !== null);
  const values = points.flatMap((point) => [point.x, point.y]);
  const [low, high] = values.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const at = (value) => MARGIN + ((value - low) / (high - low || 1)) * (SIZE - 2 * MARGIN);
  const text = (left, top, content) => shape("text", { x: left, y: top, "text-anchor": "middle" }, content);
  const end = SIZE - MARGIN;
  const frame = `M${MARGIN} ${MARGIN}V${end}H${end}M${MARGIN} ${end}L${end} ${MARGIN}`;
  const nodes = [shape("path", { class: "rule", d: frame })];
  if (points.length) {
    nodes.push(text(MARGIN, end + 12, low), text(end, end + 12, high), text(MARGIN - 16, MARGIN + 4, high));
  }
  for (const point of points) {
    const title = shape("title", {}, `${point.scene.id}: ${point.x} and ${point.y}`);
    const dot = shape("circle", { class: "dot s0", cx: at(point.x), cy: SIZE - at(point.y), r: 4 }, title);
    dot.onclick = () => filterBy(point.scene.id);
    nodes.push(dot);
  }
  nodes.push(text(SIZE / 2, SIZE - 4, data.results[x]));
  const upright = text(12, SIZE / 2, data.results[y]);
  upright.setAttribute("transform", `rotate(-90 12 ${SIZE / 2})`);
  const label = `${metricText(data.metrics[metric])} of ${points.length} scenes`;
  byId("scatter").setAttribute("aria-label", label);
  byId("scatter").replaceChildren(...nodes, upright);
  const higher = points.filter((point) => point.y > point.x).length;
  const lower = points.filter((point) => point.y < point.x).length;
  byId("scatter-note").textContent =
    `${label}; ${data.results[y]} is higher in ${higher}, lower in ${lower}, equal in ${points.length - higher - lower}`;
}

function filterBy(text) {
  byId("filter").value = text;
  showTable();
  byId("scenes").scrollIntoView({ block: "center" });
}

function addOptions(id, texts, selected = 0) {
  byId(id).append(...texts.map((text, value) => element("option", { value, textContent: text })));
  byId(id).selectedIndex = selected;
}

function main() {
  const kinds = [...new Set(data.scenes.flatMap((scene) => scene.kinds))];
  byId("kind").append(...kinds.map((kind) => element("option", { value: kind, textContent: kind })));
  addOptions("result", data.results);
  addOptions("x", data.results, data.pair[0]);
  addOptions("y", data.results, data.pair[1]);
  addOptions("metric", data.metrics.map(metricText));
  for (const id of ["x", "y", "metric"]) byId(id).onchange = showScatter;
  for (const id of ["result", "kind"]) byId(id).onchange = showTable;
  byId("filter").oninput = showTable;
  showTable();
  showScatter();
  document.documentElement.dataset.ready = "yes";
}

main();
