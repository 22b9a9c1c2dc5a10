// What is served and what happens now; asked again and again while somebody looks.

import { ask, keepKey, make, tell } from "./api.js";
import { offer } from "./rank.js";
import { Rates } from "./rates.js";

const EVERY_MS = 2000;
const MODELS_EVERY = 3; // readings of the metrics
const POINTS = 60;

const rates = new Rates();
const problem = document.getElementById("problem");
const ready = document.getElementById("ready");
let models = [];
let counted = []; // what writes the rates into the cells of the models

const TILES = [
  ["Inputs a second", () => rates.rate("inputs_total", { code: "OK" })],
  ["Tokens a second", () => rates.rate("tokens_total")],
  ["Failed a second", () => {
    const failed = rates.rate("inputs_total", {}, ["OK", "CANCELLED"]);
    return failed === null ? null : failed + rates.rate("queue_refused_total");
  }],
  ["Inputs that wait", () => rates.sum("queue_requests")],
].map(([title, value]) => ({ title, value, points: [] }));

function drawTiles() {
  const tiles = TILES.map(({ title, value, points }) => {
    const now = value();
    if (now !== null) points.push(now);
    if (points.length > POINTS) points.shift();
    return make("div", { className: "tile" }, make("span", { className: "soft" }, title),
      make("strong", {}, shown(now)), line(points));
  });
  const { all, ready: up } = rates.workers();
  const workers = make("div", { className: "tile" },
    make("span", { className: "soft" }, "Workers ready"), make("strong", {}, `${up} of ${all}`));
  document.getElementById("tiles").replaceChildren(...tiles, workers);
}

function shown(number) {
  if (number === null) return "…";
  return number.toLocaleString("en", { maximumFractionDigits: number < 100 ? 1 : 0 });
}

function line(points) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  const most = Math.max(...points, 1e-9);
  const first = POINTS - points.length;
  const places = points.map((value, i) => `${first + i},${19 - (18 * value) / most}`);
  svg.setAttribute("viewBox", `0 0 ${POINTS - 1} 20`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  drawn.setAttribute("points", places.join(" "));
  svg.append(drawn);
  return svg;
}

function drawModels() {
  counted = [];
  const cards = models.map((model) => {
    const state = make("span", { className: `badge ${model.ready ? "good" : "bad"}` },
      model.ready ? "ready" : "not ready");
    const about = `${model.backbone}, ${model.dimension || "unknown"} dimensions`;
    return make("article", { className: "card" },
      make("header", {}, make("h3", {}, model.id), state,
        make("span", { className: "soft" }, about)),
      model.reason ? make("p", { className: "problem" }, model.reason) : null,
      make("div", { className: "wide" }, table(model)));
  });
  document.getElementById("models").replaceChildren(...cards);
}

function table(model) {
  const heads = ["Version", "Answers", "Inputs a second", "Tokens a second", "Space"];
  const head = make("tr", {}, ...heads.map((text, i) =>
    make("th", { scope: "col", className: i === 2 || i === 3 ? "number" : "" }, text)));
  const versions = [...model.versions].sort((a, b) => b.aliases.length - a.aliases.length);
  const rows = versions.map(({ version, space, aliases }) => {
    const labels = { model: model.id, version };
    return make("tr", {}, make("th", { scope: "row" }, version),
      make("td", {}, answers(model, aliases)),
      rateCell("inputs_total", { ...labels, code: "OK" }), rateCell("tokens_total", labels),
      make("td", {}, make("code", { className: "space", title: space }, space)));
  });
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

function rateCell(name, labels) {
  const cell = make("td", { className: "number" });
  counted.push(() => { cell.textContent = shown(rates.rate(name, labels)); });
  return cell;
}

// Which calls a version answers, in words.
function answers(model, aliases) {
  const share = Math.round(1000 * model.canary_share) / 10;
  const words = aliases.map((alias) => {
    if (alias === "champion") return `champion, ${100 - share}\u00a0%`;
    if (alias === "canary") return `canary, ${share}\u00a0%`;
    return alias;
  });
  return words.join("; ") || "who names it";
}

async function look(turn) {
  try {
    if (turn % MODELS_EVERY === 0) await lookAtModels();
    rates.add(await (await ask("metrics")).text());
    drawTiles();
    for (const write of counted) write();
    tell(problem, "");
  } catch (error) {
    if (!error.status) showReady(false, "not reached");
    const needed = error.status === 401 ? "Write a key into the field above. " : "";
    tell(problem, `${needed}The server says: ${error.message}`);
  }
}

async function lookAtModels() {
  const found = (await (await ask("v1/models")).json()).data;
  const good = found.every((model) => model.ready);
  showReady(good, good ? "ready" : "not ready");
  // What is drawn anew loses what somebody has selected in it.
  if (JSON.stringify(found) === JSON.stringify(models)) return;
  models = found;
  offer(models);
  drawModels();
}

function showReady(good, text) {
  ready.className = `badge ${good ? "good" : "bad"}`;
  tell(ready, text);
}

async function keepLooking() {
  for (let turn = 0; ; turn = document.hidden ? 0 : turn + 1) {
    if (!document.hidden) await look(turn);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

keepKey(() => look(0));
keepLooking();
