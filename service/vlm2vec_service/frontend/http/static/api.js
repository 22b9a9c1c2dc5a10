// What both pages share: the API with the caller's key, and elements made of text alone.

const KEY = "vlm2vec.key";

// Sends a request with the key. Throws an Error that says what the server said.
export async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (!answer.ok) {
    const error = new Error(await said(answer));
    error.status = answer.status;
    throw error;
  }
  return answer;
}

async function said(answer) {
  const text = await answer.text();
  try {
    const { error } = JSON.parse(text);
    return error.message ?? error;
  } catch {
    return text || `${answer.status} ${answer.statusText}`;
  }
}

// Keeps what is written into the field of the key, for as long as the tab is open; nowhere else.
export function keepKey(changed) {
  const field = document.getElementById("key");
  field.value = sessionStorage.getItem(KEY) ?? "";
  const keep = () => {
    sessionStorage.setItem(KEY, field.value.trim());
    changed();
  };
  field.addEventListener("change", keep);
  document.getElementById("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    keep();
  });
}

// Makes an element. Children that are strings become text, never markup.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  element.append(...children.filter((child) => child != null));
  return element;
}

// Shows a text, or nothing; one that is shown already is not said again to who listens.
export function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
  element.hidden = !text;
}
