"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "rect", "text", "line", "path", "title", "defs", "pattern"].includes(tag) && tag !== "title";
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") node.setAttribute("class", value);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

// Numbers

function short(value) {
  if (value === null || value === undefined) return "";
  if (value === 0) return "0";
  if (value === "inf") return "∞";
  if (value === "nan") return "NaN";
  const [digits, exponent] = value.toExponential(1).split("e");
  return `${digits}e${Number(exponent)}`;
}
function percent(value) {
  if (value === null || value === undefined) return "";
  const p = value * 100;
  if (p === 0) return "0";
  if (p === 100) return "100 %";
  if (p < 0.01) return "<0.01 %";
  if (p > 99.95) return ">99.9 %";
  return `${p < 9.995 ? p.toFixed(2) : p.toFixed(1)} %`;
}
function cosine(distance) {
  if (distance === null || distance === undefined) return "";
  if (distance === 0) return "1";
  if (distance === "nan") return "NaN";
  return distance < 5e-6 ? `1−${short(distance)}` : (1 - distance).toFixed(6);
}
function bytes(value) {
  if (value === null || value === undefined) return "";
  let unit = 0, v = value;
  while (v >= 999.5 && unit < 4) { v /= 1000; unit += 1; }
  return `${unit === 0 || v >= 99.95 ? v.toFixed(0) : v.toFixed(1)} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}
const count = (value) => value.toLocaleString("en-US");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

// Colours: two scales of evenly rising contrast, one for each ground

const LIGHT = ["#fdf1e0", "#fdd9ad", "#fcb575", "#f68a4c", "#e25a2f", "#bb2d1a", "#7d0f0f"];
const DARK = ["#2b2036", "#4c2464", "#7a2a7d", "#ab3577", "#dc4d65", "#f98c5e", "#fce29a"];
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
function colour(t) {
  const stops = isDark() ? DARK : LIGHT;
  const x = Math.max(0, Math.min(1, t)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(x));
  const part = (s, k) => parseInt(s.slice(1 + 2 * k, 3 + 2 * k), 16);
  return `rgb(${[0, 1, 2].map((k) => Math.round(part(stops[i], k) + (part(stops[i + 1], k) - part(stops[i], k)) * (x - i))).join(",")})`;
}
function inkOn(t) {
  const [r, g, b] = /(\d+),(\d+),(\d+)/.exec(colour(t)).slice(1).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "ink" : "lit";
}
function scale(values, logarithmic) {
  const known = values.filter((v) => typeof v === "number" && v > 0 && Number.isFinite(v));
  if (!logarithmic) return { at: (v) => (typeof v === "string" ? 1 : v), ticks: [0, 0.25, 0.5, 0.75, 1].map((v) => [v, percent(v)]) };
  if (!known.length) return { at: () => 1, ticks: [] };
  let low = Math.floor(Math.log10(Math.min(...known.slice(0, 5e4)))), high = Math.ceil(Math.log10(Math.max(...known.slice(0, 5e4))));
  if (high - low > 8) low = high - 8;
  if (low === high) low -= 1;
  const ticks = [], step = Math.max(1, Math.ceil((high - low) / 5));
  for (let e = low; e <= high; e += step) ticks.push([(e - low) / (high - low), null, e]);
  return { at: (v) => (typeof v === "string" ? 1 : (Math.log10(v) - low) / (high - low)), ticks, low, high };
}

function named(text) {  // a name that may be broken behind its dots
  const parts = text.split(/(?<=[./])/);
  return make("span", {}, parts.slice(0, 60).flatMap((part, i) => (i ? [make("wbr"), part] : [part])), parts.slice(60).join(""));
}

// What follows the pointer and the keyboard

const tip = make("div", { id: "tip", hidden: true, "aria-hidden": "true" });
document.body.append(tip);
function showTip(text, box) {
  tip.textContent = text;
  tip.hidden = false;
  const mine = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(6, Math.min(innerWidth - mine.width - 6, box.left + box.width / 2 - mine.width / 2))}px`;
  tip.style.top = `${box.top - mine.height - 8 < 4 ? box.bottom + 8 : box.top - mine.height - 8}px`;
}
function hinted(node, text) {
  const show = () => showTip(text, node.getBoundingClientRect()), hide = () => { tip.hidden = true; };
  node.addEventListener("mouseenter", show);
  node.addEventListener("mouseleave", hide);
  if (node.hasAttribute("tabindex")) {  // a listener alone would make an element of a drawing a stop of the tabulator
    node.addEventListener("focus", show);
    node.addEventListener("blur", hide);
  }
  return node;
}
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// A grid of cells, walked by the arrow keys: one stop for the tabulator, Enter chooses

function grid(spec) {
  const longest = (texts, size) => Math.max(0, ...texts.map((t) => t.length)) * size;
  const left = Math.min(300, Math.max(60, longest(spec.rows.map((t) => cut(t, 46)), 6.3) + 12));
  const room = Math.max(320, (spec.width || 1120) - left - 20);
  const w = Math.max(9, Math.min(spec.cell || 56, Math.floor(room / Math.max(1, spec.columns.length)))), h = spec.height || 22;
  const slanted = longest(spec.columns, 6.4) > Math.max(w, 20) * (w < 20 && longest(spec.columns, 6.4) < 24 ? 2 : 1);
  const every = Math.max(1, Math.ceil((slanted ? 13 : longest(spec.columns, 6.4) + 5) / w));
  const top = spec.columns.every((t) => !t) ? 4 : slanted ? Math.min(130, longest(spec.columns, 5) + 10) : 20;
  const width = left + w * spec.columns.length + (slanted ? Math.min(90, top) : 12), height = top + h * spec.rows.length + 6;
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": spec.label });
  svg.append(make("defs", {}, make("pattern", { id: "unknown", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    make("rect", { width: 6, height: 6, fill: "var(--empty)" }), make("rect", { width: 2, height: 6, fill: "var(--unknown)" }))));
  spec.columns.forEach((text, i) => {
    if (i % every) return;
    const x = left + w * i + w / 2;
    svg.append(make("text", slanted
      ? { x, y: top - 6, transform: `rotate(-40 ${x} ${top - 6})`, class: "soft" }
      : { x, y: top - 6, "text-anchor": "middle", class: "soft" }, cut(text, slanted ? 24 : 40)));
  });
  spec.rows.forEach((text, i) => svg.append(make("text", { x: left - 8, y: top + h * i + h / 2 + 4, "text-anchor": "end" }, cut(text, 46))));
  const places = new Map();
  for (const cell of spec.cells) {
    const node = make("rect", {
      x: left + w * cell.column + 0.75, y: top + h * cell.row + 0.75, width: w - 1.5, height: h - 1.5, rx: 2, fill: cell.fill, stroke: cell.stroke, "stroke-width": cell.stroke ? 2.5 : null,
      tabindex: places.size ? -1 : 0, role: "button", "aria-label": cell.text.replaceAll("\n", ", "), "data-cell": `${cell.column},${cell.row}`,
    });
    if (cell.choose) node.addEventListener("click", cell.choose);
    hinted(node, cell.text);
    places.set(`${cell.column},${cell.row}`, node);
    svg.append(node);
    if (cell.word && w >= 44 && h >= 18) {
      svg.append(make("text", { x: left + w * (cell.column + 0.5), y: top + h * (cell.row + 0.5) + 3.5, "text-anchor": "middle", "pointer-events": "none", class: `word ${cell.ink}`, "aria-hidden": "true" }, cell.word));
    }
  }
  svg.addEventListener("keydown", (event) => {
    const from = event.target.getAttribute("data-cell");
    if (!from) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      event.target.dispatchEvent(new MouseEvent("click"));
      return;
    }
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    let [x, y] = from.split(",").map(Number);
    do { x += step[0]; y += step[1]; } while (x >= 0 && y >= 0 && x < spec.columns.length && y < spec.rows.length && !places.has(`${x},${y}`));
    const next = places.get(`${x},${y}`);
    if (!next) return;
    event.target.setAttribute("tabindex", -1);
    next.setAttribute("tabindex", 0);
    next.focus();
  });
  return svg;
}

function legend(title, s, shown) {
  const w = 220, svg = make("svg", { width: w + 40, height: 44, viewBox: `0 0 ${w + 40} 44`, role: "img", "aria-label": `Scale of colours: ${title}` });
  for (let i = 0; i < w; i += 2) svg.append(make("rect", { x: 14 + i, y: 14, width: 2.5, height: 10, fill: colour(i / w) }));
  svg.append(make("text", { x: 14, y: 9, class: "soft" }, title));
  for (const [t, text, e] of s.ticks) svg.append(make("text", { x: 14 + t * w, y: 38, "text-anchor": "middle", class: "soft" }, text ?? shown(e)));
  return svg;
}

function heading(text, ...more) { return make("div", { class: "head" }, make("h2", { tabindex: -1 }, text), more); }

function cut(text, width) {
  return text.length <= width ? text : `${text.slice(0, Math.floor(width / 3))}…${text.slice(-Math.floor((2 * width) / 3) + 1)}`;
}

// Figures leave the page as SVG files, in the colours they are seen in

function saveButton(box, name) {
  return make("button", { type: "button", onclick: () => {
    const drawings = [...box.querySelectorAll("svg")];
    let y = 0;
    const width = Math.max(...drawings.map((d) => d.width.baseVal.value));
    const whole = make("svg", { xmlns: SVG });
    const style = getComputedStyle(document.documentElement);
    for (const drawing of drawings) {
      const heading = drawing.closest("[data-title]");
      if (heading && heading.dataset.title && heading.querySelector("svg") === drawing) {
        whole.append(make("text", { x: 4, y: y + 14, "font-weight": 600 }, heading.dataset.title));
        y += 22;
      }
      const copy = drawing.cloneNode(true);
      copy.setAttribute("y", y);
      for (const node of copy.querySelectorAll("[tabindex]")) for (const key of ["tabindex", "role", "data-cell"]) node.removeAttribute(key);
      y += drawing.height.baseVal.value + 10;
      whole.append(copy);
    }
    for (const text of whole.querySelectorAll("text")) {
      text.setAttribute("font-family", "Helvetica, Arial, sans-serif");
      text.setAttribute("font-size", "11");
      const kind = text.getAttribute("class") || "";
      text.setAttribute("fill", kind === "word lit" ? "#fff6ea" : kind === "word ink" ? "#241a12" : style.getPropertyValue(kind === "soft" ? "--soft" : "--ink").trim());
      text.removeAttribute("class");
    }
    for (const node of whole.querySelectorAll("[fill^='var('], [stroke^='var(']")) {
      for (const key of ["fill", "stroke"]) {
        const match = /^var\((--[\w-]+)\)$/.exec(node.getAttribute(key) || "");
        if (match) node.setAttribute(key, style.getPropertyValue(match[1]).trim());
      }
    }
    whole.setAttribute("width", width);
    whole.setAttribute("height", y);
    whole.setAttribute("viewBox", `0 0 ${width} ${y}`);
    const link = make("a", { href: URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(whole)], { type: "image/svg+xml" })), download: `${name}.svg` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  } }, "Save as SVG");
}

// Layer 2 before layer 10
function byName(a, b) {
  const x = a.split(/(\d+)/), y = b.split(/(\d+)/);
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    if (x[i] === y[i]) continue;
    if (i % 2 && Number(x[i]) !== Number(y[i])) return Number(x[i]) - Number(y[i]);
    return x[i] < y[i] ? -1 : 1;
  }
  return x.length - y.length;
}

// A table that is sorted by its headings; long ones come in portions

function table(spec) {
  const portion = 200;
  let rows = spec.rows, sorted = { column: -1, down: true }, limit = portion;
  const body = make("tbody"), more = make("button", { type: "button", onclick: () => { limit += 5 * portion; draw(); } });
  const heads = spec.columns.map((column, i) => make("th", { scope: "col", class: column.number ? "number" : null },
    make("button", { type: "button", onclick: () => sort(i) }, column.title)));
  const node = make("table", { class: "rows" }, make("caption", { class: "hidden" }, spec.caption), make("thead", {}, make("tr", {}, heads)), body);
  function draw() {
    body.replaceChildren(...rows.slice(0, limit).map((row) => make("tr", {}, spec.columns.map((column) => {
      const content = column.show(row);
      return make("td", { class: column.number ? "number" : column.class || null }, content);
    }))));
    more.hidden = rows.length <= limit;
    more.textContent = `Show more (${count(rows.length - limit)} left)`;
  }
  function sort(i, down) {
    sorted = { column: i, down: down ?? (sorted.column === i ? !sorted.down : Boolean(spec.columns[i].number)) };
    heads.forEach((head, k) => (k === i ? head.setAttribute("aria-sort", sorted.down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    order();
    draw();
  }
  function order() {
    if (sorted.column < 0) return;
    const key = spec.columns[sorted.column].key, sign = sorted.down ? -1 : 1;
    const value = (row) => { const v = key(row); return v === "inf" || v === "nan" ? Infinity : v; };
    rows = rows.map((row, i) => [value(row), i, row]).sort((a, b) => {
      if (a[0] === null || a[0] === undefined) return b[0] === null || b[0] === undefined ? a[1] - b[1] : 1;
      if (b[0] === null || b[0] === undefined) return -1;
      if (typeof a[0] === "string" && typeof b[0] === "string") return sign * byName(a[0], b[0]) || a[1] - b[1];
      return a[0] < b[0] ? -sign : a[0] > b[0] ? sign : a[1] - b[1];
    }).map((item) => item[2]);
  }
  function set(next) {
    rows = next;
    limit = portion;
    order();
    draw();
  }
  draw();
  return { node, more, set, sort };
}

// Light and dark

const redrawn = [];
function redraw() { for (const draw of redrawn) draw(); }
document.getElementById("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
