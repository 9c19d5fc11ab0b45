// Answers wait here, on the browser's disk, until the server has said that it has them. Sent in the order given.

import { post, LoggedOut, Offline } from "/static/network.js";

const BATCH = 50;
// Characters a request: the server takes 256 KiB, and a corrected mask is up to 60,000 of them.
const LARGEST = 180000;

export class Outbox {
  /** onChange(waiting, refused) after every change; onReply(reply) with the server's answer to a batch. */
  constructor({ onChange, onReply, onLoggedOut }) {
    this.onChange = onChange;
    this.onReply = onReply;
    this.onLoggedOut = onLoggedOut;
    this.entries = [];
    this.refused = 0;
    this.wait = 500;
    this.sending = null;
    this.timer = null;
    addEventListener("online", () => this.flush());
  }

  /** Read what an earlier visit of this annotator left. */
  async open(annotator) {
    this.database = await openDatabase();
    this.annotator = annotator;
    const all = await request(this.database.transaction("outbox").objectStore("outbox").getAll());
    this.entries = all.filter((entry) => entry.annotator === annotator);
    const bad = await request(this.database.transaction("refused").objectStore("refused").getAll());
    this.refused = bad.filter((entry) => entry.annotator === annotator).length;
    this.report();
  }

  /** Keep an answer; resolves when it is on the disk. Sending starts by itself. */
  async add(event) {
    const entry = { annotator: this.annotator, event };
    this.entries.push(entry);
    this.report();
    const transaction = this.database.transaction("outbox", "readwrite", { durability: "strict" });
    const stored = request(transaction.objectStore("outbox").add(entry)).then((key) => { entry.key = key; });
    entry.stored = stored;
    await stored;
    this.flush();
  }

  /** Tasks whose last word is still waiting here: id -> kind. */
  pending() {
    return new Map(this.entries.map((entry) => [entry.event.assignment, entry.event.kind]));
  }

  report() {
    this.onChange(this.entries.length, this.refused);
  }

  /** Send what waits; resolves when nothing does, or when the network fails (then it tries again by itself). */
  flush() {
    if (!this.sending) {
      clearTimeout(this.timer);
      this.sending = this.send().finally(() => { this.sending = null; });
    }
    return this.sending;
  }

  async send() {
    while (this.entries.length) {
      const batch = this.batch();
      try {
        await Promise.all(batch.map((entry) => entry.stored));
        const reply = await post("/api/events", { events: batch.map((entry) => entry.event) });
        await this.settle(batch, reply.results);
        this.wait = 500;
        this.onReply(reply);
      } catch (error) {
        if (error instanceof LoggedOut) this.onLoggedOut();
        this.failed = error instanceof Offline ? "offline" : error.message;
        this.report();
        this.timer = setTimeout(() => this.flush(), this.wait);
        this.wait = Math.min(this.wait * 2, 15000);
        return;
      }
    }
    this.failed = null;
    this.report();
  }

  /** The first entries that go into one request; at least one. */
  batch() {
    let [count, size] = [0, 0];
    while (count < Math.min(this.entries.length, BATCH)) {
      size += JSON.stringify(this.entries[count].event).length;
      if (count && size > LARGEST) break;
      count++;
    }
    return this.entries.slice(0, count);
  }

  async settle(batch, results) {
    const transaction = this.database.transaction(["outbox", "refused"], "readwrite", { durability: "strict" });
    batch.forEach((entry, index) => {
      transaction.objectStore("outbox").delete(entry.key);
      if (!results[index].ok) {
        // Never thrown away: somebody may want to know what it was.
        transaction.objectStore("refused").add({ annotator: entry.annotator, event: entry.event, reason: results[index].reason });
        this.refused += 1;
      }
    });
    await new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onerror = () => reject(transaction.error);
    });
    this.entries.splice(0, batch.length);
    this.report();
  }
}

function openDatabase() {
  const opening = indexedDB.open("visionsam-annotate", 1);
  opening.onupgradeneeded = () => {
    for (const name of ["outbox", "refused"]) opening.result.createObjectStore(name, { keyPath: "key", autoIncrement: true });
  };
  return request(opening);
}

function request(wish) {
  return new Promise((resolve, reject) => {
    wish.onsuccess = () => resolve(wish.result);
    wish.onerror = () => reject(wish.error);
  });
}
