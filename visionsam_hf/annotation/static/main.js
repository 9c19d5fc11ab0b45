// The annotator's hands: keys and buttons to answers, tasks in and out. What is answered is kept before it is sent.

import { get, post, LoggedOut } from "/static/network.js";
import { Outbox } from "/static/outbox.js";
import { Panes, prepare, prepareFeedback } from "/static/panes.js";
import { Chooser } from "/static/chooser.js";
import { listen } from "/static/controls.js";
import { Mender, encode } from "/static/mender.js";
import * as screens from "/static/screens.js";

const $ = (selector) => document.querySelector(selector);
const panes = new Panes();
const queue = [];
// Tasks that came in since the start: a reply that was on its way while one was answered must not bring it back.
const known = new Set();
const HISTORY = "visionsam-history";

let progress = null;
let current = null;
let chooser = null;
let phase = "start"; // start, choose, mend, rate, feedback, label, stopped
let correction = null;
const mender = new Mender(panes, () => { if (mender.isOpen) screens.mending(mender); });
let shownAt = 0;
let ratings = [];
let asking = null;
let waiting = 0;

const outbox = new Outbox({
  onChange: (waiting, refused) => screens.saved(waiting, refused, outbox?.failed),
  onReply: (reply) => receive(reply),
  onLoggedOut: () => logIn(),
});

// ---- tasks in ----------------------------------------------------------------------------------------------------

function receive(reply) {
  progress = reply.progress;
  showProgress();
  const pending = outbox.pending();
  for (const task of reply.tasks) {
    const isAnswered = pending.has(task.id) && pending.get(task.id) !== "undo";
    if (known.has(task.id) || isAnswered) continue;
    known.add(task.id);
    queue.push({ id: task.id, ready: load(task) });
  }
  if (phase === "start" || phase === "stopped") next();
}

/** Loads until it works: a picture that the network dropped must not cost the task. */
async function load(task) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 15000)) {
    try {
      return await prepare(task);
    } catch (error) {
      if (error instanceof LoggedOut) logIn();
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

async function fetchMore() {
  if (asking) return asking;
  asking = (async () => {
    await outbox.flush();
    receive(await post("/api/claim"));
  })().catch((error) => {
    if (error instanceof LoggedOut) logIn();
    else setTimeout(() => { if (phase === "stopped") fetchMore(); }, 2000);
  }).finally(() => { asking = null; });
  return asking;
}

async function next() {
  panes.stopFlicker();
  panes.feedback = null;
  current = null;
  if (!queue.length) return stop();
  phase = "loading";
  const item = queue.shift();
  const task = await item.ready;
  show(task);
}

function show(task) {
  current = task;
  chooser = new Chooser(task.twins);
  ratings = [];
  correction = null;
  phase = "choose";
  screens.work(task);
  screens.clearUnder();
  screens.criterion(null);
  panes.show(task);
  describe();
  showProgress();
  shownAt = performance.now();
  requestAnimationFrame(() => setTimeout(() => dispatchEvent(new CustomEvent("visionsam:painted", { detail: task.id }))));
}

function stop() {
  phase = "stopped";
  if (!progress || outbox.entries.length) {
    // Usually a moment: the last task stays on the screen, so that nothing flashes.
    screens.ask("The next task is on its way …");
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (phase !== "stopped" || !outbox.entries.length) return;
      screens.message("Waiting for the server", "Your answers are kept in this browser and go out as soon as it is back.");
      outbox.flush();
    }, 2500);
    return;
  }
  const { calibration } = progress;
  if (calibration.tasks && calibration.done === calibration.tasks && !calibration.passed) {
    screens.message(
      "Once more, please",
      `Your practice rankings agree with the truth by ${calibration.agreement.toFixed(2)}; work starts at ${calibration.gate.toFixed(2)}. Have a look at what makes a mask good (press ?), then try again.`,
      { button: "Practise again", onPress: () => post("/api/calibration").then(fetchMore) },
    );
    return;
  }
  if (progress.done >= progress.wanted) {
    screens.message("All done", `Every task has its rankings; ${progress.mine} are yours. Thank you.`);
  } else {
    screens.message("Nothing to do just now", "The remaining tasks are in other hands. This page looks again by itself.");
    setTimeout(() => { if (phase === "stopped") fetchMore(); }, 5000);
  }
}

// ---- answers out -------------------------------------------------------------------------------------------------

function answer(kind, extra = {}) {
  const task = current;
  const seconds = Math.round((performance.now() - shownAt) / 10) / 100;
  const event = { uuid: crypto.randomUUID(), assignment: task.id, kind, seconds: Math.min(seconds, 86400), ...extra };
  if (kind === "undo") delete event.seconds;
  return outbox.add(event);
}

async function submit() {
  if (current.ratings.length && ratings.length < 12) {
    phase = "rate";
    screens.ratings(ratings, ratings.length);
    return;
  }
  const task = current;
  const [left, top] = task.offset;
  const extra = {
    ranking: chooser.ranking(),
    unusable: chooser.unusable,
    criterion: chooser.criterion,
    regions: panes.regions.map((region) => ({ ...region, points: region.points.map(([x, y]) => [x + left, y + top]) })),
  };
  if (correction) extra.correction = correction.code;
  if (ratings.length === 12) extra.ratings = [0, 1, 2].map((pane) => ratings.slice(pane * 4, pane * 4 + 4));
  remember(task);
  const kept = answer("submit", extra);
  if (task.calibration) return giveFeedback(task, kept);
  next();
}

function leave(kind, extra) {
  remember(current);
  answer(kind, extra);
  next();
}

async function giveFeedback(task, kept) {
  phase = "loading";
  screens.ask("Comparing with the truth …");
  try {
    await kept;
    await outbox.flush();
    panes.feedback = await prepareFeedback(task);
  } catch {
    return next();
  }
  phase = "feedback";
  screens.feedback(panes.feedback);
  panes.schedule();
}

function remember(task) {
  const ids = JSON.parse(sessionStorage.getItem(HISTORY) || "[]").concat(task.id).slice(-100);
  sessionStorage.setItem(HISTORY, JSON.stringify(ids));
  recent.set(task.id, task);
  if (recent.size > 12) recent.delete(recent.keys().next().value);
}
const recent = new Map();

async function undo() {
  if (phase === "rate") {
    if (ratings.length) ratings.pop();
    else { phase = "choose"; chooser.clear(); screens.clearUnder(); describe(); return; }
    screens.ratings(ratings, ratings.length);
    return;
  }
  if (current && chooser && chooser.best !== null && phase === "choose") {
    chooser.clear();
    describe();
    return;
  }
  const ids = JSON.parse(sessionStorage.getItem(HISTORY) || "[]");
  const id = ids.pop();
  if (!id) return screens.ask("There is nothing to undo.");
  sessionStorage.setItem(HISTORY, JSON.stringify(ids));
  const unfinished = phase === "feedback" ? null : current;
  phase = "loading";
  const kept = recent.has(id) ? recent.get(id) : null;
  current = { id };
  known.add(id);
  answer("undo");
  if (unfinished) queue.unshift({ id: unfinished.id, ready: Promise.resolve(unfinished) });
  const task = kept || (await outbox.flush().then(() => get(`/api/task/${id}`)).then(load).catch(() => null));
  if (task) show(task);
  else next();
}

// ---- what is on the screen ---------------------------------------------------------------------------------------

function describe() {
  if (correction && chooser.best !== correction.pane) correction = panes.mended = null; // the best taken back, its mending too
  screens.verdicts(chooser.words(), current.twins);
  screens.question(chooser);
  screens.criterion(chooser.criterion);
  screens.display(panes);
}

function showProgress() {
  if (progress) screens.progress(progress, Boolean(current?.calibration));
}

function choose(act) {
  act();
  describe();
  if (chooser.isComplete()) submit();
}

/** The best mask becomes one to mend; what is kept goes out with the ranking. */
function startMending() {
  if (!current.mendable) return;
  if (typeof chooser.best !== "number") return screens.ask("First the number of the best mask, then", ["key", "M"], "mends it");
  phase = "mend";
  const again = correction?.pane === chooser.best ? correction.mask : current.masks[chooser.best];
  mender.open(current, chooser.best, again);
}

function endMending(isKept) {
  const pane = mender.pane;
  const mask = mender.close(isKept);
  if (mask) correction = { pane, mask, code: encode(mask, current.width, current.height) };
  phase = "choose";
  describe();
}

const MEND = {
  b: () => mender.use("brush"),
  r: () => mender.use("box"),
  "[": () => mender.resize(-1),
  "]": () => mender.resize(1),
  Backspace: () => mender.undo(),
  Enter: () => endMending(true),
  Escape: () => endMending(false),
};

function startLasso() {
  document.body.classList.toggle("lasso");
  if (!document.body.classList.contains("lasso")) { panes.closeLasso(null); return describe(); }
  screens.ask("Drag a loop round the mistake", ["quiet", "Esc: never mind"]);
}

panes.onLasso = () => {
  phase = "label";
  screens.ask("What is it?", ["key", "M"], "missed", ["key", "E"], "extra", ["key", "R"], "ragged", ["key", "S"], "speckle");
};

function endLasso(label) {
  panes.closeLasso(label);
  document.body.classList.remove("lasso");
  phase = "choose";
  describe();
}

// ---- keys --------------------------------------------------------------------------------------------------------

const LABELS = { m: "missed", e: "extra", r: "ragged", s: "speckle" };
const WHY = { c: "coverage", b: "boundary", o: "over_under", n: "noise" };
const ACTIONS = {
  "=": () => choose(() => chooser.equal()),
  "0": () => choose(() => chooser.none()),
  s: () => leave("skip"),
  "!": () => { $("#flag-dialog").showModal(); },
  d: startLasso,
  m: startMending,
};
const DISPLAY = {
  x: () => panes.toggleMode(),
  "[": () => panes.strengthen(-0.1),
  "]": () => panes.strengthen(0.1),
  "+": () => panes.zoomBy(1.3),
  "-": () => panes.zoomBy(1 / 1.3),
  f: () => panes.fit(),
};

function press(key) {
  const low = key.toLowerCase();
  if (phase === "feedback" && [" ", "Enter"].includes(key)) { panes.feedback = null; return next(); }
  if (key === " ") return panes.hide(true);
  if (phase === "mend" && (key in MEND || low in MEND)) return (MEND[key] || MEND[low])();
  if (low in DISPLAY && current?.photo) { DISPLAY[low](); return screens.display(panes); }
  if (key === "Tab" && current?.photo && phase !== "mend") return panes.flicker();
  if (key === "Backspace" && !["loading", "label"].includes(phase)) return undo();
  if (phase === "label") {
    if (low in LABELS) endLasso(LABELS[low]);
    else if (key === "Escape") endLasso(null);
  } else if (phase === "rate") {
    if (key >= "1" && key <= "5") {
      ratings.push(Number(key));
      if (ratings.length === 12) submit();
      else screens.ratings(ratings, ratings.length);
    }
  } else if (phase === "choose") {
    if (key >= "1" && key <= "3") choose(() => chooser.pick(Number(key) - 1));
    else if (low in WHY) { chooser.decide(WHY[low]); describe(); }
    else if (key in ACTIONS || low in ACTIONS) (ACTIONS[key] || ACTIONS[low])();
    else if (key === "Escape") { panes.stopFlicker(); if (document.body.classList.contains("lasso")) endLasso(null); }
  }
}

listen(panes, {
  press,
  repeated: DISPLAY,
  pick: (pane) => { if (phase === "choose") press(String(pane + 1)); },
  decide: (criterion) => { if (phase === "choose") { chooser.decide(criterion); describe(); } },
  flag: (reason) => { if (phase === "choose") leave("flag", { reason }); },
  undoStopped: () => { if (phase === "stopped") undo(); },
});

// ---- coming in ---------------------------------------------------------------------------------------------------

function logIn(error = "") {
  phase = "login";
  screens.message("Rank masks", "Log in with the token that you were given.", { login: true });
  $("#login-error").textContent = error;
}

$("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await post("/api/session", { token: $("#token").value.trim() });
    $("#token").value = "";
    await start();
  } catch (error) {
    logIn(error instanceof LoggedOut ? "This token is not known." : error.message);
  }
});

async function start() {
  phase = "start";
  try {
    progress = await get("/api/progress");
  } catch (error) {
    if (error instanceof LoggedOut) return logIn();
    screens.message("Waiting for the server", "It does not answer yet; this page tries again by itself.");
    setTimeout(start, 2000);
    return;
  }
  queue.length = 0;
  known.clear();
  current = null;
  await outbox.open(progress.annotator);
  phase = "stopped";
  await fetchMore();
}

async function enter() {
  // The token travels in the fragment, which browsers keep to themselves.
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) {
    history.replaceState(null, "", "/");
    try {
      await post("/api/session", { token });
    } catch (error) {
      return logIn(error instanceof LoggedOut ? "This token is not known." : error.message);
    }
  }
  await start();
}

setInterval(() => { if (current && document.visibilityState === "visible") post("/api/heartbeat").catch(() => {}); }, 120000);
enter();
