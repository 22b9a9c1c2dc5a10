// What happens on the server now, from two readings of its metrics.

const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

// Reads Prometheus's text: a list of { name, labels, value }.
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (match) {
      const labels = [...(match[2] ?? "").matchAll(LABEL)].map(([, key, value]) => (
        [key, value.replaceAll(/\\(.)/g, (_, letter) => (letter === "n" ? "\n" : letter))]));
      samples.push({
        name: match[1], labels: Object.fromEntries(labels), value: Number(match[3]),
      });
    }
  }
  return samples;
}

// Two readings, and how much each counter grew a second between them.
export class Rates {
  #now = null;
  #before = null;

  add(text) {
    this.#before = this.#now;
    this.#now = { at: performance.now(), samples: parse(text) };
  }

  // The sum of the samples that have these labels, as they are now.
  sum(name, labels = {}, but = []) {
    return this.#sum(this.#now, name, labels, but);
  }

  // By how much the sum grows a second: null before there are two readings.
  rate(name, labels = {}, but = []) {
    if (!this.#before) return null;
    const grown = this.sum(name, labels, but) - this.#sum(this.#before, name, labels, but);
    // A server that was started anew counts from 0.
    return Math.max(0, grown) / ((this.#now.at - this.#before.at) / 1000);
  }

  // How many workers there are, and how many of them every process of the server finds ready.
  workers() {
    const up = new Map();
    for (const { name, labels, value } of this.#now.samples) {
      if (name !== "vlm2vec_worker_up") continue;
      const worker = `${labels.model} ${labels.worker}`;
      up.set(worker, Math.min(value, up.get(worker) ?? 1));
    }
    return { all: up.size, ready: [...up.values()].filter(Boolean).length };
  }

  #sum(reading, name, labels, but) {
    const wanted = Object.entries(labels);
    return reading.samples
      .filter((sample) => sample.name === `vlm2vec_${name}`)
      .filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value))
      .filter((sample) => !but.includes(sample.labels.code))
      .reduce((sum, sample) => sum + sample.value, 0);
  }
}
