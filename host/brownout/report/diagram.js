// The space-time diagram: a lane a board, time to the right, a line from each cause to what followed from it.
// Data: see diagram.py. Keys: arrows move in time, + and - zoom, 0 shows all, n and p go from event to event, e the evidence.
"use strict";

const GUTTER = 72, LANE = 26, TOP = 24, REACH_PX = 8;
const COLORS = {
  rumours: "--c4", votes: "--c6", decisions: "--decision", clients: "--c2", members: "--c3", digests: "--c7",
  life: "--boot", other: "--c5",
};

class Diagram {
  constructor(root, data) {
    this.root = root;
    this.canvas = root.querySelector("canvas");
    this.said = root.querySelector("output");
    this.copy = root.querySelector("[data-copy]");
    this.data = unpacked(data);
    this.from = 0;
    this.until = Math.max(1, data.ended_us);
    this.chosen = -1;
    this.evidence = new Set(data.evidence);
    this.lanes = data.boards.map((_, place) => place);
    this.groups = new Set(data.groups);
    this.listen();
    this.select();
  }

  // What is to be seen: `shown` are the places of events that pass the filters, by time.
  select() {
    const wanted = this.root.querySelector("[name=boards]").value.split(/[\s,]+/).filter(Boolean);
    this.lanes = this.data.boards.map((_, place) => place)
      .filter((place) => !wanted.length || wanted.includes(this.data.boards[place]));
    this.row = new Map(this.lanes.map((board, place) => [board, place]));
    this.groups = new Set([...this.root.querySelectorAll("[name=group]:checked")].map((box) => box.value));
    const links = this.root.querySelector("[name=links]").checked;
    this.seen = (place) => this.row.has(this.data.board[place]) && (this.groups.has(this.data.groups[this.data.kind[place]]) || this.evidence.has(place));
    this.shown = this.data.at.map((_, place) => place).filter(this.seen);
    this.links = [];
    for (let i = 0; links && i < this.data.links.length; i += 2) {
      if (this.seen(this.data.links[i]) && this.seen(this.data.links[i + 1])) this.links.push([this.data.links[i], this.data.links[i + 1]]);
    }
    this.draw();
  }

  x(at) { return GUTTER + (at - this.from) / (this.until - this.from) * (this.width - GUTTER - 8); }
  y(board) { return TOP + LANE * (this.row.get(board) + 0.5); }
  at(x) { return this.from + (x - GUTTER) / (this.width - GUTTER - 8) * (this.until - this.from); }

  draw() {
    this.width = Math.max(480, this.canvas.parentElement.clientWidth - 16);
    this.height = TOP + LANE * Math.max(1, this.lanes.length) + 8;
    this.paint(new CanvasPen(this.canvas, this.width, this.height));
    this.list();
    this.root.dataset.shown = this.shown.length;
    this.root.dataset.links = this.links.length;
    this.root.dataset.view = `${this.from.toFixed(0)} ${this.until.toFixed(0)}`;
  }

  paint(pen) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const bottom = this.height - 8;
    this.axis(pen, color, bottom);
    this.shades(pen, color);
    const inside = (place) => this.data.at[place] >= this.from && this.data.at[place] <= this.until;
    for (const [cause, effect] of this.links) {
      if (this.data.at[effect] < this.from || this.data.at[cause] > this.until) continue;
      const proof = this.evidence.has(cause) || this.evidence.has(effect);
      pen.line(this.x(this.data.at[cause]), this.y(this.data.board[cause]), this.x(this.data.at[effect]), this.y(this.data.board[effect]),
        proof ? color("--invalid") : color("--vote"), proof ? 2 : 1, proof ? 1 : 0.45);
    }
    const paints = Object.fromEntries(Object.entries(COLORS).map(([group, name]) => [group, color(name)]));
    for (const place of this.shown) {
      if (!inside(place)) continue;
      const group = this.data.groups[this.data.kind[place]], x = this.x(this.data.at[place]), y = this.y(this.data.board[place]);
      if (this.data.kinds[this.data.kind[place]] === "boot") pen.line(x, y - 10, x, y + 10, paints.life, 2);
      else pen.dot(x, y, group === "decisions" ? 4 : 2.5, paints[group]);
      if (this.evidence.has(place)) pen.dot(x, y, 8, color("--invalid"), false);
      if (place === this.chosen) pen.dot(x, y, 6, color("--ink"), false);
    }
    pen.box(0, TOP, GUTTER - 4, bottom - TOP, color("--panel"));
    for (const board of this.lanes) pen.text(GUTTER - 10, this.y(board) + 4, this.data.boards[board].slice(0, 9), color("--ink"), "right");
  }

  axis(pen, color, bottom) {
    const span = this.until - this.from, rough = span / 8, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
    for (let at = Math.ceil(this.from / step) * step; at <= this.until; at += step) {
      pen.line(this.x(at), TOP - 4, this.x(at), bottom, color("--grid"));
      pen.text(this.x(at), TOP - 9, at === 0 ? "0 s" : Number((at / 1e6).toPrecision(12)) + " s", color("--muted"), "center");
    }
    for (const board of this.lanes) pen.line(GUTTER, this.y(board), this.width - 8, this.y(board), color("--rule"));
  }

  // A fault: a thin edge from planned to applied, a shade until it was healed, a stroke where it was proven.
  shades(pen, color) {
    for (const fault of this.data.faults) {
      const hit = fault.boards.length ? fault.boards.filter((board) => this.row.has(board)) : this.lanes;
      const began = fault.applied ?? fault.planned;
      if (began === null) continue;
      const start = Math.max(GUTTER, this.x(began)), end = Math.min(this.width - 8, this.x(fault.healed ?? this.data.ended_us));
      for (const board of hit) {
        const y = this.y(board) - LANE / 2;
        if (end > start && fault.applied !== null) pen.box(start, y + 1, end - start, LANE - 2, color("--" + fault.shade), 0.25);
        if (fault.planned !== null && this.x(fault.planned) >= GUTTER) pen.line(this.x(fault.planned), y + 4, Math.max(this.x(fault.planned), start), y + 4, color("--muted"));
        if (fault.proven !== null && this.x(fault.proven) >= GUTTER) pen.line(this.x(fault.proven), y + 1, this.x(fault.proven), y + LANE - 1, color("--" + fault.shade), 2);
      }
    }
  }

  // The same in words: the first events of what is in view.
  list() {
    const body = this.root.querySelector("tbody"), rows = [];
    for (const place of this.shown) {
      if (this.data.at[place] < this.from || this.data.at[place] > this.until) continue;
      const row = document.createElement("tr");
      if (this.evidence.has(place)) row.className = "proof";
      for (const words of [(this.data.at[place] / 1e6).toFixed(3) + " s", this.data.boards[this.data.board[place]],
        this.data.kinds[this.data.kind[place]], this.data.text[place]]) {
        const cell = document.createElement("td");
        cell.textContent = words;
        row.append(cell);
      }
      rows.push(row);
      if (rows.length === 200) break;
    }
    body.replaceChildren(...rows);
  }

  view(from, until) {
    const span = Math.min(this.data.ended_us, Math.max(1000, until - from));
    this.from = Math.max(0, Math.min(from, this.data.ended_us - span));
    this.until = this.from + span;
    this.draw();
  }

  zoom(by, around = (this.from + this.until) / 2) {
    this.view(around - (around - this.from) * by, around + (this.until - around) * by);
  }

  showEvidence() {
    const times = this.data.evidence.map((place) => this.data.at[place]);
    if (!times.length) return;
    const first = times.reduce((a, b) => Math.min(a, b)), last = times.reduce((a, b) => Math.max(a, b));
    const margin = Math.max(50000, (last - first) * 0.15);
    this.view(first - margin, last + margin);
    this.choose(this.data.evidence[0]);
  }

  choose(place) {
    if (place === undefined || place < 0) return;
    this.chosen = place;
    const at = this.data.at[place], board = this.data.boards[this.data.board[place]];
    if (at < this.from || at > this.until) this.view(at - (this.until - this.from) / 2, at + (this.until - this.from) / 2);
    this.said.textContent = `${(at / 1e6).toFixed(3)} s, ${board}, boot ${this.data.boot[place]}, event ${this.data.sequence[place]}: ` +
      `${this.data.kinds[this.data.kind[place]]} ${this.data.text[place]}${this.evidence.has(place) ? " (evidence)" : ""}`;
    this.copy.hidden = false;
    this.copy.dataset.copy = `brownout replay ${this.root.dataset.run} --board ${board} --until ${(Math.ceil(at / 1000) / 1000).toFixed(3)}s`;
    this.draw();
  }

  next(step) {
    const place = this.shown.indexOf(this.chosen);
    if (place >= 0) return this.choose(this.shown[place + step]);
    return this.choose(this.shown.find((other) => this.data.at[other] >= this.from));
  }

  near(x, y) {
    let best = -1, least = REACH_PX ** 2;
    for (const place of this.shown) {
      const distance = (this.x(this.data.at[place]) - x) ** 2 + (this.y(this.data.board[place]) - y) ** 2;
      if (distance <= least) [best, least] = [place, distance];
    }
    return best;
  }

  listen() {
    const span = () => this.until - this.from;
    const actions = {
      ArrowLeft: () => this.view(this.from - span() / 5, this.until - span() / 5),
      ArrowRight: () => this.view(this.from + span() / 5, this.until + span() / 5),
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2), 0: () => this.view(0, this.data.ended_us),
      n: () => this.next(1), p: () => this.next(-1), e: () => this.showEvidence(),
    };
    this.canvas.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
    this.root.querySelectorAll("[data-act]").forEach((button) => button.addEventListener("click", () => actions[button.dataset.act]()));
    this.root.querySelectorAll("input").forEach((input) => input.addEventListener("input", () => this.select()));
    this.canvas.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.shiftKey) return; // The page scrolls by it.
      event.preventDefault();
      this.zoom(event.deltaY + event.deltaX > 0 ? 1.25 : 0.8, this.at(event.offsetX));
    }, { passive: false });
    this.drag();
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    document.addEventListener("themechange", () => this.draw());
    this.copy.addEventListener("click", async () => {
      this.said.textContent = this.copy.dataset.copy;
      await navigator.clipboard?.writeText(this.copy.dataset.copy);
    });
  }

  drag() {
    let grip = null;
    this.canvas.addEventListener("pointerdown", (event) => { grip = { x: event.offsetX, from: this.from, until: this.until, moved: false }; });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!grip || !event.buttons) return;
      const by = (grip.x - event.offsetX) / (this.width - GUTTER - 8) * (grip.until - grip.from);
      grip.moved ||= Math.abs(grip.x - event.offsetX) > 3;
      if (grip.moved) this.view(grip.from + by, grip.until + by);
    });
    this.canvas.addEventListener("pointerup", (event) => {
      if (grip && !grip.moved) this.choose(this.near(event.offsetX, event.offsetY));
      grip = null;
    });
  }
}

function unpacked(data) {
  let at = 0;
  data.at = data.at_us.map((by) => (at += by));
  return data;
}

(async () => {
  const root = document.getElementById("diagram"), carried = document.getElementById("diagram-data");
  if (!root || !carried) return;
  const bytes = Uint8Array.from(atob(carried.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const diagram = new Diagram(root, await new Response(stream).json());
  offerToSave(root, "space-time", () => {
    const pen = new SvgPen(diagram.width, diagram.height);
    diagram.paint(pen);
    return { text: pen.finished(), width: diagram.width, height: diagram.height };
  });
  root.dataset.ready = "yes";
})();
