"use strict";
// Metrics over time: a curve per rollout, or bars and marks of events. A mark is a button that jumps to its step.

const ROLLOUT_COLORS = 5;
const MARK_ROW_PX = 14;
const CURVE_PX = 34;

function rolloutColor(index) {
  return `rollout-${index % ROLLOUT_COLORS}`;
}

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function eventText(scene, { step, rollout, metric, agents }) {
  const ids = agents.map((agent) => (agent === null ? "the scene" : scene.agents[agent].id));
  const more = ids.length > 3 ? ` and ${ids.length - 3} more` : "";
  const names = `${ids.slice(0, 3).join(", ")}${more}`;
  return `${scene.metrics[metric].name} of ${names} in ${scene.rollouts[rollout].name}, step ${step}`;
}

// One row per metric. `jump` is called with a step, and with the event if there is one.
function buildTimeline(scene, events, jump) {
  return scene.metrics.map((metric, row) => {
    const marks = events.filter((event) => event.metric === row).map((event) => {
      const title = eventText(scene, event);
      const mark = element("button", { className: "mark", title, onclick: () => jump(event.step, event) });
      mark.setAttribute("aria-label", title);
      mark.style.left = `${(100 * event.step) / (scene.length - 1)}%`;
      mark.style.top = `${MARK_ROW_PX * event.rollout}px`;
      mark.style.setProperty("--color", `var(--${rolloutColor(event.rollout)})`);
      return mark;
    });
    const canvas = element("canvas");
    const plot = element("div", { className: "plot" }, canvas, ...marks);
    plot.onpointerdown = ({ target, clientX }) => {
      if (target.className === "mark") return;
      const { left, width } = plot.getBoundingClientRect();
      jump(Math.round(((clientX - left) / width) * (scene.length - 1)));
    };
    const lanes = Math.max(scene.rollouts.length, 1) * MARK_ROW_PX;
    plot.style.height = `${metric.events ? lanes : Math.max(CURVE_PX, lanes)}px`;
    const output = element("output");
    const node = element("div", { className: "row" }, element("span", { textContent: metric.name }), plot, output);
    return { node, canvas, output, row, metric };
  });
}

function fitCanvas(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((px) => Math.round(px * devicePixelRatio));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  return { width, height };
}

function drawRow(scene, { canvas, row, metric }, agent) {
  const { width, height } = fitCanvas(canvas);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  const at = (step) => (step / (scene.length - 1)) * width;
  if (metric.events) {
    scene.rollouts.forEach((rollout, index) => {
      context.fillStyle = colors[rolloutColor(index)];
      context.globalAlpha = 0.4;
      for (let step = rollout.first; step <= rollout.last; step++) {
        if (!rollout.metrics[row].some((series) => isActive(series, step))) continue;
        context.fillRect(at(step - 0.5), (index * MARK_ROW_PX + 4) * devicePixelRatio, at(1), 6 * devicePixelRatio);
      }
    });
    return;
  }
  const curves = scene.rollouts.map((rollout) => findSeries(rollout, row, agent));
  const values = curves.flatMap((series) => series?.value ?? []);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const margin = 3 * devicePixelRatio;
  const up = (value) => height - margin - ((value - low) / (high - low || 1)) * (height - 2 * margin);
  const base = { x: [0, width], y: [up(0), up(0)] };
  strokePath(context, toPath([base]), "rule", devicePixelRatio);
  curves.forEach((series, index) => {
    if (!series) return;
    const curve = { valid: series.valid, x: series.value.map((_, step) => at(step)), y: series.value.map(up) };
    strokePath(context, toPath(validLines(curve, 0, scene.length - 1)), rolloutColor(index), 1.5 * devicePixelRatio);
  });
}

// Values of a metric at a step, one per rollout.
function valuesText(scene, { row, metric }, agent, step) {
  const texts = scene.rollouts.map((rollout) => {
    const series = findSeries(rollout, row, agent);
    return series?.valid[step] ? `${Number(series.value[step].toFixed(2))}` : "–";
  });
  return `${texts.join(" | ")} ${metric.unit}`;
}
