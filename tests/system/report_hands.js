// What a person does with the diagram of a report, by buttons and keys, inside the page. Each answer goes into
// an attribute of the body, where the dump of the page shows it.
const failures = [], told = [];
addEventListener("error", (event) => failures.push(event.message));
addEventListener("unhandledrejection", (event) => failures.push(String(event.reason)));
addEventListener("load", async () => {
  const root = document.getElementById("diagram"), canvas = root.querySelector("canvas");
  while (!root.dataset.ready) await new Promise((done) => setTimeout(done, 20));
  const see = (name) => told.push(name + "=" + [root.dataset.shown, root.dataset.links, root.dataset.view.replace(" ", "-")].join("/"));
  const inks = () => new Set(new Uint32Array(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size;
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
  const set = (name, change) => { const input = root.querySelector(name); change(input); input.dispatchEvent(new Event("input")); };
  told.push("inks=" + inks()); see("all");
  root.querySelector("[data-act='+']").click(); see("zoomed");
  press("0"); set("[value=rumours]", (box) => (box.checked = false)); see("filtered");
  set("[name=boards]", (box) => (box.value = "b1, b4")); see("two");
  set("[name=boards]", (box) => (box.value = "")); press("e"); see("evidence");
  told.push("proofs=" + root.querySelectorAll("tr.proof").length, "copy=" + root.querySelector("[data-copy]").dataset.copy.split(" ").slice(-4).join("_"));
  press("n"); told.push("said=" + root.querySelector("output").textContent.split(":")[0].replaceAll(" ", "_"));
  for (const button of document.querySelectorAll(".save button")) button.click();
  const figures = [...document.querySelectorAll("figure")].filter((figure) => figure.querySelector(".save"));
  while (figures.some((figure) => !(figure.dataset.saved || "").includes(".png"))) await new Promise((done) => setTimeout(done, 20));
  told.push("saved=" + figures.map((figure) => figure.dataset.saved.replace(" ", ":")).join(","), "failures=" + failures.join(";").replaceAll(" ", "_"));
  document.body.dataset.told = told.join(" ");
});
