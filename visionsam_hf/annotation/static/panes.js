// The three panes, the bare photograph and the map of differences: one view, drawn five times.

import { outline, paint } from "/static/outline.js";
import { channels, get, picture } from "/static/network.js";

// Okabe and Ito's colours, told apart by every kind of eyes.
const MASK = [86, 180, 233];
const ONE = [230, 159, 0, 235];
const TWO = [86, 180, 233, 235];
const ALL = [141, 148, 158, 130];
const MISSED = [0, 114, 178, 215];
const EXTRA = [230, 159, 0, 215];
const RIGHT = [120, 200, 160, 70];

/** A task with everything that drawing it needs, made while the annotator still looks at an earlier one. */
export async function prepare(task) {
  const path = `/api/task/${task.id}`;
  const [photo, packed] = await Promise.all([picture(`${path}/photo.png`), picture(`${path}/masks.png`)]);
  const masks = channels(packed);
  const [width, height] = [packed.width, packed.height];
  packed.close();
  const fills = masks.map((mask) => paint(width, height, (i) => (mask[i] ? [...MASK, 255] : null)));
  const outlines = masks.map((mask) => outline(mask, width, height));
  const difference = paint(width, height, (i) => [null, ONE, TWO, ALL][masks[0][i] + masks[1][i] + masks[2][i]]);
  return { ...task, photo, masks, width, height, fills, outlines, difference };
}

/** What calibration shows after an answer: missed and extra pixels, and the truth's outline. */
export async function prepareFeedback(task) {
  const path = `/api/task/${task.id}`;
  const [feedback, bitmap] = await Promise.all([get(`${path}/feedback`), picture(`${path}/truth.png`)]);
  const truth = channels(bitmap)[0];
  bitmap.close();
  feedback.painted = task.masks.map((mask) =>
    paint(task.width, task.height, (i) => (truth[i] ? (mask[i] ? RIGHT : MISSED) : mask[i] ? EXTRA : null)));
  feedback.outline = outline(truth, task.width, task.height);
  return feedback;
}

export class Panes {
  constructor() {
    this.canvases = [...document.querySelectorAll(".pane canvas")];
    this.raw = document.querySelector("#raw");
    this.difference = document.querySelector("#difference");
    this.task = null;
    this.feedback = null;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.region = { wide: 1, high: 1 };
    this.mode = localStorage.getItem("mode") || "outline";
    this.opacity = Number(localStorage.getItem("opacity") || 0.45);
    this.hidden = false;
    this.flickering = 0;
    this.pointer = null;
    this.lasso = null;
    this.regions = [];
    this.onLasso = () => {};
    // A mask that is drawn instead of a pane's own, a box that is being drawn, and whoever takes the pointer: mender.js.
    this.mended = null;
    this.draft = null;
    this.grab = () => false;
    this.listen();
    // Marks and numbers under a pane make its canvas smaller while the pane keeps its size.
    const resized = new ResizeObserver(() => this.schedule());
    for (const canvas of [...this.canvases, this.raw, this.difference]) resized.observe(canvas);
  }

  show(task) {
    this.task = task;
    this.feedback = null;
    this.regions = [];
    this.lasso = null;
    this.mended = null;
    this.hidden = false;
    this.fit();
  }

  /** The box with half its size as context on every side, as far as the photograph goes. */
  fit() {
    if (!this.task) return;
    const [x1, y1, x2, y2] = this.task.box;
    const margin = Math.max(0.5 * Math.max(x2 - x1, y2 - y1), 10);
    const [left, right] = [Math.max(x1 - margin, 0), Math.min(x2 + margin, this.task.width)];
    const [top, bottom] = [Math.max(y1 - margin, 0), Math.min(y2 + margin, this.task.height)];
    this.region = { wide: right - left, high: bottom - top };
    this.view = { x: (left + right) / 2, y: (top + bottom) / 2, zoom: this.fitting(this.pane()) };
    this.draw();
  }

  /** CSS pixels per image pixel at which the fitted region fills a canvas. */
  fitting(canvas) {
    return Math.min(Math.max(canvas.clientWidth, 1) / this.region.wide, Math.max(canvas.clientHeight, 1) / this.region.high);
  }

  /** Any pane that is on the screen: flickering shows one at a time. */
  pane() {
    return this.canvases.find((one) => one.clientWidth > 0) || this.canvases[0];
  }

  zoomBy(factor, at = null) {
    if (!this.task) return;
    const zoom = Math.min(Math.max(this.view.zoom * factor, 0.05), 80);
    if (at) {
      // The pixel under the pointer stays under it.
      const ratio = this.view.zoom / zoom;
      this.view.x = at.x + (this.view.x - at.x) * ratio;
      this.view.y = at.y + (this.view.y - at.y) * ratio;
    }
    this.view.zoom = zoom;
    this.schedule();
  }

  toggleMode() {
    this.mode = this.mode === "outline" ? "fill" : "outline";
    localStorage.setItem("mode", this.mode);
    this.schedule();
  }

  strengthen(by) {
    this.opacity = Math.min(Math.max(Math.round((this.opacity + by) * 100) / 100, 0.15), 1);
    localStorage.setItem("opacity", String(this.opacity));
    this.schedule();
  }

  /** One pane at a time, in turns; again to stop. */
  flicker() {
    if (this.flickering) return this.stopFlicker();
    let shown = 0;
    const step = () => {
      this.canvases.forEach((canvas, pane) => canvas.closest(".pane").classList.toggle("shown", pane === shown));
      this.draw();
      shown = (shown + 1) % this.canvases.length;
    };
    document.body.classList.add("flickering");
    step();
    this.flickering = setInterval(step, 450);
  }

  stopFlicker() {
    if (!this.flickering) return;
    clearInterval(this.flickering);
    this.flickering = 0;
    document.body.classList.remove("flickering");
    this.draw();
  }

  /** One pane alone; null shows all of them again. */
  only(pane) {
    this.stopFlicker();
    document.body.classList.toggle("flickering", pane !== null);
    document.body.classList.toggle("mending", pane !== null);
    this.canvases.forEach((canvas, place) => canvas.closest(".pane").classList.toggle("shown", place === pane));
    this.fit();
  }

  hide(isHidden) {
    this.hidden = isHidden;
    this.schedule();
  }

  schedule() {
    if (this.scheduled) return;
    this.scheduled = requestAnimationFrame(() => { this.scheduled = null; this.draw(); });
  }

  draw() {
    if (!this.task) return;
    this.canvases.forEach((canvas, pane) => this.drawPane(canvas, pane));
    const raw = this.begin(this.raw);
    if (raw) this.drawPhoto(raw);
    const context = this.begin(this.difference);
    if (context) {
      this.drawPhoto(context, 0.35);
      context.drawImage(this.task.difference, 0, 0);
      this.drawBox(context);
    }
  }

  drawPane(canvas, pane) {
    const context = this.begin(canvas);
    if (!context) return;
    this.drawPhoto(context);
    const line = 1 / this.scale(canvas);
    if (this.feedback) {
      context.drawImage(this.feedback.painted[pane], 0, 0);
      this.stroke(context, this.feedback.outline, line, "#fff", 1);
    } else if (!this.hidden) {
      const own = { fill: this.task.fills[pane], outline: this.task.outlines[pane], colour: `rgb(${MASK})`, clicks: [] };
      const mask = this.mended?.pane === pane ? this.mended : own;
      if (this.mode === "fill") {
        context.globalAlpha = this.opacity;
        context.drawImage(mask.fill, 0, 0);
        context.globalAlpha = 1;
      } else {
        this.stroke(context, mask.outline, line, mask.colour, Math.min(1, this.opacity + 0.5));
      }
      for (const click of mask.clicks) this.drawClick(context, click, line);
      if (this.draft) {
        const [from, to] = this.draft;
        const path = new Path2D();
        path.rect(from.x, from.y, to.x - from.x, to.y - from.y);
        this.stroke(context, path, line, "#fff", 1);
      }
    }
    this.drawBox(context, line);
    this.drawLassos(context, pane, line);
    if (this.pointer && this.pointer.pane !== pane) this.drawPointer(context, line);
  }

  begin(canvas) {
    const ratio = devicePixelRatio || 1;
    const [wide, high] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (!wide || !high) return null;
    if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
    const context = canvas.getContext("2d", { alpha: false });
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = getComputedStyle(canvas).backgroundColor;
    context.fillRect(0, 0, wide, high);
    const scale = this.scale(canvas);
    context.setTransform(scale, 0, 0, scale, wide / 2 - this.view.x * scale, high / 2 - this.view.y * scale);
    // The annotator judges pixels, so pixels are what is shown.
    context.imageSmoothingEnabled = scale < 1;
    return context;
  }

  /** Canvas pixels per image pixel; the small canvases show the same region, smaller. */
  scale(canvas) {
    const zoom = this.canvases.includes(canvas) ? this.view.zoom : (this.view.zoom * this.fitting(canvas)) / this.fitting(this.pane());
    return zoom * (devicePixelRatio || 1);
  }

  drawPhoto(context, alpha = 1) {
    context.globalAlpha = alpha;
    context.drawImage(this.task.photo, 0, 0);
    context.globalAlpha = 1;
  }

  stroke(context, path, line, colour, alpha) {
    context.globalAlpha = alpha;
    context.lineCap = "square";
    context.lineWidth = 4 * line;
    context.strokeStyle = "rgba(0, 0, 0, .65)";
    context.stroke(path);
    context.lineWidth = 2 * line;
    context.strokeStyle = colour;
    context.stroke(path);
    context.globalAlpha = 1;
  }

  drawBox(context, line = 1 / this.scale(this.difference)) {
    const [x1, y1, x2, y2] = this.task.box;
    context.lineWidth = line;
    context.strokeStyle = "rgba(0, 0, 0, .6)";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.setLineDash([5 * line, 5 * line]);
    context.strokeStyle = "rgba(255, 255, 255, .8)";
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    context.setLineDash([]);
  }

  drawLassos(context, pane, line) {
    const shapes = this.regions.concat(this.lasso ? [this.lasso] : []).filter((region) => region.pane === pane);
    for (const { points, label } of shapes) {
      const path = new Path2D();
      points.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
      if (label) path.closePath();
      this.stroke(context, path, line, "#f0a202", 1);
      if (!label) continue;
      context.font = `${13 * line * (devicePixelRatio || 1)}px system-ui`;
      context.lineWidth = 3 * line;
      context.strokeStyle = "#000";
      context.strokeText(label, ...points[0]);
      context.fillStyle = "#fff";
      context.fillText(label, ...points[0]);
    }
  }

  /** A plus or a minus. */
  drawClick(context, { x, y, positive }, line) {
    const arm = 6 * line * (devicePixelRatio || 1);
    const path = new Path2D();
    path.moveTo(x - arm, y);
    path.lineTo(x + arm, y);
    if (positive) {
      path.moveTo(x, y - arm);
      path.lineTo(x, y + arm);
    }
    this.stroke(context, path, line, "#fff", 1);
  }

  drawPointer(context, line) {
    const { x, y } = this.pointer;
    const arm = 8 * line * (devicePixelRatio || 1);
    const path = new Path2D();
    path.moveTo(x - arm, y);
    path.lineTo(x + arm, y);
    path.moveTo(x, y - arm);
    path.lineTo(x, y + arm);
    this.stroke(context, path, line, "#fff", 0.9);
  }

  at(event, canvas) {
    const rect = canvas.getBoundingClientRect();
    return {
      x: this.view.x + (event.clientX - rect.left - rect.width / 2) / this.view.zoom,
      y: this.view.y + (event.clientY - rect.top - rect.height / 2) / this.view.zoom,
    };
  }

  listen() {
    this.canvases.forEach((canvas, pane) => {
      let held = null;
      canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY / 400), this.at(event, canvas));
      }, { passive: false });
      canvas.addEventListener("pointerdown", (event) => {
        if (!this.task) return;
        canvas.setPointerCapture(event.pointerId);
        held = this.at(event, canvas);
        if (this.grab(event, held, "down")) { held = null; return; }
        if (document.body.classList.contains("lasso")) this.lasso = { pane, points: [[held.x, held.y]] };
      });
      canvas.addEventListener("pointermove", (event) => {
        if (!this.task) return;
        const at = this.at(event, canvas);
        this.pointer = { ...at, pane };
        if (this.grab(event, at, "move")) return;
        if (held && this.lasso && !this.lasso.isClosed) {
          this.lasso.points.push([at.x, at.y]);
        } else if (held && !this.lasso) {
          this.view.x += held.x - at.x;
          this.view.y += held.y - at.y;
        }
        this.schedule();
      });
      canvas.addEventListener("pointerup", (event) => {
        held = null;
        if (this.task && this.grab(event, this.at(event, canvas), "up")) return;
        if (!this.lasso || this.lasso.isClosed) return;
        if (this.lasso.points.length < 3) {
          this.lasso = null;
        } else {
          this.lasso.points = thin(this.lasso.points);
          this.lasso.isClosed = true;
          this.onLasso();
        }
        this.schedule();
      });
      canvas.addEventListener("pointerleave", () => { this.pointer = null; this.schedule(); });
    });
  }

  /** Name the open lasso's mistake, or drop it with null. */
  closeLasso(label) {
    if (this.lasso && label) this.regions.push({ pane: this.lasso.pane, label, points: this.lasso.points });
    this.lasso = null;
    this.schedule();
  }
}

/** At most 400 points, a tenth of a pixel exact: what the server takes. */
function thin(points) {
  const step = Math.ceil(points.length / 400);
  return points.filter((_, index) => index % step === 0).map(([x, y]) => [Math.round(x * 10) / 10, Math.round(y * 10) / 10]);
}
