// Mending the best mask: clicks and boxes that the served model answers, and a brush for the last pixels.

import { postPicture, channels } from "/static/network.js";
import { outline, paint } from "/static/outline.js";

const MENDED = [0, 158, 115, 255];
// Image pixels; [ and ] change it.
const RADII = [1, 2, 4, 8, 16, 32];

export class Mender {
  /** onChange() after every step, which may have come from the network. */
  constructor(panes, onChange) {
    this.panes = panes;
    this.onChange = onChange;
    this.pane = null;
    this.listen();
  }

  get isOpen() { return this.pane !== null; }

  open(task, pane, mask) {
    this.task = task;
    this.pane = pane;
    this.before = this.panes.mended;
    this.mask = mask.slice();
    this.box = task.box;
    this.clicks = [];
    this.steps = [];
    this.tool = "click";
    this.radius = 2;
    this.problem = "";
    this.asked = (this.asked || 0) + 1;
    this.line = Promise.resolve();
    this.stroke = null;
    this.panes.only(pane);
    this.redraw();
  }

  /** The mask, or null when all is as it was before. */
  close(isKept) {
    const mask = isKept && this.steps.length ? this.mask : null;
    this.panes.mended = mask ? { ...this.panes.mended, clicks: [] } : this.before;
    this.panes.draft = null;
    this.pane = null;
    this.asked += 1; // an answer that is on its way comes too late
    this.panes.only(null);
    return mask;
  }

  use(tool) {
    this.tool = this.tool === tool ? "click" : tool;
    this.onChange();
  }

  resize(by) {
    const place = RADII.indexOf(this.radius) + by;
    this.radius = RADII[Math.min(Math.max(place, 0), RADII.length - 1)];
    this.onChange();
  }

  undo() {
    const before = this.steps.pop();
    if (before) Object.assign(this, before);
    this.asked += 1;
    this.redraw();
  }

  step() {
    this.steps.push({ mask: this.mask, box: this.box, clicks: this.clicks });
    this.mask = this.mask.slice();
  }

  /** Clicks and boxes are answered one after the other, so that each works on what the one before it left. */
  soon(act) {
    this.line = this.line.then(() => (this.isOpen ? act() : null));
  }

  /** A click brings, or takes away, the connected part round it of what the model holds different from the mask. */
  async click(at, positive) {
    this.step();
    this.clicks = [...this.clicks, { ...at, positive }];
    this.redraw();
    const answer = await this.ask();
    if (!answer) return;
    const { width, height } = this.task;
    const wanted = (i) => (positive ? answer[i] && !this.mask[i] : this.mask[i] && !answer[i]);
    const part = flood(wanted, Math.floor(at.x), Math.floor(at.y), width, height);
    for (const i of part) this.mask[i] = positive ? 1 : 0;
    // Where the model does not follow, the pixels clicked on change all the same.
    if (!part.length) this.dab(at, positive ? 1 : 0);
    this.redraw();
  }

  async drawBox(from, to) {
    const [x1, x2] = [Math.min(from.x, to.x), Math.max(from.x, to.x)];
    const [y1, y2] = [Math.min(from.y, to.y), Math.max(from.y, to.y)];
    if (x2 - x1 < 1 || y2 - y1 < 1) return;
    this.step();
    this.box = [x1, y1, x2, y2];
    this.tool = "click";
    const answer = await this.ask();
    if (answer) this.mask = answer;
    this.redraw();
  }

  /** The model's mask, or null when it failed or came after something else was done. */
  async ask() {
    const [left, top] = this.task.offset;
    const [x1, y1, x2, y2] = this.box;
    const number = ++this.asked;
    const body = {
      box: [x1 + left, y1 + top, x2 + left, y2 + top],
      clicks: this.clicks.map(({ x, y, positive }) => ({ at: [x + left, y + top], positive })),
    };
    const begun = performance.now();
    try {
      const bitmap = await postPicture(`/api/task/${this.task.id}/mask.png`, body);
      if (number !== this.asked) return null;
      const mask = channels(bitmap)[0];
      bitmap.close();
      this.problem = "";
      dispatchEvent(new CustomEvent("visionsam:answered", { detail: performance.now() - begun }));
      return mask;
    } catch (error) {
      if (number !== this.asked) return null;
      this.problem = error.message;
      this.undo();
      return null;
    }
  }

  dab(at, value) {
    const { width, height } = this.task;
    const reach = Math.ceil(this.radius);
    for (let y = Math.max(Math.floor(at.y) - reach, 0); y <= Math.min(Math.floor(at.y) + reach, height - 1); y++) {
      for (let x = Math.max(Math.floor(at.x) - reach, 0); x <= Math.min(Math.floor(at.x) + reach, width - 1); x++) {
        if (Math.hypot(x + 0.5 - at.x, y + 0.5 - at.y) <= this.radius) this.mask[y * width + x] = value;
      }
    }
  }

  redraw() {
    if (!this.isOpen) return;
    const { width, height } = this.task;
    this.panes.mended = {
      pane: this.pane,
      fill: paint(width, height, (i) => (this.mask[i] ? MENDED : null)),
      outline: outline(this.mask, width, height),
      colour: `rgb(${MENDED.slice(0, 3)})`,
      clicks: this.clicks,
    };
    this.panes.schedule();
    this.onChange();
  }

  listen() {
    const inside = ({ x, y }) => x >= 0 && y >= 0 && x <= this.task.width && y <= this.task.height;
    const clamped = ({ x, y }) => ({ x: Math.min(Math.max(x, 0), this.task.width), y: Math.min(Math.max(y, 0), this.task.height) });
    // Panes asks before it pans or draws a lasso.
    this.panes.grab = (event, at, kind) => {
      if (!this.isOpen) return false;
      const value = event.shiftKey || event.button === 2 || (event.buttons & 2) ? 0 : 1;
      if (kind === "down") {
        if (!inside(at)) return true;
        this.stroke = { from: at, value };
        if (this.tool === "brush") { this.step(); this.dab(at, value); this.redraw(); }
      } else if (kind === "move" && this.stroke) {
        if (this.tool === "brush") { this.dab(at, this.stroke.value); this.redraw(); }
        if (this.tool === "box") this.panes.draft = [this.stroke.from, clamped(at)];
      } else if (kind === "up" && this.stroke) {
        const { from, value: begun } = this.stroke;
        this.stroke = this.panes.draft = null;
        if (this.tool === "click") this.soon(() => this.click(from, begun === 1));
        if (this.tool === "box") this.soon(() => this.drawBox(from, clamped(at)));
      }
      this.panes.schedule();
      return true;
    };
    document.querySelectorAll(".pane canvas").forEach((canvas) =>
      canvas.addEventListener("contextmenu", (event) => { if (this.isOpen) event.preventDefault(); }));
  }
}

/** Indices of the 8-connected part of wanted(index) that holds x, y; none where that is not wanted. */
function flood(wanted, x, y, width, height) {
  const start = Math.min(y, height - 1) * width + Math.min(x, width - 1);
  if (!wanted(start)) return [];
  const seen = new Uint8Array(width * height);
  const part = [start];
  seen[start] = 1;
  for (let next = 0; next < part.length; next++) {
    const [row, column] = [Math.floor(part[next] / width), part[next] % width];
    for (let r = Math.max(row - 1, 0); r <= Math.min(row + 1, height - 1); r++) {
      for (let c = Math.max(column - 1, 0); c <= Math.min(column + 1, width - 1); c++) {
        const i = r * width + c;
        if (!seen[i] && wanted(i)) { seen[i] = 1; part.push(i); }
      }
    }
  }
  return part;
}

/** COCO's compressed run-length code: runs down the columns, from the fourth on as differences, five bits a character. */
export function encode(mask, width, height) {
  const runs = [];
  let [value, run] = [0, 0];
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const here = mask[y * width + x] ? 1 : 0;
      if (here !== value) { runs.push(run); [value, run] = [here, 0]; }
      run++;
    }
  }
  runs.push(run);
  let counts = "";
  runs.forEach((of, place) => {
    let left = place > 2 ? of - runs[place - 2] : of;
    for (let more = true; more;) {
      let bits = left & 0x1f;
      left >>= 5;
      more = bits & 0x10 ? left !== -1 : left !== 0;
      if (more) bits |= 0x20;
      counts += String.fromCharCode(bits + 48);
    }
  });
  return { size: [height, width], counts };
}
