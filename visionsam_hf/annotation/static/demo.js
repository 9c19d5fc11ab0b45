// A box drawn on the photograph, and what the model answers: its single mask and its three candidates.

import { get, picture, post } from "/static/network.js";
import { outline, paint } from "/static/outline.js";

const MASK = [230, 159, 0, 80];
const EDGE = "rgb(230, 159, 0)";
const BOX = "rgb(86, 180, 233)";

const canvas = document.querySelector("#photo");
const answers = [...document.querySelectorAll(".answers figure")].map((figure) => ({
  canvas: figure.querySelector("canvas"),
  caption: figure.querySelector("figcaption"),
  name: figure.querySelector("figcaption").textContent,
}));
const state = { photo: null, from: null, box: null, answer: null, asked: 0 };

function tell(words) { document.querySelector("#told").textContent = words; }

/** Draw on a canvas the part [x1, y1, x2, y2] of the photograph, and what `more(context, a screen pixel)` adds in its pixels. */
function draw(target, [x1, y1, x2, y2], more) {
  const ratio = devicePixelRatio;
  [target.width, target.height] = [target.clientWidth * ratio, target.clientHeight * ratio];
  const zoom = Math.min(target.width / (x2 - x1), target.height / (y2 - y1));
  const [left, top] = [(target.width - zoom * (x2 - x1)) / 2, (target.height - zoom * (y2 - y1)) / 2];
  const context = target.getContext("2d");
  context.setTransform(zoom, 0, 0, zoom, left - zoom * x1, top - zoom * y1);
  context.imageSmoothingEnabled = zoom < 3;
  context.drawImage(state.photo, 0, 0);
  more(context, ratio / zoom);
  return { zoom: zoom / ratio, left: left / ratio - (zoom / ratio) * x1, top: top / ratio - (zoom / ratio) * y1 };
}

function drawBox(context, pixel) {
  if (!state.box) return;
  const [x1, y1, x2, y2] = state.box;
  context.lineWidth = 2 * pixel;
  context.strokeStyle = BOX;
  context.strokeRect(x1, y1, x2 - x1, y2 - y1);
}

/** The box with its size as context on every side, as far as the photograph goes. */
function around([x1, y1, x2, y2]) {
  const reach = Math.max(x2 - x1, y2 - y1, 16);
  return [Math.max(x1 - reach, 0), Math.max(y1 - reach, 0), Math.min(x2 + reach, state.photo.width), Math.min(y2 + reach, state.photo.height)];
}

function redraw() {
  if (!state.photo) return;
  state.place = draw(canvas, [0, 0, state.photo.width, state.photo.height], (context, pixel) => {
    drawBox(context, pixel);
    if (state.answer) drawMask(context, pixel, state.answer[0]);
  });
  for (const [place, { canvas: target, caption, name }] of answers.entries()) {
    const mask = state.answer?.[place];
    caption.textContent = mask ? `${name}: ${mask.score.toFixed(2)}, ${mask.area} px` : name;
    if (state.box && mask) draw(target, around(state.box), (context, pixel) => { drawBox(context, pixel); drawMask(context, pixel, mask); });
    else target.width = target.width; // empties it
  }
}

function drawMask(context, pixel, { fill, edge, left, top }) {
  context.save();
  context.translate(left, top);
  context.drawImage(fill, 0, 0);
  context.lineWidth = 1.5 * pixel;
  context.strokeStyle = EDGE;
  context.stroke(edge);
  context.restore();
}

function unpack({ runs, score, area }, [left, top, right, bottom]) {
  const [width, height] = [right - left, bottom - top];
  const mask = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((run, place) => { if (place % 2) mask.fill(1, at, at + run); at += run; });
  return { score, area, left, top, fill: paint(width, height, (i) => (mask[i] ? MASK : null)), edge: outline(mask, width, height) };
}

async function ask() {
  const number = ++state.asked;
  const begun = performance.now();
  tell("…");
  try {
    const found = await post("/api/masks", { box: state.box });
    if (number !== state.asked) return;
    state.answer = found.masks.map((mask) => unpack(mask, found.view));
    tell(`answered in ${((performance.now() - begun) / 1000).toFixed(2)} s`);
  } catch (error) {
    if (number !== state.asked) return;
    tell(error.message);
  }
  redraw();
}

function position(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const { zoom, left: x, top: y } = state.place;
  const inside = (value, limit) => Math.min(Math.max(value, 0), limit);
  return [inside((event.clientX - left - x) / zoom, state.photo.width), inside((event.clientY - top - y) / zoom, state.photo.height)];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.photo) return;
  canvas.setPointerCapture(event.pointerId);
  Object.assign(state, { from: position(event), box: null, answer: null });
  redraw();
});
canvas.addEventListener("pointermove", (event) => {
  if (!state.from) return;
  const [[x1, y1], [x2, y2]] = [state.from, position(event)];
  state.box = [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
  redraw();
});
for (const kind of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(kind, () => {
    state.from = null;
    const [x1, y1, x2, y2] = state.box ?? [0, 0, 0, 0];
    if (x2 - x1 >= 1 && y2 - y1 >= 1) ask();
    else if (state.photo) tell("drag a box round a defect");
  });
}
new ResizeObserver(redraw).observe(document.querySelector("main"));

const { name, model } = await get("/api/about");
document.querySelector("#name").textContent = name;
document.querySelector("#model").textContent = model;
state.photo = await picture("/api/photo.png");
tell("drag a box round a defect");
redraw();
