// Keys, buttons and dialogs, as the browser reports them, to what the page calls keys. What a key does is main.js's business.

const $ = (selector) => document.querySelector(selector);
const OURS = new Set([" ", "Tab", "Backspace", "=", "+", "-", "[", "]", "!", "'", "/"]);
const BUTTONS = { equal: "=", none: "0", flicker: "Tab", lasso: "d", mend: "m", undo: "Backspace", skip: "s", flag: "!", mode: "x" };

/** pick(pane), decide(criterion), flag(reason) come from buttons; undoStopped() from Backspace while a message is shown;
 * keys in `repeated` act again while they are held. */
export function listen(panes, { press, repeated, pick, decide, flag, undoStopped }) {
  const showHelp = () => {
    panes.stopFlicker();
    $("#help").showModal();
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const inDialog = $("dialog[open]");
    if (inDialog) {
      if (inDialog.id === "flag-dialog" && "123".includes(event.key)) inDialog.querySelectorAll("[data-flag]")[event.key - 1].click();
      if (event.key === "?") inDialog.close();
      return;
    }
    if (event.target.tagName === "INPUT") return;
    if ($("#work").hidden) {
      if (event.key === "?") showHelp();
      if (event.key === "Backspace") undoStopped();
      return;
    }
    const onButton = event.target.tagName === "BUTTON";
    // With the focus on a button the keyboard works as on any page; Shift+Tab takes it there.
    if (event.key === "Tab" && (event.shiftKey || onButton)) return;
    if (onButton && [" ", "Enter"].includes(event.key)) return;
    if (OURS.has(event.key)) event.preventDefault();
    if (event.key === "?") return showHelp();
    if (event.repeat && !(event.key in repeated)) return;
    press(event.key);
  });
  addEventListener("keyup", (event) => { if (event.key === " ") panes.hide(false); });
  addEventListener("blur", () => panes.hide(false));

  document.querySelectorAll("[data-do]").forEach((button) => {
    if (button.dataset.do === "hide") {
      button.addEventListener("pointerdown", () => panes.hide(true));
      for (const end of ["pointerup", "pointerleave"]) button.addEventListener(end, () => panes.hide(false));
    } else {
      onClick(button, () => press(BUTTONS[button.dataset.do]));
    }
  });
  document.querySelectorAll(".pick").forEach((button, pane) => onClick(button, () => pick(pane)));
  document.querySelectorAll("[data-criterion]").forEach((button) => onClick(button, () => decide(button.dataset.criterion)));
  document.querySelectorAll("[data-flag]").forEach((button) => button.addEventListener("click", () => {
    $("#flag-dialog").close();
    flag(button.dataset.flag);
  }));
  $("#help-button").addEventListener("click", showHelp);
  $("#help-close").addEventListener("click", () => $("#help").close());
  $("#help").addEventListener("close", () => { if (!$("#work").hidden) $("#work").focus(); });
}

function onClick(button, act) {
  button.addEventListener("click", () => {
    act();
    // A mouse click must not leave the focus on the button, where Space would press it again.
    if (!button.matches(":focus-visible")) $("#work").focus();
  });
}
