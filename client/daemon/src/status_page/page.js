"use strict";
const body = document.body, home = body.dataset.home, form = body.dataset.form;
const at = (id) => document.getElementById(id);
const made = (name, text, attributes = {}) => {
  const element = document.createElement(name);
  element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const put = (element, children) => {
  const old = element.dataset.shown, shown = JSON.stringify(children.map((child) => child.textContent));
  /* What has not changed is left alone: a reader may be in the middle of it. */
  if (old !== shown) { element.replaceChildren(...children); element.dataset.shown = shown; }
};
const show = (view) => {
  body.dataset.state = view.state;
  document.title = "Mizzle: " + view.texts.state;
  for (const [id, text] of Object.entries(view.texts)) if (at(id).textContent !== text) at(id).textContent = text;
  for (const [id, outline] of Object.entries(view.paths)) at(id).setAttribute("d", outline);
  for (const button of document.querySelectorAll(".levels button")) button.setAttribute("aria-pressed", String(button.value === view.level));
  put(at("problems"), view.problems.map(([what, advice]) => {
    const item = document.createElement("li");
    item.append(made("strong", what), " " + advice);
    return item;
  }));
  put(at("rows"), view.sessions.map(([label, sessions, streams]) => {
    const row = document.createElement("tr");
    row.append(made("th", label, { scope: "row" }), made("td", sessions), made("td", streams));
    return row;
  }));
};
const look = async () => {
  try {
    const answer = await fetch(home + "status.json", { cache: "no-store" });
    if (answer.status === 403) throw new Error("The client was started anew. Open this page with: mizzle page");
    show(await answer.json());
    at("stale").textContent = "";
  } catch (error) {
    body.dataset.state = "stopped";
    at("state").textContent = "No answer";
    at("stale").textContent = error instanceof TypeError ? "The client does not answer: it was stopped, or is being started." : error.message;
  }
};
const change = async (path, fields) => {
  const answer = await fetch(home + path, { method: "POST", redirect: "manual", body: new URLSearchParams({ form, ...fields }) });
  return answer.type === "opaqueredirect" || answer.ok;
};
document.querySelector(".levels").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.submitter;
  if (!button) return;
  button.disabled = true;
  try { await change("level", { level: button.value }); } finally { button.disabled = false; button.focus(); }
  await look();
  setTimeout(look, 400);
});
at("identity").addEventListener("submit", async (event) => {
  event.preventDefault();
  let done = false;
  try { done = await change("new-identity", {}); } catch { }
  at("renewed").textContent = done ? "New connections share nothing with those before." : "That did not work: load the page again.";
});
setInterval(() => { if (!document.hidden) look(); }, 2000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
