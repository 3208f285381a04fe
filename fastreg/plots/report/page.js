// The page: header, strip plots, table, and the pair that is chosen.

const REPORT = JSON.parse(document.getElementById("report").textContent);
const ROWS = REPORT.rows, COLUMNS = REPORT.columns;
const WORDS = {done: "✓ not suspect", suspect: "▲ suspect", failed: "✕ failed", unfinished: "… unfinished", unreadable: "✕ unreadable"};
const RANK = ["suspect", "failed", "unreadable", "unfinished", "done"];
const VIEWS = ["flicker", "checkerboard", "difference", "edges", "deformation"];
const $ = id => document.getElementById(id);

const state = {
  sort: "verdict", down: false, order: [], pair: null, view: "flicker", swapped: false, playing: null, speed: 2,
  squares: 8, mesh: true, jacobian: true, views: null, planes: [], strips: [],
};

function element(name, text, parent, attributes = {}) {
  const node = document.createElement(name);
  if (text !== undefined) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

// A figure as people write it: thousands apart, three decimals, one digit of what is too small for them.
function shown(value, column) {
  if (value === undefined || value === null) return "–";
  if (column.percent) return `${(100 * value).toFixed(1)} %`;
  if (column.whole) return value.toLocaleString("en");
  const size = Math.abs(value);
  const text = value === 0 ? "0" : size < 0.0005 ? value.toExponential(0) : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : 3);
  return text.replaceAll("-", "−");
}

function start() {
  $("title").textContent = document.title;
  $("made").textContent = REPORT.made;
  for (const name of [...RANK].reverse()) {
    const count = ROWS.filter(row => row.state === name).length;
    if (!count && !["done", "suspect", "failed"].includes(name)) continue;
    const item = element("li", "", $("counts"), {"data-state": name});
    element("b", count, item, {class: count ? name : ""});
    item.append(` ${WORDS[name].slice(2)}`);
  }
  $("asked").hidden = !Object.keys(REPORT.options).length;
  for (const [name, value] of Object.entries(REPORT.options)) fact($("options"), name, value);

  const strips = COLUMNS.filter(column => column.strip && ROWS.length > 1);
  $("figures").hidden = !strips.length;
  state.strips = strips.map(column => strip(column, ROWS, openPair, hover));
  $("strips").append(...state.strips);

  const heads = [{key: "name", title: "Pair", words: true}, {key: "verdict", title: "Verdict", words: true}, ...COLUMNS.filter(c => c.table)];
  for (const column of heads) {
    const head = element("th", undefined, $("heads"), {scope: "col", "data-key": column.key, class: column.words ? "words" : ""});
    const button = element("button", column.title, head, {type: "button", title: column.help || `Sort by ${column.title.toLowerCase()}`});
    if (column.unit || column.sub) element("small", column.sub || column.unit, button);
    button.addEventListener("click", () => sortBy(column.key));
  }
  $("filter").addEventListener("input", fill);
  $("rows").addEventListener("keydown", moveInTable);
  for (const view of VIEWS) {
    const button = element("button", view[0].toUpperCase() + view.slice(1), $("views"), {type: "button", role: "radio", "data-view": view});
    button.addEventListener("click", () => choose(view));
  }
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  document.addEventListener("keydown", pressed);
  sortBy("verdict");
  const [name, view] = linked();
  if (VIEWS.includes(view)) state.view = view;
  const wanted = [ROWS.findIndex(row => row.name === name), state.order.find(k => $(`views-${k}`)), state.order[0]];
  const first = wanted.find(k => k >= 0);
  if (first !== undefined) openPair(first, false);
}

// The pair and the view that the address names, if it does.
function linked() {
  try {
    return location.hash.slice(1).split("/").map(decodeURIComponent);
  } catch {
    return [];
  }
}

function fact(list, name, value, wide) {
  const box = element("div", undefined, list, wide ? {class: "wide"} : {});
  element("dt", name, box);
  element("dd", value, box);
  return box;
}

// ---- table

function valueOf(row, key) {
  return key === "name" ? row.name : key === "verdict" ? RANK.indexOf(row.state) : row.figures[key];
}

function sortBy(key) {
  state.down = state.sort === key && state.order.length ? !state.down : false;
  state.sort = key;
  fill();
}

// The rows that the filter leaves, in order; what has no value comes last either way.
function fill() {
  const wanted = $("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const text = row => `${row.name} ${WORDS[row.state]} ${row.why} ${row.moving} ${row.fixed}`.toLowerCase();
  const kept = ROWS.map((_, k) => k).filter(k => wanted.every(word => text(ROWS[k]).includes(word)));
  const compare = (a, b) => {
    const [x, y] = [valueOf(ROWS[a], state.sort), valueOf(ROWS[b], state.sort)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    const by = typeof x === "string" ? x.localeCompare(y, "en", {numeric: true}) : x - y;
    return state.down ? -by : by;
  };
  state.order = kept.sort((a, b) => compare(a, b) || ROWS[a].name.localeCompare(ROWS[b].name, "en", {numeric: true}));
  for (const head of $("heads").children) {
    const here = head.dataset.key === state.sort;
    head.setAttribute("aria-sort", here ? state.down ? "descending" : "ascending" : "none");
  }
  $("rows").replaceChildren(...state.order.map(rowOf));
  $("found").textContent = kept.length === ROWS.length ? "" : `${kept.length} of ${ROWS.length}`;
}

function rowOf(k) {
  const row = ROWS[k], line = element("tr", undefined, null, {tabindex: 0, "data-pair": k, "aria-selected": k === state.pair});
  element("td", row.name, line, {class: "words"});
  const verdict = element("td", undefined, line, {class: "words"});
  element("span", WORDS[row.state], verdict, {class: row.state});
  if (row.why) element("small", row.why, verdict);
  for (const column of COLUMNS.filter(c => c.table)) element("td", shown(row.figures[column.key], column), line);
  line.addEventListener("click", () => openPair(k));
  line.addEventListener("mouseenter", () => hover(k));
  line.addEventListener("mouseleave", () => hover(null));
  return line;
}

function moveInTable(event) {
  const line = event.target.closest("tr");
  if (!line) return;
  if (event.key === "Enter") openPair(Number(line.dataset.pair));
  const beside = {ArrowDown: line.nextElementSibling, ArrowUp: line.previousElementSibling}[event.key];
  if (beside) beside.focus();
  if (event.key === "Enter" || event.key.startsWith("Arrow")) event.preventDefault();
}

function hover(k) {
  for (const plot of state.strips) plot.point(k ?? state.pair);
}

// ---- the chosen pair

async function openPair(k, scroll = true) {
  state.pair = k;
  const row = ROWS[k];
  for (const line of $("rows").children) line.setAttribute("aria-selected", Number(line.dataset.pair) === k);
  hover(null);
  $("pair").hidden = false;
  $("pair").dataset.ready = "";
  $("name").textContent = row.name;
  $("verdict").className = `verdict ${row.state}`;
  $("verdict").textContent = WORDS[row.state] + (row.why ? `: ${row.why}` : "");
  $("note").hidden = !row.note;
  $("note").textContent = row.note;
  $("facts").replaceChildren();
  for (const column of COLUMNS) {
    if (row.figures[column.key] === undefined) continue;
    const unit = column.unit ? ` ${column.unit}` : "";
    fact($("facts"), column.long, shown(row.figures[column.key], column) + unit).title = column.help;
  }
  if (row.measure) fact($("facts"), "similarity is", row.measure);
  for (const [name, path] of [["fixed image", row.fixed], ["moving image", row.moving]]) if (path) fact($("facts"), name, path, true);

  const source = $(`views-${k}`);
  state.views = source ? JSON.parse(source.textContent) : null;
  $("pictures").hidden = !state.views;
  if (state.views) {
    const planes = await Promise.all(state.views.planes.map(async plane => ({...plane, images: await loadSprites(plane), slice: plane.first})));
    if (state.pair !== k) return;  // another was chosen meanwhile
    state.planes = planes;
    buildPlanes();
    choose(possible().includes(state.view) ? state.view : "flicker");
    offerViewer(k);
  }
  $("pair").dataset.ready = k;
  if (scroll) $("pair").scrollIntoView({behavior: "smooth", block: "start"});
}

function step(by) {
  const place = state.order.indexOf(state.pair) + by;
  if (state.order[place] !== undefined) openPair(state.order[place], false);
}

function possible() {
  const deformed = state.planes.some(plane => plane.images.field);
  return VIEWS.filter(view => view !== "deformation" || deformed);
}

function buildPlanes() {
  $("planes").replaceChildren();
  $("planes").classList.toggle("single", state.planes.length === 1);
  const shares = state.planes.map(plane => `minmax(0, ${(plane.width / plane.height).toFixed(3)}fr)`);  // of one height
  $("planes").style.setProperty("--columns", shares.join(" "));
  for (const plane of state.planes) {
    const figure = element("figure", undefined, $("planes"), {class: "plane"}), frame = element("div", undefined, figure, {class: "frame"});
    const scale = Math.max(1, Math.min(4, Math.round(480 / Math.max(plane.width, plane.height))));
    plane.canvas = element("canvas", undefined, frame, {width: scale * plane.width, height: scale * plane.height, tabindex: 0, role: "img"});
    plane.context = plane.canvas.getContext("2d", {willReadFrequently: true});
    plane.context.imageSmoothingQuality = "high";
    (plane.letters || []).forEach((letter, k) => element("span", letter, frame, {class: "lrtb"[k], "aria-hidden": true}));
    const caption = element("figcaption", plane.name, figure);
    plane.place = element("span", "", null);
    if (plane.indices.length > 1) {
      plane.slider = element("input", undefined, caption, {type: "range", min: 0, max: plane.indices.length - 1, step: 1, "aria-label": `Slice, ${plane.name}`});
      plane.slider.addEventListener("input", () => { plane.slice = Number(plane.slider.value); draw(); });
    }
    caption.append(plane.place);
    plane.canvas.addEventListener("click", event => lead(plane, event));
    plane.canvas.addEventListener("keydown", event => {
      const by = {ArrowUp: 1, ArrowDown: -1}[event.key];
      if (!by) return;
      event.preventDefault();
      plane.slice = Math.min(Math.max(plane.slice + by, 0), plane.indices.length - 1);
      draw();
    });
  }
}

// The other planes step to the slice that is nearest to the place that was clicked.
function lead(plane, event) {
  if (plane.axis === null) return;
  const {canvas} = plane, box = canvas.getBoundingClientRect();
  const part = [1 - (event.clientX - box.left) / box.width, 1 - (event.clientY - box.top) / box.height];
  const axes = [0, 1, 2].filter(axis => axis !== plane.axis);  // across, up
  for (const other of state.planes) {
    const k = axes.indexOf(other.axis);
    if (k < 0) continue;
    const wanted = part[k] * other.of - 0.5, distances = other.indices.map(index => Math.abs(index - wanted));
    other.slice = distances.indexOf(Math.min(...distances));
  }
  draw();
}

function choose(view) {
  state.view = view;
  state.swapped = false;
  pause();
  for (const button of $("views").children) {
    button.setAttribute("aria-checked", button.dataset.view === view);
    button.hidden = !possible().includes(button.dataset.view);
  }
  buildControls();
  draw();
  history.replaceState(null, "", `#${encodeURIComponent(ROWS[state.pair].name)}/${view}`);
}

function buildControls() {
  const box = $("controls"), before = state.planes[0].images.before;
  box.replaceChildren();
  const button = (text, id, act) => element("button", text, box, {type: "button", id}).addEventListener("click", act);
  const slider = (text, id, key, min, max, act) => {
    const label = element("label", text, box);
    const input = element("input", undefined, label, {type: "range", id, min, max, step: 1, value: state[key]});
    input.addEventListener("input", () => { state[key] = Number(input.value); act(); });
  };
  const box2 = (text, id, key) => {
    const label = element("label", undefined, box), input = element("input", undefined, label, {type: "checkbox", id});
    input.checked = state[key];
    label.append(text);
    input.addEventListener("change", () => { state[key] = input.checked; draw(); });
  };
  if (state.view === "flicker") {
    button("Swap", "swap", swap);
    button("Play", "play", play);
    slider("Speed", "speed", "speed", 1, 8, () => { if (state.playing) { pause(); play(); } });
  } else if (state.view === "checkerboard") {
    button("Swap", "swap", swap);
    slider("Squares", "squares", "squares", 2, 32, draw);
  } else if (state.view === "deformation") {
    box2("grid", "mesh", "mesh");
    box2("log Jacobian", "jacobian", "jacobian");
  } else if (before) button("Before / after", "swap", swap);
}

function swap() {
  state.swapped = !state.swapped;
  draw();
}

function play() {
  if (state.playing) return pause();
  state.playing = setInterval(swap, 1000 / state.speed);
  $("play").textContent = "Pause";
}

function pause() {
  clearInterval(state.playing);
  state.playing = null;
  if ($("play")) $("play").textContent = "Play";
}

// What the pictures are, in words; also their accessible names.
function said() {
  const other = state.swapped && state.planes[0].images.before ? "before" : "after";
  const image = other === "before" ? "moving image before" : "moved image";
  return {
    flicker: state.swapped ? "Moved image" : "Fixed image",
    checkerboard: "Fixed and moved image in turn",
    difference: `Difference of the fixed image and the ${image}`,
    edges: `Edges of the fixed image on the ${image}`,
    deformation: `Moved image with ${[state.mesh && "the moving image's grid", state.jacobian && "the log Jacobian"].filter(Boolean).join(" and ") || "folds"}`,
  }[state.view];
}

function draw() {
  const words = said(), how = {...state, ...state.views};
  $("shown").textContent = words;
  $("planes").dataset.shown = words;
  for (const plane of state.planes) {
    DRAW[state.view](plane.context, plane, plane.images, plane.slice, how);
    const place = plane.axis === null ? "" : `slice ${plane.indices[plane.slice] + 1} of ${plane.of}`;
    plane.place.textContent = place;
    plane.canvas.setAttribute("aria-label", `${words}, ${plane.name} ${place}`);
    if (plane.slider) plane.slider.value = plane.slice;
  }
  drawLegend();
}

function drawLegend() {
  const box = $("legend");
  box.replaceChildren();
  const bar = (colours, low, high, text) => {
    const item = element("span", low, box), stops = [0, 64, 128, 191, 255].map(k => `rgb(${colours.slice(3 * k, 3 * k + 3).join()})`);
    element("span", undefined, item, {class: "ramp", style: `background: linear-gradient(to right, ${stops.join()})`});
    item.append(`${high} ${text}`);
  };
  const line = (colour, text) => {
    const item = element("span", undefined, box);
    element("i", undefined, item, {style: `background: rgb(${colour.join()})`});
    item.append(text);
  };
  if (state.view === "difference") bar(FIRE, "0", "70 % of the window", "");
  if (state.view === "edges") line(EDGE, "edges of the fixed image");
  if (state.view === "deformation") {
    const {log_range: range, grid_mm: grid} = state.views;
    if (state.jacobian) bar(VOLUME, `−${range}`, `+${range}`, `log Jacobian (volumes × ${Math.exp(-range).toFixed(2)} to ${Math.exp(range).toFixed(2)})`);
    if (state.mesh) line(MESH, `grid of the moving image, every ${grid} mm`);
    line(FOLD, "folds");
  }
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === " " && event.target.tagName === "BUTTON") return;  // presses it
  if (event.key === "j" || event.key === "k") return step(event.key === "j" ? 1 : -1);
  if (!state.views) return;
  const view = possible()[Number(event.key) - 1];
  if (event.key === " ") { event.preventDefault(); swap(); }
  else if (event.key === "p" && state.view === "flicker") play();
  else if (view) choose(view);
}

start();
