// Two pens with the same strokes, one for a canvas and one for an SVG, and what saves a drawing as a file.
// A drawing is a function of a pen, so that what is saved is what is seen.
"use strict";

class CanvasPen {
  constructor(canvas, width, height) {
    const dots = window.devicePixelRatio || 1;
    canvas.width = Math.round(width * dots);
    canvas.height = Math.round(height * dots);
    canvas.style.height = height + "px";
    this.context = canvas.getContext("2d");
    this.context.scale(dots, dots);
  }
  box(x, y, width, height, color, opacity = 1) {
    this.context.globalAlpha = opacity;
    this.context.fillStyle = color;
    this.context.fillRect(x, y, width, height);
    this.context.globalAlpha = 1;
  }
  line(x1, y1, x2, y2, color, width = 1, opacity = 1) {
    this.context.globalAlpha = opacity;
    this.context.strokeStyle = color;
    this.context.lineWidth = width;
    this.context.beginPath();
    this.context.moveTo(x1, y1);
    this.context.lineTo(x2, y2);
    this.context.stroke();
    this.context.globalAlpha = 1;
  }
  dot(x, y, radius, color, filled = true) {
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.context.lineWidth = 2;
    this.context[filled ? "fillStyle" : "strokeStyle"] = color;
    this.context[filled ? "fill" : "stroke"]();
  }
  text(x, y, words, color, anchor = "left") {
    this.context.font = "12px system-ui, sans-serif";
    this.context.textAlign = anchor;
    this.context.fillStyle = color;
    this.context.fillText(words, x, y);
  }
}

class SvgPen {
  constructor(width, height) {
    this.head = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}">`;
    this.parts = [];
  }
  box(x, y, width, height, color, opacity = 1) {
    this.parts.push(`<rect x="${x.toFixed(1)}" y="${y.toFixed(1)}" width="${width.toFixed(1)}" height="${height.toFixed(1)}" fill="${color}" fill-opacity="${opacity}"/>`);
  }
  line(x1, y1, x2, y2, color, width = 1, opacity = 1) {
    this.parts.push(`<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" stroke="${color}" stroke-width="${width}" stroke-opacity="${opacity}"/>`);
  }
  dot(x, y, radius, color, filled = true) {
    const paint = filled ? `fill="${color}"` : `fill="none" stroke="${color}" stroke-width="2"`;
    this.parts.push(`<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${radius}" ${paint}/>`);
  }
  text(x, y, words, color, anchor = "left") {
    const safe = words.replace(/&/g, "&amp;").replace(/</g, "&lt;");
    const place = { left: "start", right: "end", center: "middle" }[anchor];
    this.parts.push(`<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="${color}" text-anchor="${place}" font-family="system-ui, sans-serif" font-size="12">${safe}</text>`);
  }
  finished() {
    return this.head + this.parts.join("") + "</svg>";
  }
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// An SVG of the page alone, with the rules of the page's style that it needs: those of custom properties come resolved.
function standalone(svg) {
  const copy = svg.cloneNode(true);
  const box = svg.viewBox.baseVal;
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", box.width);
  copy.setAttribute("height", box.height);
  const originals = svg.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, place) => {
    const style = getComputedStyle(originals[place]);
    for (const name of ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "font-size", "font-weight", "font-family", "text-anchor"]) {
      element.style.setProperty(name, style.getPropertyValue(name));
    }
  });
  return new XMLSerializer().serializeToString(copy);
}

// Resolves to a PNG of twice the size of the SVG, on the page's paper.
function rasterized(text, width, height) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = 2 * width;
      canvas.height = 2 * height;
      const context = canvas.getContext("2d");
      context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--panel").trim();
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(resolve, "image/png");
    };
    image.onerror = () => reject(new Error("the drawing could not be made into a picture"));
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  });
}

// Two buttons below a figure. drawn() gives {text, width, height} of the SVG.
function offerToSave(figure, name, drawn) {
  const bar = document.createElement("p");
  bar.className = "save";
  for (const kind of ["SVG", "PNG"]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Save " + kind;
    button.addEventListener("click", async () => {
      const { text, width, height } = drawn();
      const blob = kind === "SVG" ? new Blob([text], { type: "image/svg+xml" }) : await rasterized(text, width, height);
      figure.dataset.saved = `${name}.${kind.toLowerCase()} ${blob.size}`;
      save(`${name}.${kind.toLowerCase()}`, blob);
    });
    bar.append(button);
  }
  figure.append(bar);
}

document.querySelectorAll("figure .wide > svg").forEach((svg) => {
  const name = (svg.getAttribute("aria-label") || "plot").split(",")[0].toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const box = svg.viewBox.baseVal;
  offerToSave(svg.closest("figure"), name, () => ({ text: standalone(svg), width: box.width, height: box.height }));
});

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.dispatchEvent(new Event("themechange"));
});
