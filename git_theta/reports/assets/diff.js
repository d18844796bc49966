// The page of a diff. A row of data: see page.py, which names the columns once.
const R = Object.fromEntries(data.columns.map((name, i) => [name, i]));
const main = document.querySelector("main");

const METRICS = {
  relative: { title: "relative change ‖Δ‖/‖W‖", log: true, value: (c) => c.relative, show: short },
  fraction: { title: "share of elements that changed", log: false, value: (c) => c.fraction, show: percent },
  distance: { title: "1 − cosine", log: true, value: (c) => c.distance, show: short },
  largest: { title: "largest |Δ|", log: true, value: (c) => c.largest, show: short },
  stored: { title: "bytes stored for the change", log: true, value: (c) => c.stored, show: bytes },
};

function model(m) {
  const box = make("section", { "aria-label": m.path });
  if (data.models.length > 1) box.append(make("h2", { class: "mono" }, m.former ? `${m.former} → ${m.path}` : m.path));
  if (m.problem) box.append(make("p", { class: "problem", role: "note" }, m.problem));
  if (!m.tensors && !m.rows.length) return box;
  const tiles = [[`${count(m.rows.length)} of ${count(m.tensors)}`, "tensors changed"]];
  if (m.total) {
    tiles.push([percent(m.total.fraction) || "0", `of ${count(m.total.elements)} elements in them`]);
    if (m.total.relative !== null) tiles.push([short(m.total.relative), "relative change ‖Δ‖/‖W‖"]);
    if (m.total.distance !== null) tiles.push([cosine(m.total.distance), "cosine of old and new"]);
  }
  if (m.bytes) tiles.push([bytes(m.stored), `stored for ${bytes(m.bytes)} of tensors`]);
  box.append(make("ul", { class: "tiles" }, tiles.map(([value, what]) => make("li", {}, make("b", {}, value), make("span", {}, what)))));
  box.append(make("p", { class: "counts" }, Object.entries(m.counts).filter(([, n]) => n).map(([kind, n]) =>
    make("span", { class: `tag ${kind}` }, `${count(n)} ${kind}`)), m.notes.map((note) => make("span", { class: "soft" }, `${note} `))));
  if (m.alarming) alarm(box, m);
  if (!m.rows.length) return box;
  const filter = {};
  if (m.panels.length) heat(box, m, filter);
  if (m.measured) {
    const pair = make("div", { class: "pair" });
    histograms(pair, m);
    movers(pair, m);
    box.append(pair);
  }
  list(box, m, filter);
  return box;
}

// What was found

function alarm(box, m) {
  const found = m.rows.filter((row) => row[R.health]), first = 20;
  const items = (rows) => make("ul", {}, rows.map((row) => make("li", {}, make("span", { class: "mono" }, named(row[R.name])), " ", make("b", {}, row[R.health]))));
  const card = make("section", { class: "alarm", "aria-label": `Findings of ${m.path}` }, make("h2", {}, `Findings in ${plural(m.alarming, "tensor")}`), items(found.slice(0, first)));
  if (found.length > first) card.append(make("details", {}, make("summary", {}, `${count(found.length - first)} more`), items(found.slice(first, 2000))));
  box.append(card);
}

// Layers × kinds

function heat(box, m, filter) {
  const metrics = Object.keys(METRICS).filter((name) => m.measured || name === "stored").filter((name) =>
    m.panels.some((panel) => panel.cells.some((cell) => METRICS[name].value(cell))));
  let metric = metrics[0];
  const figure = make("div", { class: "figure", role: "region", "aria-label": "Heat map of layers and kinds", tabindex: 0 });
  const choose = make("select", { onchange: (event) => { metric = event.target.value; draw(); } }, metrics.map((name) => make("option", { value: name }, METRICS[name].title)));
  box.append(heading("Where it changed", saveButton(figure, "heat-map")));
  box.append(make("div", { class: "bar" }, make("label", {}, "Colour shows ", choose), make("span", { class: "soft" }, "A cell chosen (click, or Enter) filters the table below.")));
  box.append(figure);
  function draw() {
    const what = METRICS[metric] || METRICS.stored;
    const s = scale(m.panels.flatMap((panel) => panel.cells.map(what.value)), what.log);
    figure.replaceChildren(make("div", { class: "panels" }, m.panels.map((panel, p) => make("div", { "data-title": panel.title }, panel.title ? make("h3", {}, panel.title) : null, grid({
      label: panel.title || "layers", columns: panel.columns, rows: panel.rows, cells: panel.cells.map((cell) => {
        const value = what.value(cell), plain = cell.changed === 0;
        const unknown = !plain && (value === null || value === undefined);
        const title = [panel.unit && `${panel.unit} ${panel.columns[cell.column]}`, panel.rows[cell.row]].filter(Boolean).join(" · ");
        const lines = [title, `${plain ? "none" : count(cell.changed)} of ${plural(cell.tensors, "tensor")} changed`];
        if (cell.health) lines.push(`findings: ${cell.health}`);
        if (!plain) for (const name of metrics) { const v = METRICS[name].value(cell); if (v !== null && v !== undefined) lines.push(`${METRICS[name].title}: ${METRICS[name].show(v)}`); }
        return { column: cell.column, row: cell.row, text: lines.join("\n"), word: plain || unknown || value === 0 ? "" : what.show(value), ink: inkOn(s.at(value)),
          stroke: cell.health ? "var(--removed)" : null, fill: unknown ? "url(#unknown)" : plain || value === 0 ? "var(--empty)" : colour(s.at(value)),
          choose: () => { filter.place([p, cell.column, cell.row], title); } };
      }),
    })))), legend(what.title, s, what === METRICS.stored ? (e) => bytes(10 ** e) : (e) => `1e${e}`));
  }
  redrawn.push(draw);
  draw();
}

// How Δ is spread: by sign and order of magnitude, for each kind

function histograms(box, m) {
  const some = m.histograms.filter((h) => h.bins.length);
  if (!some.length) return;
  const section = make("div"), figure = make("div", { class: "figure", role: "region", "aria-label": "Histograms of the change", tabindex: 0 });
  section.append(heading("How the change is spread", saveButton(figure, "histograms")), make("div", { class: "bar" }, make("span", { class: "soft" }, "Elements by sign and size of Δ, logarithmic to either side of 0.")), figure);
  box.append(section);
  const orders = some.flatMap((h) => h.bins.map((b) => b[0]));
  const high = Math.max(...orders) + 1, low = Math.max(Math.min(...orders), high - 24);
  const W = 500, left = 104, gap = 16, H = 44, half = (W - left - gap - 10) / 2, step = half / (high - low);
  const height = some.length * (H + 8) + 34;
  const svg = make("svg", { width: W, height, viewBox: `0 0 ${W} ${height}`, role: "img",
    "aria-label": `Histograms of the change of ${some.map((h) => h.title).join(", ")}; from 2^${low} to 2^${high} in size, negative to the left` });
  some.forEach((h, i) => {
    const base = i * (H + 8) + H + 4, total = h.elements || 1;
    const most = Math.max(...h.bins.flatMap((b) => [b[1], b[2]])) || 1;
    svg.append(make("text", { x: left - 8, y: base - H / 2 + 1, "text-anchor": "end" }, h.title));
    svg.append(make("text", { x: left - 8, y: base - H / 2 + 14, "text-anchor": "end", class: "soft" }, h.zero ? `${percent(h.zero / total)} still` : "all moved"));
    svg.append(make("line", { x1: left, x2: W - 10, y1: base, y2: base, stroke: "var(--line)" }));
    for (const [e, negative, positive] of h.bins) {
      const at = Math.max(e, low) - low;
      for (const [n, x] of [[negative, left + half - (at + 1) * step], [positive, left + half + gap + at * step]]) {
        if (!n) continue;
        const tall = Math.max(0.6, (n / most) * H);
        svg.append(hinted(make("rect", { x: x + 0.4, y: base - tall, width: Math.max(1, step - 0.8), height: tall, fill: x < left + half ? "var(--bar2)" : "var(--bar)" }),
          `${h.title}: ${count(n)} elements (${percent(n / total)})\n${n === negative && x < left + half ? "−" : "+"}2^${e} to 2^${e + 1} (${short(2 ** e)} to ${short(2 ** (e + 1))})`));
      }
    }
  });
  const y = some.length * (H + 8) + 14;
  for (let t = Math.ceil(low * Math.log10(2)); t <= high * Math.log10(2); t += Math.max(1, Math.ceil(((high - low) * 0.301) / 3))) {
    const at = (t / Math.log10(2) - low) * step;
    if (at < 24) continue;
    for (const [x, sign] of [[left + half - at, "−"], [left + half + gap + at, ""]]) {
      svg.append(make("line", { x1: x, x2: x, y1: y - 10, y2: y - 6, stroke: "var(--soft)" }), make("text", { x, y: y + 5, "text-anchor": "middle", class: "soft" }, `${sign}1e${t}`));
    }
  }
  svg.append(make("text", { x: left + half + gap / 2, y: y + 5, "text-anchor": "middle", class: "soft" }, "0"));
  figure.append(svg);
}

// What moved farthest

function movers(box, m) {
  const far = (row) => (typeof row[R.relative] === "string" ? Infinity : row[R.relative]);
  const most = m.rows.filter((row) => row[R.relative] !== null && row[R.relative] !== 0).sort((a, b) => far(b) - far(a)).slice(0, 12);
  if (!most.length) return;
  const top = Math.max(...most.map(far).filter(Number.isFinite), 0) || 1;
  box.append(make("div", {}, heading("What moved farthest"), make("div", { class: "bar" }, make("span", { class: "soft" }, "Relative change ‖Δ‖/‖W‖ of single tensors.")),
    make("div", { class: "figure" }, make("ol", { class: "movers" }, most.map((row) => {
      const fill = make("div", { class: "fill" });
      fill.style.width = `${Math.min(100, (100 * far(row)) / top)}%`;
      return make("li", {}, make("span", { class: "name mono" }, cut(row[R.name], 110)),
        make("span", { class: "line" }, make("span", { "aria-hidden": "true" }, fill), make("span", { class: "value" }, short(row[R.relative]))));
    })))));
}

// Every change

function list(box, m, filter) {
  const number = (title, name, show) => ({ title, number: true, key: (row) => row[R[name]], show: (row) => show(row[R[name]]) });
  const measured = (title, name, show) => ({ ...number(title, name, show), show: (row) => (row[R.unknown] ? make("span", { title: row[R.unknown] }, "?") : show(row[R[name]])) });
  const columns = [
    { title: "tensor", class: "name mono", key: (row) => row[R.name], show: (row) => named(row[R.former] ? `${row[R.former]} → ${row[R.name]}` : row[R.name]) },
    { title: "kind", key: (row) => row[R.kind], show: (row) => make("span", { class: row[R.kind] }, row[R.kind]) },
    { title: "type", class: "mono", key: (row) => row[R.bytes], show: (row) => row[R.type] },
    ...(m.alarming ? [{ title: "health", key: (row) => row[R.health] || null, show: (row) => make("b", { class: "health" }, row[R.health]) }] : []),
    ...(m.measured ? [
      measured("changed", "fraction", percent), measured("‖Δ‖/‖W‖", "relative", short), measured("cosine", "distance", cosine),
      number("max |Δ|", "largest", short), number("rank", "rank", (v) => (v === null ? "" : count(v))),
    ] : []),
    { title: "update", class: "mono", key: (row) => row[R.update], show: (row) => row[R.update] },
    number("stored", "stored", bytes),
  ];
  const rows = table({ caption: `Tensors of ${m.path} that changed`, columns, rows: m.rows });
  const found = make("span", { class: "soft", role: "status" });
  const search = make("input", { type: "search", placeholder: "part of a name", "aria-label": "Filter by name", oninput: () => apply() });
  const options = (title, values) => [make("option", { value: "" }, title), ...values.map((v) => make("option", { value: v }, v))];
  const kinds = make("select", { "aria-label": "Filter by kind of change", onchange: () => apply() }, options("every kind of change", Object.keys(m.counts).filter((k) => m.counts[k])));
  const parts = make("select", { "aria-label": "Filter by part of the model", onchange: () => apply() }, options("every part", [...new Set(m.rows.map((row) => row[R.part]))].sort()));
  const harmed = make("input", { type: "checkbox", onchange: () => apply() });
  const only = m.alarming ? make("label", {}, harmed, " only findings") : null;
  let chosen = null;
  const clear = make("button", { type: "button", hidden: true, onclick: () => { chosen = null; clear.hidden = true; apply(); } });
  function apply() {
    const text = search.value.trim().toLowerCase();
    const kept = m.rows.filter((row) => (!text || row[R.name].toLowerCase().includes(text)) && (!kinds.value || row[R.kind] === kinds.value) &&
      (!parts.value || row[R.part] === parts.value) && (!harmed.checked || row[R.health]) && (!chosen || chosen.every((v, i) => row[R.cell][i] === v)));
    rows.set(kept);
    found.textContent = kept.length === m.rows.length ? plural(kept.length, "tensor") : `${count(kept.length)} of ${plural(m.rows.length, "tensor")}`;
  }
  const head = heading("Every change");
  filter.place = (place, title) => {
    chosen = place;
    clear.hidden = false;
    clear.textContent = `only ${title} ✕`;
    apply();
    head.scrollIntoView({ block: "start" });
  };
  box.append(head, make("div", { class: "bar" }, search, kinds, parts, only, clear, found), make("div", { class: "tablebox", role: "region", tabindex: 0, "aria-label": "Table of changes" }, rows.node), rows.more);
  apply();
}

if (!data.models.length) main.append(make("p", {}, "No model changed."));
for (const m of data.models) main.append(model(m));
document.documentElement.dataset.ready = "yes";
