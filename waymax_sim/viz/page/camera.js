"use strict";
// The camera: center of the view (x, y, m), pixels per meter (scale), size (width, height, pixels) and the direction of
// the map that points up (up, rad).

const NORTH = Math.PI / 2;

// Coefficients of the transformation from the map to the canvas, in the order of `setTransform`.
function mapTransform({ x, y, scale, width, height, up }) {
  const [cos, sin] = [scale * Math.cos(NORTH - up), scale * Math.sin(NORTH - up)];
  return [cos, -sin, -sin, -cos, width / 2 - cos * x + sin * y, height / 2 + sin * x + cos * y];
}

function toCanvas(camera, x, y) {
  const [a, b, c, d, e, f] = mapTransform(camera);
  return [a * x + c * y + e, b * x + d * y + f];
}

// The displacement on the map of a displacement on the canvas, both to the right and upwards.
function toMapOffset({ scale, up }, right, upwards) {
  const [cos, sin] = [Math.cos(NORTH - up), Math.sin(NORTH - up)];
  return [(right * cos + upwards * sin) / scale, (upwards * cos - right * sin) / scale];
}

function toMap(camera, column, row) {
  const [dx, dy] = toMapOffset(camera, column - camera.width / 2, camera.height / 2 - row);
  return [camera.x + dx, camera.y + dy];
}

// Draws in pixels of the canvas, with text in the center of its position.
function inPixels(context, drawing) {
  context.save();
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.setLineDash([]);
  Object.assign(context, { textAlign: "center", textBaseline: "middle", lineJoin: "round" });
  drawing();
  context.restore();
}

// Text with an outline in the color of the page.
function drawText(context, text, column, row, px = devicePixelRatio) {
  Object.assign(context, { font: `${11 * px}px system-ui`, fillStyle: colors.ink, strokeStyle: colors.page });
  context.lineWidth = 3 * px;
  context.strokeText(text, column, row);
  context.fillText(text, column, row);
}
