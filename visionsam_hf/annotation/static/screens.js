// Everything on the page that is not a picture: the question, verdicts, progress, messages. Text only, never markup.

const $ = (selector) => document.querySelector(selector);
export const CRITERIA = ["coverage", "boundary", "over_under", "noise"];
const NAMES = { coverage: "coverage", boundary: "boundary", over_under: "over/under", noise: "noise" };

export function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** The question at the foot; parts are strings, or ["key", "1"] and ["quiet", "..."]. */
export function ask(...parts) {
  $("#ask").replaceChildren(...parts.map((part) => {
    if (typeof part === "string") return element("span", part);
    return part[0] === "key" ? element("kbd", part[1]) : element("span", part[1], "quiet");
  }));
}

export function question(chooser) {
  const keys = [["key", "1"], ["key", "2"], ["key", "3"]];
  if (chooser.groups === 1) return ask("All three are nearly identical", ["key", "="], "goes on");
  if (chooser.best === null) return ask("Which mask is best?", ...keys);
  if (chooser.best === "=") return ask("Two share the top. Which is worst?", ...keys, ["quiet", "or = again: all are equal"]);
  return ask(`${chooser.best + 1} is best. Which is worst?`, ...keys.filter((_, pane) => !chooser.isBest(pane)), ["quiet", "or = the others are equal"]);
}

/** What the keys do while a mask is mended. */
export function mending({ tool, radius, problem }) {
  const words = {
    click: ["Click what is missing, Shift+click what is too much"],
    brush: [`Brush of ${radius} pixels, with Shift it takes away`, ["key", "["], ["key", "]"], "size"],
    box: ["Drag a new box"],
  };
  ask(...(problem ? [problem] : words[tool]), ["key", "B"], "brush", ["key", "R"], "new box", ["key", "⌫"], "undo", ["key", "Enter"], "keep", ["key", "Esc"], "as it was");
}

const PLACES = { best: "best", worst: "worst", middle: "middle", equal: "equal" };

export function verdicts(words, twins) {
  document.querySelectorAll(".pane").forEach((pane, index) => {
    const word = words[index];
    pane.dataset.verdict = word || "";
    pane.querySelector(".verdict").textContent = word ? PLACES[word] || word : "";
    const twin = twins.findIndex((other, place) => place !== index && other === twins[index]);
    pane.querySelector(".twin")?.remove();
    if (twin >= 0) pane.querySelector(".pick").append(element("span", `≈ ${twin + 1}`, "twin"));
    pane.querySelector("canvas").setAttribute("aria-label", `Mask ${index + 1} of 3${word ? `, ${word}` : ""}`);
    pane.querySelector(".pick").setAttribute("aria-label", `Mask ${index + 1}${word ? `, ${word}` : ""}${twin >= 0 ? `, nearly identical to mask ${twin + 1}` : ""}`);
  });
}

export function criterion(chosen) {
  document.querySelectorAll("[data-criterion]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.criterion === chosen));
  });
}

export function display(panes) {
  $("#mode").textContent = panes.mode;
  $("#opacity").textContent = `${Math.round(panes.opacity * 100)}%`;
}

export function progress(state, isCalibrating) {
  const { done, wanted, mine, median_seconds: median, calibration } = state;
  $("#who").textContent = state.annotator;
  $("#phase").hidden = !isCalibrating;
  $("#phase").textContent = "Practice";
  const [value, max] = isCalibrating ? [calibration.done, calibration.tasks] : [done, wanted];
  $("#bar").value = max ? value / max : 0;
  $("#progress").textContent = isCalibrating ? `${value} of ${max}` : `${mine} by you, ${done} of ${wanted} in all`;
  $("#median").textContent = median === null ? "–" : `${median.toFixed(1)} s a task`;
}

export function saved(waiting, refused, failed) {
  const place = $("#saved");
  place.className = `saved ${refused ? "refused" : waiting && failed ? "waiting" : ""}`;
  place.textContent = waiting ? `${waiting} queued` : refused ? `${refused} refused` : "saved";
  place.title = failed && waiting ? `Kept in this browser until the server answers (${failed}).` : "";
}

export function message(title, text, { button = "", onPress = null, login = false } = {}) {
  $("#work").hidden = $("#footer").hidden = true;
  $("#message").hidden = false;
  $("#category").textContent = "";
  $("#message-title").textContent = title;
  $("#message-text").textContent = text;
  $("#login").hidden = !login;
  const press = $("#message-button");
  press.hidden = !button;
  press.textContent = button;
  press.onclick = onPress;
  if (button) press.focus();
  if (login) $("#token").focus();
}

export function work(task) {
  $("#message").hidden = true;
  $("#work").hidden = $("#footer").hidden = false;
  $("#category").textContent = task.category;
  document.querySelectorAll(".mendable").forEach((place) => { place.hidden = !task.mendable; });
}

/** Numbers and places under each pane after a practice task. */
export function feedback(given) {
  document.querySelectorAll(".pane").forEach((pane, index) => {
    const list = element("dl", "", "numbers");
    for (const name of CRITERIA) list.append(element("dt", NAMES[name]), element("dd", given.numbers[index][name].toFixed(2)));
    list.append(element("dt", "overall", "mean"), element("dd", given.numbers[index].worth.toFixed(2), "mean"));
    pane.querySelector(".under").replaceChildren(list);
    const places = given.yours ? `you: ${given.yours[index]} · ` : "";
    pane.querySelector(".verdict").textContent = `${places}by the truth: ${given.truth[index]}`;
    pane.dataset.verdict = given.truth[index] === 1 ? "best" : "";
  });
  const same = given.yours && given.yours.every((rank, index) => rank === given.truth[index]);
  ask(same ? "Just as the truth has it." : "The truth ranks them differently.", ["key", "Space"], "next",
    ["quiet", "blue: missed · orange: extra · white: the true edge"]);
}

/** Dots from 1 to 5 for each mask and criterion; `now` is the number of the one that the next key fills. */
export function ratings(values, now) {
  document.querySelectorAll(".pane").forEach((pane, index) => {
    const grid = element("div", "", "ratings");
    CRITERIA.forEach((name, row) => {
      const place = index * CRITERIA.length + row;
      const dots = element("span", "", "dots");
      for (let mark = 1; mark <= 5; mark++) dots.append(element("i", String(mark), values[place] >= mark ? "on" : ""));
      dots.setAttribute("role", "img");
      dots.setAttribute("aria-label", `${NAMES[name]}: ${values[place] || "not rated"}`);
      grid.append(element("span", NAMES[name], place === now ? "now" : ""), dots);
    });
    pane.querySelector(".under").replaceChildren(grid);
  });
  const pane = Math.floor(now / CRITERIA.length) + 1;
  ask(`Mask ${pane}: ${NAMES[CRITERIA[now % CRITERIA.length]]}?`, ["key", "1"], "poor to", ["key", "5"], "perfect");
}

export function clearUnder() {
  document.querySelectorAll(".under").forEach((place) => place.replaceChildren());
}
