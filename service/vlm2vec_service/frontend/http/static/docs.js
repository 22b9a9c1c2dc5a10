// The API as openapi.json describes it, with a form to try each call.

import { ask, keepKey, make, tell } from "./api.js";

const MOST_SHOWN = 20000;
let schemas = {};

const resolved = (schema) => (
  schema.$ref ? resolved(schemas[schema.$ref.split("/").pop()]) : schema);
// What a schema may be, null left out.
const kinds = (schema) => (resolved(schema).anyOf ?? [schema]).map(resolved)
  .filter(({ type }) => type !== "null");

function typeName(schema) {
  const names = kinds(schema).map((kind) => {
    if (kind.anyOf) return typeName(kind);
    if (kind.enum) return kind.enum.map((value) => JSON.stringify(value)).join(" or ");
    if ("const" in kind) return JSON.stringify(kind.const);
    if (kind.type === "array") return `list of ${typeName(kind.items ?? {})}`;
    return kind.type ?? "anything";
  });
  return [...new Set(names)].join(" or ");
}

// The objects that a schema may be, or be lists of; each once.
function objects(schema) {
  const found = kinds(schema).flatMap((kind) => {
    if (kind.properties) return [kind];
    return kind.anyOf || kind.items ? objects(kind.items ?? kind) : [];
  });
  return [...new Map(found.map((one) => [JSON.stringify(one), one])).values()];
}

function fields(object) {
  const rows = Object.entries(object.properties).map(([name, schema]) => {
    const needed = object.required?.includes(name) ? " (needed)" : "";
    const inner = objects(schema).map((item) => make("details", {},
      make("summary", {}, `object of ${Object.keys(item.properties).join(", ")}`), fields(item)));
    return row(name, typeName(schema) + needed, schema.description, ...inner);
  });
  return table(rows);
}

function row(name, type, text = "", ...more) {
  return make("tr", {}, make("th", { scope: "row" }, make("code", {}, name)),
    make("td", { className: "soft" }, type), make("td", {}, text, ...more));
}

function table(rows) {
  return make("table", { className: "fields" }, make("tbody", {}, ...rows));
}

// A body to begin with: the schema's own example, or what is needed.
function example(schema) {
  if (schema.examples) return schema.examples[0];
  return Object.fromEntries((schema.required ?? []).map((name) => [name, ""]));
}

function labelled(text, field) {
  return make("label", {}, `${text} `, field);
}

function tryForm(method, path, parameters, body) {
  const inputs = parameters.map((parameter) => (
    [parameter, make("input", { required: parameter.required })]));
  const text = body && make("textarea", { rows: 8, spellcheck: false,
    value: JSON.stringify(example(body), null, 2) });
  const shown = make("pre", { hidden: true, tabIndex: 0 });
  shown.setAttribute("aria-live", "polite");
  const form = make("form", { className: "call" },
    ...inputs.map(([{ name }, input]) => labelled(name, input)),
    text && labelled("Body", text), make("button", {}, "Send"), shown);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    tell(shown, "…");
    tell(shown, await send(method, path, inputs, text));
  });
  return form;
}

// The answer to a call as text, whatever it is.
async function send(method, path, inputs, text) {
  let target = path;
  const query = new URLSearchParams();
  for (const [{ name, in: place }, input] of inputs) {
    if (place === "path") target = target.replace(`{${name}}`, encodeURIComponent(input.value));
    else if (input.value) query.set(name, input.value);
  }
  if (query.size) target += `?${query}`;
  const options = text && { body: text.value, headers: { "content-type": "application/json" } };
  try {
    const answer = await ask(target.slice(1), { method, ...options });
    return `${answer.status}\n${pretty(await answer.text()).slice(0, MOST_SHOWN)}`;
  } catch (error) {
    return `${error.status ?? "not reached"}\n${error.message}`;
  }
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function operation(path, method, described) {
  const { summary, description, parameters = [], requestBody, responses } = described;
  const content = requestBody?.content["application/json"];
  const body = content && resolved(content.schema);
  const answers = Object.entries(responses).map(([status, answer]) => {
    const schema = status === "200" && answer.content?.["application/json"]?.schema;
    return row(status, "", answer.description, ...(schema ? objects(schema).map(fields) : []));
  });
  return make("details", { className: "card" },
    make("summary", {}, make("span", { className: "method" }, method.toUpperCase()), " ",
      make("code", {}, path), ` ${summary}`),
    make("p", {}, description ?? ""),
    parameters.length ? table(parameters.map(({ name, in: place, schema, description: text }) => (
      row(name, `${typeName(schema)}, in the ${place}`, text)))) : null,
    body ? make("h3", {}, "Body") : null, body ? fields(body) : null,
    make("h3", {}, "Try it"), tryForm(method.toUpperCase(), path, parameters, body),
    make("h3", {}, "Answers"), table(answers));
}

// Draws every call, unless they are there: then the key is enough for what is written already.
async function draw() {
  const place = document.getElementById("operations");
  if (place.hasChildNodes()) return;
  try {
    const api = await (await ask("openapi.json")).json();
    schemas = api.components.schemas;
    const groups = new Map();
    for (const [path, methods] of Object.entries(api.paths)) {
      for (const [method, described] of Object.entries(methods)) {
        const tag = described.tags?.[0] ?? "more";
        groups.set(tag, [...groups.get(tag) ?? [], operation(path, method, described)]);
      }
    }
    place.replaceChildren(...[...groups].map(([tag, operations]) => (
      make("section", {}, make("h2", {}, tag), ...operations))));
    tell(document.getElementById("problem"), "");
  } catch (error) {
    const needed = error.status === 401 ? "Write a key into the field above. " : "";
    tell(document.getElementById("problem"), `${needed}The server says: ${error.message}`);
  }
}

keepKey(draw);
draw();
