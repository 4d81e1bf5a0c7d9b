// The switches: every button posts what it says, with the token of the address that `brownout serve` printed.
"use strict";
if (location.hash.startsWith("#token=")) {
  keep("token", location.hash.slice(7));
  history.replaceState(null, "", location.pathname); // the token is not left in the address bar or the history
}
const said = document.getElementById("said");
async function ask(button) {
  const { what, action } = button.dataset, row = button.closest("tr"), boards = row ? [row.dataset.board] : [];
  const buttons = document.querySelectorAll("[data-what]");
  buttons.forEach((other) => (other.disabled = true));
  said.textContent = `${what} ${action || ""} ${boards.join(" ")} …`;
  try {
    const answer = await fetch("/control/" + what, {
      method: "POST",
      headers: { authorization: "Bearer " + (kept("token") || ""), "content-type": "application/json" },
      body: JSON.stringify(action ? { action, boards } : {}),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    for (const [name, state] of Object.entries(told.boards)) show(name, state);
    document.getElementById("rules").textContent = told.rules.join(", ") || "none";
    said.textContent = `${what} ${action || ""} ${boards.join(" ")}: done`;
  } catch (error) {
    said.textContent = error.message;
  }
  buttons.forEach((other) => (other.disabled = false));
  button.focus();
}
function show(name, { on, ...evidence }) {
  const row = [...document.querySelectorAll("[data-board]")].find((one) => one.dataset.board === name);
  if (!row) return;
  row.className = on ? "" : "off";
  const mark = document.createElement("i");
  mark.className = on ? "up" : "off";
  row.querySelector(".state").replaceChildren(mark, on ? "on" : "off");
  row.querySelector(".evidence").textContent = Object.entries(evidence).map(([key, value]) => `${key} ${value}`).join(", ");
}
for (const button of document.querySelectorAll("[data-what]")) button.addEventListener("click", () => ask(button));
