// Curves over the seconds of a run: small SVG drawings in the report's style, each with a table of the same numbers.
"use strict";
const PLOT = { width: 1040, height: 150, left: 56, right: 14, top: 10, bottom: 24 };
const SVG = "http://www.w3.org/2000/svg";
const svgNode = (name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
};

// The smallest of 1, 2, 5 times a power of ten that cuts span into at most so many parts.
function niceStep(span, most) {
  const raw = Math.max(span, 1e-9) / most, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= raw * 0.999999);
}

const brief = (value) => value === null || value === undefined ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : String(Math.round(value * 100) / 100);

// points: sorted by second. series: [{key, style, name}]; a null leaves a hole. whole: the axis counts whole things.
function drawPlot(figure, points, series, { whole = false, least = 1, shades = [] } = {}) {
  const { width, height, left, right, top, bottom } = PLOT;
  const svg = svgNode("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": figure.dataset.label });
  const first = points.length ? points[0].second : 0, last = points.length ? Math.max(points.at(-1).second, first + 10) : 10;
  let high = least;
  for (const point of points) for (const { key } of series) if (point[key] > high) high = point[key];
  let step = niceStep(high, 4);
  if (whole) step = Math.max(1, Math.round(step));
  const ceiling = Math.ceil(high / step - 1e-9) * step;
  const x = (second) => left + (second - first) / (last - first) * (width - left - right);
  const y = (value) => height - bottom - value / ceiling * (height - top - bottom);
  for (const { from, to, style } of shades) {
    const start = Math.max(first, from), end = Math.min(last, to);
    if (end > start) svg.append(svgNode("rect", { x: x(start).toFixed(1), y: top, width: Math.max(1, x(end) - x(start)).toFixed(1), height: height - top - bottom, class: "shade " + style }));
  }
  for (let value = 0; value <= ceiling * 1.0001; value += step) {
    svg.append(svgNode("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), class: value ? "grid" : "rule" }));
    svg.append(svgNode("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(6)))));
  }
  const secondStep = Math.max(1, niceStep(last - first, 12));
  for (let second = Math.ceil(first / secondStep) * secondStep; second <= last; second += secondStep)
    svg.append(svgNode("text", { x: x(second), y: height - 7, "text-anchor": "middle" }, second + " s"));
  for (const { key, style } of series) {
    let path = "", open = false;
    for (const point of points) {
      if (point[key] === null) { open = false; continue; }
      path += `${open ? "L" : "M"}${x(point.second).toFixed(1)} ${y(point[key]).toFixed(1)}` + (open ? "" : "h.01");
      open = true;
    }
    if (path) svg.append(svgNode("path", { d: path, class: "curve " + style, "stroke-linecap": "round" }));
  }
  figure.querySelector(".wide").replaceChildren(svg);
  const body = figure.querySelector("tbody");
  if (figure.querySelector("details").open) fillTable(body, points, series);
}

function fillTable(body, points, series) {
  const rows = points.slice(-300).reverse().map((point) => {
    const row = document.createElement("tr");
    for (const value of [point.second, ...series.map(({ key }) => brief(point[key]))]) {
      const cell = document.createElement("td");
      cell.className = "number";
      cell.textContent = value;
      row.append(cell);
    }
    return row;
  });
  body.replaceChildren(...rows);
}
