// What every page has: light and dark, kept for the next page.
"use strict";
const root = document.documentElement;
const themeButton = document.getElementById("theme");
const keep = (name, value) => { try { sessionStorage.setItem(name, value); } catch (error) { console.warn("nothing is kept:", error.message); } };
const kept = (name) => { try { return sessionStorage.getItem(name); } catch (error) { return null; } };
if (kept("theme")) root.dataset.theme = kept("theme");
themeButton.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  keep("theme", root.dataset.theme);
});
