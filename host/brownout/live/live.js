// One run as it happens: takes a snapshot and what changes by server-sent events, and draws once a frame.
"use strict";
const main = document.querySelector("main");
const seen = (id) => document.getElementById(id);
let picture = null, drawing = false, paused = false, arrived = [], over = false, source = null;
const dirty = new Set();
const PARTS = ["run", "totals", "boards", "links", "heights", "faults", "conflicts", "curves", "lines"];
const CURVES_EVERY_MS = 400; // the costliest to draw, and told by the second
let curvesDrawn = 0;

// Small tools.
function cell(row, text, style, title) {
  const made = document.createElement("td");
  if (text instanceof Node) made.append(text); else made.textContent = text === null || text === undefined ? "–" : text;
  if (style) made.className = style;
  if (title) made.title = title;
  row.append(made);
  return made;
}
const seconds = (ns) => ns === null || ns === undefined ? "–" : (ns / 1e9).toFixed(3) + " s";
const natural = (a, b) => a.localeCompare(b, "en", { numeric: true });
const names = () => Object.keys(picture.boards).sort(natural);
const inForce = () => Object.values(picture.faults).filter((fault) => ["applied", "proven", "unproven"].includes(fault.stage));
function fill(id, rows, empty) {
  const body = seen(id).querySelector("tbody");
  if (!rows.length) {
    const row = document.createElement("tr");
    cell(row, empty, "rest").colSpan = seen(id).querySelectorAll("thead th").length;
    rows = [row];
  }
  body.replaceChildren(...rows);
}

// What comes.
function take(change, whole) {
  if (whole) picture = { ...change, curves: new Map() };
  for (const [name, value] of Object.entries(change)) {
    if (name === "curves") for (const point of value) picture.curves.set(point.second, point);
    else if (whole) continue;
    else if (name === "boards" || name === "faults") Object.assign(picture[name], value);
    else if (name === "lines") picture.lines = picture.lines.concat(value).slice(-200);
    else picture[name] = value;
  }
  for (const name of whole ? PARTS : Object.keys(change)) dirty.add(name);
  if (dirty.has("faults") || dirty.has("boards") || dirty.has("curves")) dirty.add("totals");
  if (dirty.has("faults")) { dirty.add("curves"); dirty.add("links"); }
  if (change.newest && change.newest.received_unix_ms && !whole) arrived.push(change.newest);
  schedule();
}
function schedule() {
  if (drawing || paused || !picture) return;
  drawing = true;
  // A hidden page gets no frames; it is drawn by a timer then, so that it is right when it is looked at.
  if (document.hidden) setTimeout(draw, 500); else requestAnimationFrame(draw);
}
function draw() {
  drawing = false;
  const early = dirty.has("curves") && performance.now() - curvesDrawn < CURVES_EVERY_MS;
  if (early) { dirty.delete("curves"); setTimeout(() => { dirty.add("curves"); schedule(); }, CURVES_EVERY_MS); }
  else if (dirty.has("curves")) curvesDrawn = performance.now();
  for (const name of PARTS) if (dirty.has(name)) drawers[name]();
  dirty.clear();
  // The delay is taken after the drawing, from the time at which the host had the event.
  for (const event of arrived) {
    const delay = Math.max(0, Date.now() - event.received_unix_ms);
    main.dataset.delay = delay.toFixed(0);
    main.dataset.late = Number(main.dataset.late || 0) + (delay > 1000 ? 1 : 0);
    main.dataset.worst = Math.max(delay, Number(main.dataset.worst || 0)).toFixed(0);
    main.dataset.drawn = `${event.board}/${event.boot}/${event.sequence}`;
    seen("delay").textContent = `${event.board} ${event.kind}: drawn ${delay.toFixed(0)} ms after the host had it; the longest so far ${main.dataset.worst} ms`;
  }
  arrived = [];
  main.dataset.ready = "1";
}

// What is drawn.
const drawers = {
  run() {
    const { run } = picture, state = run.verdict || (run.state === "running" || run.state === "starting" || run.state === "judging" ? "going" : "ended");
    seen("state").className = "verdict " + state;
    seen("verdict").textContent = run.verdict || run.state;
    const broken = run.checks.filter((check) => check.verdict !== "valid");
    seen("summary").textContent = run.verdict
      ? broken.length ? broken.map((check) => `${check.name}: ${check.detail}`).join("\n") : `all ${run.checks.length} checks are valid`
      : run.reason ? run.reason : { starting: "the boards are being flashed and started", running: "faults and load are at work", judging: "the checkers read the record", abandoned: "its host is gone; brownout heal puts the rig right", interrupted: "stopped before its end", ended: "" }[run.state];
    seen("title").textContent = `Brownout: ${run.campaign || "run"}, seed ${run.seed ?? "–"}, on the ${run.rung || "–"} rung`;
    document.title = `${run.verdict || run.state}: ${run.campaign || "run"}, seed ${run.seed ?? ""}`;
    seen("name").textContent = run.name;
    const report = seen("report");
    if (report) { report.hidden = !run.verdict; report.href = `/run/${encodeURIComponent(run.name)}/report`; }
  },
  totals() {
    const { totals } = picture, boards = Object.values(picture.boards);
    const up = boards.filter((board) => board.state === "up").length;
    const points = [...picture.curves.values()].sort((a, b) => a.second - b.second);
    const rate = points.slice(-6, -1).reduce((sum, point) => sum + point.decisions, 0) / Math.max(1, points.slice(-6, -1).length);
    const different = Object.values(picture.digests || {}).reduce((most, told) => Math.max(most, new Set(Object.values(told)).size), 0);
    const figure = (id, text, alarm) => { seen(id).querySelector("b").textContent = text; seen(id).className = alarm || ""; };
    figure("f-up", `${up} of ${boards.length}`, up < boards.length ? "warn" : "");
    figure("f-height", Math.max(0, ...boards.map((board) => board.height || 0)));
    figure("f-rate", rate.toFixed(1));
    figure("f-digests", different || "–", different > 1 ? "warn" : "");
    figure("f-faults", inForce().length, inForce().length ? "warn" : "");
    figure("f-conflicts", totals.conflicts, totals.conflicts ? "alarm" : "");
    figure("f-events", totals.received);
    figure("f-missing", totals.missing + totals.lost, totals.lost ? "alarm" : totals.missing ? "warn" : "");
    seen("operations").textContent = `${totals.operations} operations asked, ${totals.ok} done, ${totals.fail} refused, ${totals.info} without an answer.`;
  },
  boards() {
    const proposer = picture.heights.length ? picture.heights[0].proposer : null;
    fill("boards", names().map((name) => {
      const board = picture.boards[name], row = document.createElement("tr");
      row.className = board.state === "off" ? "off" : "";
      row.dataset.board = name;
      row.dataset.state = board.state;
      row.dataset.events = board.events;
      cell(row, name, "tight");
      const mark = document.createElement("i");
      mark.className = board.state === "not heard" ? "unheard" : board.state;
      cell(row, mark, "state").append(board.state === "off" ? "no power" : board.state);
      cell(row, board.boot, "number");
      cell(row, board.role + (name === proposer ? ", proposed last" : ""), "tight");
      cell(row, board.height, "number");
      cell(row, Object.entries(board.digests).map(([protocol, digest]) => `${protocol} ${digest.slice(0, 6)}`).join(", ") || null, "mono tight");
      cell(row, board.events, "number");
      cell(row, board.last ? `${board.last}, ${seconds(board.last_ns)}` : null, "tight");
      cell(row, board.note || "", "rest");
      return row;
    }), "No board has been heard yet.");
  },
  links() {
    const table = seen("matrix"), pairs = new Map();
    for (const link of picture.links) pairs.set(link.from + ">" + link.to, [...(pairs.get(link.from + ">" + link.to) || []), link]);
    const ends = [...names(), "host"];
    const others = inForce().filter((fault) => ["link", "message", "broker"].includes(fault.group) && !picture.links.some((link) => link.fault === fault.id));
    seen("no-links").hidden = pairs.size > 0 || others.length > 0;
    const text = [...new Map(picture.links.map((link) => [link.fault, link])).keys()].map((id) => {
      const of = picture.links.filter((link) => link.fault === id), fault = picture.faults[id];
      return `${id} ${fault.kind} (${of[0].action}${of[0].amount === null ? "" : " " + of[0].amount}): ${of.length} directed pairs`;
    });
    for (const fault of others) text.push(`${fault.id} ${fault.kind}${fault.boards.length ? " of " + fault.boards.join(", ") : ""}`);
    seen("links-said").textContent = text.join("; ");
    table.hidden = ends.length > 21 || !pairs.size;
    if (table.hidden) { table.replaceChildren(); return; }
    const head = document.createElement("tr");
    for (const name of ["to", ...ends]) { const th = document.createElement("th"); th.scope = "col"; th.textContent = name; head.append(th); }
    const rows = ends.map((from) => {
      const row = document.createElement("tr"), th = document.createElement("th");
      th.scope = "row"; th.textContent = from; row.append(th);
      for (const to of ends) {
        const found = pairs.get(from + ">" + to) || [], cut = found.some((link) => link.action === "drop" && !link.only);
        cell(row, from === to ? "" : cut ? "×" : found.length ? "~" : "", from === to ? "self" : cut ? "cut" : found.length ? "bent" : "", found.map((link) => `${from} to ${to}: ${link.action} by ${link.fault}`).join("; "));
      }
      return row;
    });
    table.replaceChildren(head, ...rows);
  },
  heights() {
    const voters = names().filter((name) => !picture.boards[name].role.startsWith("learner"));
    const marks = (told, what) => {
      const group = document.createElement("span"), values = Object.values(told);
      group.className = "votes";
      const most = values.slice().sort((a, b) => values.filter((v) => v === b).length - values.filter((v) => v === a).length)[0];
      for (const name of voters.slice(0, 15)) {
        const mark = document.createElement("i");
        mark.className = name in told ? (told[name] === most ? "on" : "other") : "";
        mark.title = `${name}: ${told[name] || "none"}`;
        group.append(mark);
      }
      group.append(` ${values.length}`);
      group.setAttribute("role", "img");
      group.setAttribute("aria-label", `${what} of ${Object.keys(told).sort(natural).join(", ") || "nobody"}`);
      return group;
    };
    fill("votes", picture.heights.map((height) => {
      const row = document.createElement("tr"), values = new Set(Object.values(height.decided));
      row.className = values.size > 1 ? "conflict" : "";
      row.dataset.height = height.height;
      cell(row, height.height, "number");
      cell(row, height.round, "number");
      cell(row, height.proposer, "tight");
      cell(row, (height.value || "").slice(0, 8) || null, "mono");
      cell(row, marks(height.prevotes, "prevotes"));
      cell(row, marks(height.precommits, "precommits"));
      cell(row, marks(height.decided, "decided"));
      cell(row, values.size > 1 ? "decided differently" : height.took_ms === null ? null : height.took_ms + " ms", "tight", [...values].join(", "));
      return row;
    }), "Nothing has been proposed yet.");
  },
  faults() {
    const order = ["id"], faults = Object.values(picture.faults).sort((a, b) => natural(a[order[0]], b[order[0]]));
    fill("faults", faults.map((fault) => {
      const row = document.createElement("tr");
      row.dataset.fault = fault.id;
      cell(row, fault.id);
      cell(row, fault.kind + (fault.support ? ", " + fault.support : ""), "tight");
      cell(row, fault.boards && fault.boards.length ? fault.boards.join(", ") : fault.select || "–");
      cell(row, fault.stage, "stage " + fault.stage.replace(" ", "-"));
      cell(row, fault.planned_ns === undefined ? `${fault.planned_s} s after the start` : seconds(fault.planned_ns), "number tight");
      for (const stage of ["applied", "proven", "healed"]) cell(row, seconds(fault.times[stage]), "number tight");
      return row;
    }), "No fault is planned.");
  },
  conflicts() {
    seen("conflicting").hidden = !picture.conflicts.length;
    fill("conflicts", picture.conflicts.map((conflict) => {
      const row = document.createElement("tr");
      cell(row, seconds(conflict.at_ns), "number tight");
      cell(row, conflict.who, "tight");
      cell(row, conflict.text);
      return row;
    }), "");
  },
  curves() {
    const points = [...picture.curves.values()].sort((a, b) => a.second - b.second);
    while (points.length > 1800) picture.curves.delete(points.shift().second);
    const now = points.length ? points.at(-1).second : 0;
    const power = ["cut", "cycle", "blackout", "power_flap", "cut_mid_write", "reset", "trap"];
    const shades = Object.values(picture.faults).filter((fault) => fault.times.applied !== undefined).map((fault) => ({
      from: fault.times.applied / 1e9, to: fault.times.healed === undefined ? now : fault.times.healed / 1e9, style: power.includes(fault.kind) ? "power" : "link",
    }));
    if (picture.run.state === "running" && points.length > 1) points.pop(); // a second that has not passed is no fall
    drawPlot(seen("p-decisions"), points, [{ key: "decisions", style: "first" }], { whole: true, shades });
    drawPlot(seen("p-latency"), points, [{ key: "decision_ms", style: "first" }, { key: "operation_ms", style: "second" }], { least: 10, shades });
    drawPlot(seen("p-digests"), points, [{ key: "digests", style: "third" }], { whole: true, least: 2, shades });
  },
  lines() {
    fill("lines", picture.lines.slice().reverse().map((line) => {
      const row = document.createElement("tr");
      row.className = line.what === "conflict" || line.what === "gap" ? "conflict" : "";
      cell(row, seconds(line.at_ns), "number tight");
      cell(row, line.who, "tight");
      cell(row, line.what, "tight");
      cell(row, line.text, "rest");
      return row;
    }), "Nothing has happened yet.");
  },
};

// The line to the server.
function connect() {
  source = new EventSource(main.dataset.events);
  source.addEventListener("open", () => say("connected", true));
  source.addEventListener("error", () => { if (!over) say("the connection is gone; trying again", false); });
  source.addEventListener("snapshot", (event) => take(JSON.parse(event.data), true));
  source.addEventListener("update", (event) => { if (picture) take(JSON.parse(event.data), false); });
  source.addEventListener("goodbye", () => {
    over = true;
    source.close();
    say("the run's page has ended; what was shown last stays", true);
  });
}
function say(text, well) {
  seen("connection").textContent = text;
  seen("connection").className = well ? "" : "lost-connection";
}
function pause() {
  paused = !paused;
  seen("pause").setAttribute("aria-pressed", paused);
  seen("pause").textContent = paused ? "Go on (p)" : "Hold still (p)";
  if (!paused) schedule();
}
seen("pause").addEventListener("click", pause);
addEventListener("keydown", (event) => {
  if (event.key === "p" && !event.ctrlKey && !event.metaKey && !event.altKey && !["INPUT", "SELECT"].includes(event.target.tagName)) pause();
});
for (const details of document.querySelectorAll("figure.curve details")) details.addEventListener("toggle", () => { dirty.add("curves"); schedule(); });
connect();
