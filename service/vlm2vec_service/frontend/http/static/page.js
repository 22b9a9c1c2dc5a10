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
  const workers = make("div", { className: "tile" },
    make("span", { className: "soft" }, "Workers ready"),
    make("strong", {}, `${rates.sum("worker_up")} of ${rates.count("worker_up")}`));
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
  const cards = models.map((model) => {
    const rows = [...model.versions].sort((a, b) => b.aliases.length - a.aliases.length);
    const state = make("span", { className: `badge ${model.ready ? "good" : "bad"}` },
      model.ready ? "ready" : "not ready");
    const about = `${model.backbone}, ${model.dimension || "unknown"} dimensions`;
    return make("article", { className: "card" },
      make("header", {}, make("h3", {}, model.id), state,
        make("span", { className: "soft" }, about)),
      model.reason ? make("p", { className: "problem" }, model.reason) : null,
      make("div", { className: "wide" }, table(model, rows)));
  });
  document.getElementById("models").replaceChildren(...cards);
}

function table(model, versions) {
  const heads = ["Version", "Answers", "Inputs a second", "Tokens a second", "Space"];
  const head = make("tr", {}, ...heads.map((text, i) =>
    make("th", { scope: "col", className: i === 2 || i === 3 ? "number" : "" }, text)));
  const rows = versions.map(({ version, space, aliases }) => {
    const labels = { model: model.id, version };
    return make("tr", {}, make("th", { scope: "row" }, version),
      make("td", {}, answers(model, aliases)),
      ...["inputs_total", "tokens_total"].map((name) => {
        const wanted = name === "inputs_total" ? { ...labels, code: "OK" } : labels;
        return make("td", { className: "number" }, shown(rates.rate(name, wanted)));
      }),
      make("td", {}, make("code", { title: space }, space.slice(0, 12))));
  });
  return make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
}

// Which calls a version answers, in words.
function answers(model, aliases) {
  const share = Math.round(1000 * model.canary_share) / 10;
  const words = aliases.map((alias) => {
    if (alias === "champion") return `champion, ${100 - share} %`;
    if (alias === "canary") return `canary, ${share} %`;
    return alias;
  });
  return words.join("; ") || "who names it";
}

async function look(turn) {
  try {
    if (turn % MODELS_EVERY === 0) {
      models = (await (await ask("v1/models")).json()).data;
      offer(models);
    }
    rates.add(await (await ask("metrics")).text());
    const good = models.every((model) => model.ready);
    ready.className = `badge ${good ? "good" : "bad"}`;
    tell(ready, good ? "ready" : "not ready");
    tell(problem, "");
    drawTiles();
    drawModels();
  } catch (error) {
    ready.className = "badge bad";
    tell(ready, error.status ? "refused" : "not reached");
    const needed = error.status === 401 ? "Write a key into the field above. " : "";
    tell(problem, `${needed}The server says: ${error.message}`);
  }
}

async function keepLooking() {
  for (let turn = 0; ; turn = document.hidden ? 0 : turn + 1) {
    if (!document.hidden) await look(turn);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

keepKey(() => look(0));
keepLooking();
