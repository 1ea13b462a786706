"use strict";
// Images and videos of all panels, with their names and the clock.

const VIDEO_TYPE = "video/webm";
const VIDEO_RATE = 30; // frames per second
const LAST_FRAME_MS = 100; // time for the capture of the last frame
let video = null;

// Draws the panels at their positions on the page.
function composePanels(canvas) {
  const px = devicePixelRatio;
  const whole = byId("panels").getBoundingClientRect();
  const [width, height] = [Math.round(whole.width * px), Math.round(whole.height * px)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.fillStyle = colors.page;
  context.fillRect(0, 0, width, height);
  for (const { canvas: source, name } of panels) {
    const box = source.getBoundingClientRect();
    const [left, top] = [(box.left - whole.left) * px, (box.top - whole.top) * px];
    context.drawImage(source, left, top);
    inPixels(context, () => {
      context.textAlign = "left";
      drawText(context, `${name}, ${clockText()}`, left + 10 * px, top + 14 * px);
    });
  }
  return canvas;
}

function imageBlob() {
  render();
  return new Promise((done) => composePanels(element("canvas")).toBlob(done, "image/png"));
}

// Plays from the current step, or from the first one at the end, and records until the end of the record or a pause.
function videoBlob() {
  const canvas = composePanels(element("canvas"));
  const recorder = new MediaRecorder(canvas.captureStream(VIDEO_RATE), { mimeType: VIDEO_TYPE });
  const parts = [];
  const recorded = new Promise((done) => {
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => done(new Blob(parts, { type: VIDEO_TYPE }));
  });
  recorder.start();
  video = { canvas, recorder };
  if (!view.playing) toggle("playing");
  return recorded;
}

// Adds the panels as they are drawn to the video; its last frame is that of a pause.
function recordFrame() {
  if (!video) return;
  const { canvas, recorder } = video;
  composePanels(canvas);
  if (view.playing) return;
  video = null;
  setTimeout(() => recorder.stop(), LAST_FRAME_MS);
}

function saveFile(blob, suffix) {
  const name = `${scene.id.replace(/[^\w.-]/g, "_") || "scene"}-step-${Math.floor(view.time)}.${suffix}`;
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  byId("status").textContent = `saved ${name}`;
}

async function exportImage() {
  saveFile(await imageBlob(), "png");
}

async function exportVideo() {
  if (video) return;
  byId("status").textContent = "recording until the end or a pause";
  saveFile(await videoBlob(), "webm");
}
