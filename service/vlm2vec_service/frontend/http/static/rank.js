// The form: a query and candidates, ordered by the champion and by another version beside it.

import { ask, make } from "./api.js";

const form = document.getElementById("rank");
const model = document.getElementById("model");
const beside = document.getElementById("beside");
const results = document.getElementById("results");
const button = form.querySelector(".go button");
const NOBODY = "nobody";
const addresses = new WeakMap();
const choosers = []; // what shows in each place which files the model takes
let known = [];

// Offers the models and versions that there are, and keeps what was chosen.
export function offer(models) {
  known = models;
  fill(model, models.map(({ id }) => [id, id]));
  choose();
  button.disabled = !models.length;
}

const versionsOf = (name) => known.find(({ id }) => id === name)?.versions ?? [];
const hears = () => known.find(({ id }) => id === model.value)?.takes.includes("audio") ?? false;
const isSound = (file) => file.type.startsWith("audio/");
const titled = ({ version, aliases }) => (
  aliases.length ? `${aliases.join(", ")}: version ${version}` : `version ${version}`);

function choose() {
  for (const offerKinds of choosers) offerKinds();
  offerVersions();
}

function offerVersions() {
  const versions = versionsOf(model.value);
  const others = versions.filter(({ aliases }) => !aliases.includes("champion"));
  const canary = others.find(({ aliases }) => aliases.includes("canary"));
  fill(beside, [[NOBODY, "nobody"], ...others.map((one) => [one.version, titled(one)])],
    canary?.version);
}

function fill(select, options, preferred = "") {
  const wanted = [select.value, preferred];
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  const offered = wanted.find((one) => options.some(([value]) => value === one));
  select.value = offered ?? options[0]?.[0];
}

// Makes a place to choose pictures and sounds, which may be dropped anywhere around it; gives the
// list of its files.
function chooser(place) {
  const files = [];
  const list = make("ul", { className: "thumbs" });
  const input = make("input", { type: "file", multiple: true });
  const words = make("span");
  const drop = make("label", { className: "drop" }, words, input);
  const offerKinds = () => {
    words.textContent = `Drop pictures${hears() ? " or sounds" : ""}, or choose them`;
    input.accept = hears() ? "image/*,audio/*" : "image/*";
  };
  offerKinds();
  choosers.push(offerKinds);
  const draw = () => list.replaceChildren(...files.map((file, i) => {
    const remove = make("button", { type: "button" }, "×");
    remove.addEventListener("click", () => { files.splice(i, 1); draw(); });
    remove.setAttribute("aria-label", `Remove ${file.name}`);
    const shown = isSound(file) ? [make("span", { className: "soft" }, file.name), player(file)]
      : [thumb(file)];
    return make("li", { title: file.name }, ...shown, remove);
  }));
  const add = (more) => { files.push(...more); draw(); };
  input.addEventListener("change", () => { add(input.files); input.value = ""; });
  const around = place.closest("fieldset");
  around.addEventListener("dragover", (event) => {
    event.preventDefault();
    around.classList.add("over");
  });
  around.addEventListener("dragleave", () => around.classList.remove("over"));
  around.addEventListener("drop", (event) => {
    event.preventDefault();
    around.classList.remove("over");
    add(event.dataTransfer.files);
  });
  place.append(drop, list);
  return files;
}

function thumb(file) {
  const image = make("img", { src: URL.createObjectURL(file), alt: file.name });
  image.addEventListener("load", () => URL.revokeObjectURL(image.src));
  return image;
}

// A player goes on reading its file, so the file's address stays, one for all its players.
function player(file) {
  if (!addresses.has(file)) addresses.set(file, URL.createObjectURL(file));
  const audio = make("audio", { src: addresses.get(file), controls: true, preload: "metadata" });
  audio.setAttribute("aria-label", file.name);
  return audio;
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

const [queryFiles, candidateFiles] = [...form.querySelectorAll(".files")].map(chooser);
const written = (id) => document.getElementById(id).value.trim();
const kindOf = (file) => (isSound(file) ? "audio_url" : "image_url");

async function body(candidates) {
  const sound = [...queryFiles, ...candidateFiles].find(isSound);
  if (sound && !hears()) {
    throw new Error(`${model.value} takes no sounds: remove ${sound.name}, or choose another model.`);
  }
  const parts = await Promise.all(queryFiles.map(async (file) => (
    { type: kindOf(file), [kindOf(file)]: { url: await dataUri(file) } })));
  const text = written("query-text");
  if (text) parts.push({ type: "text", text });
  if (!parts.length) throw new Error("The query is empty: write a text or drop a picture.");
  if (!candidates.length) throw new Error("There are no candidates: drop pictures or write texts.");
  const documents = await Promise.all(candidates.map(async (item) => (
    typeof item === "string" ? item : { [kindOf(item)]: await dataUri(item) })));
  const given = { query: { content: parts }, documents };
  if (written("query-instruction")) given.instruction = written("query-instruction");
  const theirs = written("candidate-instruction");
  if (theirs) given.document_instruction = theirs;
  return given;
}

async function rank(reference, given) {
  const started = performance.now();
  const answer = await ask("v1/rerank", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...given, model: reference }),
  });
  return { ...await answer.json(), milliseconds: performance.now() - started };
}

// The column of one version. `first` is the champion's answer, where this is not it.
function column(answer, candidates, first) {
  const places = new Map(first?.results.map(({ index }, place) => [index, place]));
  const rows = answer.results.map(({ index, relevance_score: score }, place) => {
    const item = candidates[index];
    const bar = make("span");
    bar.style.width = `${100 * Math.max(0, score)}%`;
    const up = first ? places.get(index) - place : 0;
    const words = up > 0 ? ` ${up} up` : ` ${-up} down`;
    const moved = up ? make("span", { className: "moved" }, words) : null;
    const isText = typeof item === "string";
    const sounds = !isText && isSound(item);
    return make("li", { className: isText || sounds ? "text" : "" },
      make("span", { className: "soft" }, `${place + 1}`), isText || sounds ? null : thumb(item),
      make("div", { className: "what" }, isText ? item : item.name, moved,
        sounds ? player(item) : null,
        make("div", { className: "score" }, make("div", {}, bar), score.toFixed(4))));
  });
  const used = `${answer.usage.total_tokens} tokens, ${Math.round(answer.milliseconds)} ms`;
  const version = versionsOf(answer.model).find((one) => one.version === answer.version);
  return make("article", { className: `card ${first ? "beside" : ""}` },
    make("h3", {}, titled(version ?? { ...answer, aliases: [] })),
    make("span", { className: "soft" }, used),
    make("ol", { className: "ranking" }, ...rows));
}

async function show() {
  const texts = written("candidate-texts").split("\n").map((line) => line.trim()).filter(Boolean);
  const candidates = [...candidateFiles, ...texts];
  const given = await body(candidates);
  const first = rank(`${model.value}@champion`, given);
  if (beside.value === NOBODY) return [column(await first, candidates)];
  const second = rank(`${model.value}@${beside.value}`, given);
  const answers = await Promise.all([first, second]);
  return [column(answers[0], candidates), column(answers[1], candidates, answers[0])];
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  button.disabled = true;
  try {
    results.replaceChildren(...await show());
  } catch (error) {
    const problem = make("p", { className: "problem" }, error.message);
    problem.setAttribute("role", "alert");
    results.replaceChildren(problem);
  } finally {
    button.disabled = false;
  }
});
model.addEventListener("change", choose);
