// The page of a history: a time line of commits × layers.
const main = document.querySelector("main");
const steps = data.steps; // newest first

const METRICS = {
  share: { title: "share of the layer's bytes that changed", log: false, value: (c) => c.share, show: percent },
  stored: { title: "bytes stored", log: true, value: (c) => c.stored, show: bytes },
  update: { title: "how it is stored", value: (c) => c.update, show: (v) => v },
};
const UPDATES = ["dense", "delta", "sparse", "low-rank", "ia3"];
const updateColour = (name) => `var(--c${UPDATES.includes(name) ? UPDATES.indexOf(name) + 1 : 6})`;

function tiles() {
  const stored = steps.reduce((sum, s) => sum + s.stored, 0), whole = steps.reduce((sum, s) => sum + s.bytes, 0), files = steps.reduce((sum, s) => sum + s.size, 0);
  const list = [[count(steps.length), `commit${steps.length === 1 ? "" : "s"} changed the model`], [bytes(stored), "stored for all of them"]];
  if (whole) list.push([bytes(whole), "of new tensor values in them"]);
  if (files) list.push([bytes(files), "if each version were kept whole"]);
  main.append(make("ul", { class: "tiles" }, list.map(([value, what]) => make("li", {}, make("b", {}, value), make("span", {}, what)))));
}

function timeLine() {
  const shown = data.timeline.commits; // indices of steps, oldest first
  if (!shown.length) return;
  let metric = "share";
  const figure = make("div", { class: "figure", role: "region", "aria-label": "Time line of commits and layers", tabindex: 0 });
  const choose = make("select", { onchange: (event) => { metric = event.target.value; draw(); } }, Object.entries(METRICS).map(([name, m]) => make("option", { value: name }, m.title)));
  main.append(heading("What each commit changed", saveButton(figure, "time-line")), make("div", { class: "bar" }, make("label", {}, "Colour shows ", choose),
    make("span", { class: "soft" }, shown.length < steps.length ? `The newest ${count(shown.length)} commits; oldest to the left.` : "Oldest commit to the left.")), figure);
  function draw() {
    const what = METRICS[metric], cells = data.timeline.cells;
    const s = metric === "update" ? null : scale(cells.map(what.value), what.log);
    const columns = shown.map((i) => `${steps[i].commit.slice(0, 7)}`);
    const label = (cell) => {
      const step = steps[shown[cell.column]];
      const lines = [`${step.commit.slice(0, 7)} · ${step.date.slice(0, 10)} · ${step.author}`, step.subject, `${data.timeline.rows[cell.row]}: ${count(cell.changed)} of ${plural(cell.tensors, "tensor")} changed`];
      lines.push(`${percent(cell.share)} of its bytes, stored as ${bytes(cell.stored)} (${cell.update})`);
      return lines.join("\n");
    };
    figure.replaceChildren(cost(shown), grid({
      label: "commits and layers", columns, rows: data.timeline.rows, height: data.timeline.rows.length > 40 ? 14 : 20, cells: cells.map((cell) => ({
        column: cell.column, row: cell.row, text: label(cell), word: metric === "update" ? cut(cell.update, 9) : what.show(what.value(cell)), ink: metric === "update" ? "lit" : inkOn(s.at(what.value(cell)) || 0.02), fill: metric === "update" ? updateColour(cell.update) : colour(s.at(what.value(cell)) || 0.02),
        choose: () => { const row = document.getElementById(`c${shown[cell.column]}`); if (row) { row.scrollIntoView({ block: "center" }); row.focus(); } },
      })),
    }), metric === "update" ? names() : legend(what.title, s, (e) => bytes(10 ** e)));
  }
  redrawn.push(draw);
  draw();
}

function names() {
  const used = [...new Set(data.timeline.cells.map((cell) => cell.update))].sort();
  const svg = make("svg", { width: 110 * used.length + 20, height: 30, viewBox: `0 0 ${110 * used.length + 20} 30`, role: "img", "aria-label": `Colours: ${used.join(", ")}` });
  used.forEach((name, i) => svg.append(make("rect", { x: 14 + 110 * i, y: 10, width: 12, height: 12, rx: 2, fill: updateColour(name) }), make("text", { x: 32 + 110 * i, y: 20 }, name)));
  return svg;
}

// A bar for each commit: what came in, and what it took to store

function cost(shown) {
  const rows = data.timeline.rows, left = Math.min(300, Math.max(60, Math.max(...rows.map((t) => cut(t, 46).length)) * 6.3 + 12));
  const w = Math.max(9, Math.min(56, Math.floor(Math.max(320, 1120 - left - 20) / shown.length))), H = 70;
  const width = left + w * shown.length + 12;
  const top = Math.max(1, ...shown.map((i) => Math.max(steps[i].bytes, steps[i].stored)));
  const tall = (v) => (v ? Math.max(1, (v / top) * (H - 6)) : 0);
  const svg = make("svg", { width, height: H + 14, viewBox: `0 0 ${width} ${H + 14}`, role: "img", "aria-label": "Bytes of new tensor values and bytes stored, by commit" });
  svg.append(make("text", { x: left - 8, y: 16, "text-anchor": "end", class: "soft" }, bytes(top)));
  svg.append(make("rect", { x: 2, y: H - 26, width: 10, height: 10, fill: "var(--bar2)", opacity: 0.35 }), make("text", { x: 16, y: H - 17, class: "soft" }, "new"));
  svg.append(make("rect", { x: 2, y: H - 10, width: 10, height: 10, fill: "var(--bar)" }), make("text", { x: 16, y: H - 1, class: "soft" }, "stored"));
  shown.forEach((i, column) => {
    const x = left + w * column + 0.75, step = steps[i], text = `${step.commit.slice(0, 7)}: ${bytes(step.bytes)} of new values, stored as ${bytes(step.stored)}`;
    svg.append(hinted(make("rect", { x, y: H - tall(step.bytes), width: w - 1.5, height: tall(step.bytes), fill: "var(--bar2)", opacity: 0.35 }), text));
    svg.append(hinted(make("rect", { x, y: H - tall(step.stored), width: w - 1.5, height: tall(step.stored), fill: "var(--bar)" }), text));
  });
  svg.append(make("line", { x1: left, x2: width - 8, y1: H, y2: H, stroke: "var(--line)" }));
  return svg;
}

function list() {
  const number = (title, key, show) => ({ title, number: true, key, show: (s) => show(key(s)) });
  const rows = table({ caption: "Commits that changed the model", rows: steps, columns: [
    { title: "commit", class: "mono", key: (s) => s.commit, show: (s) => make("span", { id: `c${s.index}`, tabindex: -1 }, s.commit.slice(0, 10)) },
    { title: "date", key: (s) => s.date, show: (s) => s.date.slice(0, 16).replace("T", " ") },
    { title: "author", key: (s) => s.author, show: (s) => s.author },
    { title: "subject", class: "name", key: (s) => s.subject, show: (s) => (s.merge ? `${s.subject} (merge)` : s.subject) },
    { title: "changes", key: (s) => s.what, show: (s) => s.what },
    { title: "stored as", key: (s) => s.how, show: (s) => s.how },
    number("new values", (s) => s.bytes, bytes), number("stored", (s) => s.stored, bytes),
  ] });
  const found = make("span", { class: "soft", role: "status" }, plural(steps.length, "commit"));
  const search = make("input", { type: "search", placeholder: "author, subject, commit", "aria-label": "Filter commits", oninput: () => {
    const text = search.value.trim().toLowerCase();
    const kept = steps.filter((s) => !text || `${s.commit} ${s.author} ${s.subject}`.toLowerCase().includes(text));
    rows.set(kept);
    found.textContent = kept.length === steps.length ? plural(steps.length, "commit") : `${count(kept.length)} of ${plural(steps.length, "commit")}`;
  } });
  main.append(heading("Commits"), make("div", { class: "bar" }, search, found), make("div", { class: "tablebox", role: "region", tabindex: 0, "aria-label": "Table of commits" }, rows.node), rows.more);
}

tiles();
timeLine();
list();
document.documentElement.dataset.ready = "yes";
