// Keys to a ranking: first the best, then the worst, and the rest follows.

export class Chooser {
  /** twins: per pane the first pane that looks the same, or itself. */
  constructor(twins) {
    this.twins = twins;
    this.groups = new Set(twins).size;
    this.criterion = null;
    this.clear();
  }

  clear() {
    this.best = null; // a pane, or "=" when two share the top
    this.worst = null; // a pane, or "=" when the rest is equal
    this.unusable = false;
  }

  isBest(pane) {
    return typeof this.best === "number" && this.twins[pane] === this.twins[this.best];
  }

  pick(pane) {
    if (this.groups === 1) return;
    if (this.best === null) {
      // Always two keys, also when only one mask is left to be worst: hands keep their rhythm, and a second key that
      // came too early would rank the next task.
      this.best = pane;
    } else if (this.isBest(pane)) {
      this.best = null; // pressed again: taken back
    } else {
      this.worst = pane;
    }
  }

  equal() {
    if (this.groups === 1) [this.best, this.worst] = ["=", "="];
    else if (this.best === null) this.best = "=";
    else this.worst = "=";
  }

  none() {
    this.unusable = true;
    this.best = this.worst = "=";
  }

  decide(criterion) {
    this.criterion = this.criterion === criterion ? null : criterion;
  }

  isComplete() {
    return this.best !== null && this.worst !== null;
  }

  /** Dense ranks by pane, 1 is best; only when complete. */
  ranking() {
    if (this.best === "=" && this.worst === "=") return [1, 1, 1];
    const raw = this.twins.map((twin, pane) => {
      if (this.isBest(pane)) return 0;
      if (typeof this.worst === "number" && twin === this.twins[this.worst]) return 2;
      return this.best === "=" ? 0 : 1;
    });
    const ranks = [...new Set(raw)].sort();
    return raw.map((value) => ranks.indexOf(value) + 1);
  }

  /** What each pane's head says: best, worst, or nothing yet. */
  words() {
    if (this.best === null) return [null, null, null];
    return this.twins.map((twin, pane) => {
      if (this.unusable) return "unusable";
      if (this.isBest(pane)) return "best";
      if (typeof this.worst === "number" && twin === this.twins[this.worst]) return "worst";
      return this.worst !== null ? "middle" : null;
    });
  }
}
