"use strict";
// Names of files, classes and measurements are text of others: they reach the page by textContent alone.

const $ = (id) => document.getElementById(id);
const ROW = 26; // px
const CELLS = 3, CELL = 86; // of the gallery: in a row, px of their sides
const REJECTED = [130, 130, 130];
const NONE = [0, 190, 210]; // without a class
const KIND = 1000; // what was compared is a layer of its own: this and the number of its kind
const KINDS = [ // the server's, in its order; told apart by colour, by dashes (px of the screen) and by the shape of dots
  { name: "both", text: () => "found by both", colour: [0, 130, 90], dash: [], shape: "circle" },
  { name: "class", text: () => "by both, another class", colour: [235, 190, 0], dash: [9, 3, 2, 3], shape: "cross" },
  { name: "only", text: () => `only in ${table.title}`, colour: [216, 70, 0], dash: [7, 4], shape: "square" },
  { name: "missed", text: () => `missed: only in ${compared.name}`, colour: [20, 90, 230], dash: [2, 3], shape: "diamond" },
];
const MANY = 2000; // numbers of places above which dots are squares, which take less time
const LARGEST = 4; // px of the screen for a px of the slide
const DIFFERENCES = "differences"; // of the orders
const MOST = 4000; // corners of an outline
const STEP = 2; // px of the screen between those of an outline drawn by hand, and of two clicks that are one

let table, slide = null, viewer = null, heat = null, tissue = null, marks = null, gallery = false;
let order = { objects: [], certainty: [], classes: [] };
let places = new Map(); // object -> its place in the order
let decisions = {}, chosen = null, drawn = null, painted = null, hidden = new Set();
const pictures = new Map(); // of objects, those looked at last
let asked = null, asking = 0, opening = 0;
let listed = order; // before it is narrowed to those picked
let measures = [], picked = null, ranges = null; // picked: of the objects' numbers; ranges: along and up, each [from, to]
let compared = null; // with the objects beside, once the server has done so
let tool = null, sketch = [], pointer = null, drawClass = null, pad = null; // sketch: corners, px of the slide

// ---- the server

async function get(path, options) {
  const answer = await fetch(path, options);
  const content = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error((content && content.error) || `the server says ${answer.status}`);
  return content;
}

function post(path, content) {
  const headers = { "Content-Type": "application/json" };
  return get(path, { method: "POST", headers, body: JSON.stringify(content) });
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

function told(work) {
  return (...words) => Promise.resolve().then(() => work(...words)).catch((error) => {
    if (error.name === "AbortError") return;
    say(error instanceof TypeError ? `Not saved or not loaded: the server does not answer (${error.message})` : error.message, true);
  });
}

const of = (more = "") => `api/slides/${slide.number}${more}`;
const differs = () => Boolean(compared && $("differ").checked);
const beside = () => (differs() ? "&beside=1" : "");

// ---- small things

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const rgb = (colour) => `rgb(${colour.join(" ")})`;

function swatch(colour) {
  const made = element("span", undefined, "swatch");
  made.style.background = rgb(colour);
  return made;
}

function shown(value) {
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

const isNumber = (text) => text !== "" && Number.isFinite(Number(text));
const cell = (text) => (isNumber(text) ? shown(Number(text)) : text);

// ---- the list of slides

let sorted = { column: -1, down: false };

function showTable() {
  document.title = table.title;
  $("title").textContent = table.title;
  const head = element("tr");
  table.columns.forEach((name, column) => {
    const top = element("th"), button = element("button", name);
    const active = sorted.column === column;
    if (active) {
      button.textContent += sorted.down ? " \u25be" : " \u25b4";
      top.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
    }
    button.addEventListener("click", () => {
      sorted = { column, down: active ? !sorted.down : table.rows.some((row) => isNumber(row[column])) };
      showTable();
    });
    top.append(button);
    head.append(top);
  });
  $("table").tHead.replaceChildren(head);
  const numbers = table.rows.map((_, number) => number);
  if (sorted.column >= 0) {
    const key = (number) => table.rows[number][sorted.column];
    const compare = (a, b) => (isNumber(a) && isNumber(b) ? a - b : isNumber(b) - isNumber(a) || a.localeCompare(b));
    numbers.sort((a, b) => compare(key(a), key(b)) * (sorted.down ? -1 : 1));
  }
  const asPictures = $("pictures").checked;
  $("table").tBodies[0].hidden = asPictures;
  $("images").hidden = !asPictures;
  const [shownIn, emptied] = asPictures ? [$("images"), $("table").tBodies[0]] : [$("table").tBodies[0], $("images")];
  emptied.replaceChildren();
  shownIn.replaceChildren(...numbers.map((number) => {
    const row = asPictures ? imageOf(number) : rowOf(number);
    row.tabIndex = 0;
    row.dataset.slide = table.of[number];
    row.classList.toggle("lost", !table.there[table.of[number]]);
    row.addEventListener("click", () => open(table.of[number]));
    row.addEventListener("keydown", (event) => event.key === "Enter" && open(table.of[number]));
    return row;
  }));
  markSlide();
}

function markSlide() {
  for (const row of document.querySelectorAll("[data-slide]")) row.setAttribute("aria-current", String(slide !== null && slide.number === Number(row.dataset.slide)));
}

function rowOf(number) {
  const row = element("tr");
  for (const text of table.rows[number]) {
    const made = element("td", cell(text), isNumber(text) ? "number" : "");
    made.title = text;
    row.append(made);
  }
  return row;
}

// The image as its run drew it, with what the table is sorted by.
function imageOf(number) {
  const made = element("figure"), name = table.rows[number][0], key = sorted.column > 0 ? table.rows[number][sorted.column] : "";
  const text = key === "" ? name : `${cell(key)}  ${name}`;
  if (table.there[table.of[number]]) made.append(picture(`api/slides/${table.of[number]}/picture.jpg`, text));
  made.append(element("figcaption", text));
  made.title = name;
  return made;
}

function picture(path, text) {
  const made = element("img");
  made.loading = "lazy";
  made.alt = text;
  made.src = path;
  return made;
}

// ---- a slide

function source(geometry, layer, kind) {
  const levels = geometry.levels.slice().reverse(); // OpenSeadragon begins with the coarsest
  const made = new OpenSeadragon.TileSource({
    width: geometry.shape[1],
    height: geometry.shape[0],
    tileSize: geometry.tile,
    minLevel: 0,
    maxLevel: levels.length - 1,
    getTileUrl: (level, x, y) => of(`/${layer}/${levels.length - 1 - level}/${x}_${y}.${kind}?v=${geometry.version}`),
  });
  made.getLevelScale = (level) => 1 / levels[level].scale;
  made.getNumTiles = (level) => new OpenSeadragon.Point(
    Math.ceil(levels[level].shape[1] / geometry.tile), Math.ceil(levels[level].shape[0] / geometry.tile));
  return made;
}

const open = told(async (number, view = {}) => {
  const turn = ++opening;
  say("Opening \u2026");
  const facts = await get(`api/slides/${number}`);
  if (turn !== opening) return;
  slide = { ...facts, number };
  decisions = {};
  chosen = drawn = painted = asked = compared = null;
  hidden = new Set();
  measures = [];
  picked = ranges = null;
  drawClass = null;
  use(null);
  markSlide();
  $("name").textContent = facts.name;
  $("notes").replaceChildren(...facts.notes.map((note) => element("li", note)));
  $("review").hidden = !facts.review;
  $("list_part").hidden = !facts.objects && !facts.review;
  $("heat_row").hidden = !facts.heat;
  $("tissue_row").hidden = !facts.tissue;
  $("spot_row").hidden = !facts.hot_spot;
  $("measure").hidden = $("list_part").hidden;
  $("compared").hidden = true;
  $("download").href = of("/review.geojson");
  showAbout(null);
  startViewer(view);
  $("order").value = view.by && view.by !== DIFFERENCES ? view.by : facts.certain ? "doubt" : "file";
  await Promise.all([loadReview(), loadOrder()]);
  if (turn !== opening) return;
  if (!$("charts").hidden) await loadMeasures();
  if (facts.beside) await compare(turn, view.by === DIFFERENCES);
  if (turn !== opening) return;
  say(order.objects.length ? `${order.objects.length} objects` : "No objects");
  if (view.object !== undefined && places.has(view.object)) await choose(view.object, false);
});

function startViewer(view) {
  if (viewer) viewer.destroy();
  heat = tissue = null;
  viewer = OpenSeadragon({
    element: $("viewer"),
    tileSources: source(slide.slide, "tiles", "jpg"),
    showNavigationControl: false,
    showNavigator: true,
    navigatorPosition: "TOP_RIGHT",
    navigatorSizeRatio: 0.15,
    drawer: "canvas",
    maxZoomPixelRatio: LARGEST,
    visibilityRatio: 0.2,
    animationTime: 0.4,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    imageSmoothingEnabled: true,
  });
  marks = element("canvas", undefined, "marks");
  pad = element("canvas", undefined, "sketch");
  viewer.canvas.append(marks, pad);
  viewer.addHandler("open", () => {
    if (slide.heat) {
      viewer.addTiledImage({
        tileSource: source(slide.heat, "heat", "png"),
        x: 0, y: 0,
        width: (slide.heat.shape[1] * slide.heat.cell) / slide.slide.shape[1],
        // its last cells may reach over the slide's edge
        clip: new OpenSeadragon.Rect(0, 0, slide.slide.shape[1] / slide.heat.cell, slide.slide.shape[0] / slide.heat.cell),
        opacity: heatOpacity(),
        success: (event) => { heat = event.item; },
      });
    }
    showTissue();
    if (view.zoom) {
      viewer.viewport.zoomTo(zoomOf(view.zoom), null, true);
      viewer.viewport.panTo(onViewport(view.x, view.y), true);
    }
    ask();
  });
  viewer.addHandler("open-failed", (event) => say(event.message, true));
  viewer.addHandler("tile-load-failed", (event) => say(`A tile cannot be read: ${event.message}`, true));
  viewer.addHandler("update-viewport", follow);
  viewer.addHandler("update-viewport", drawSketch);
  viewer.addHandler("animation", () => ask());
  viewer.addHandler("animation-finish", () => { draw(); ask(); remember(); });
  viewer.addHandler("resize", () => { draw(); ask(); });
  viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; }); // the document's keys
  viewer.addHandler("canvas-click", told(async (event) => {
    if (!event.quick || !hasObjects()) return;
    if (tool) { clicked(event.position); return; }
    const { x, y } = onSlide(viewer.viewport.pointFromPixel(event.position, true));
    const found = await get(of(`/at?place=${x},${y},${6 / scale()}${beside()}`));
    if (found) select(found, false);
    else { chosen = null; showAbout(null); showRows(); draw(); remember(); }
  }));
  viewer.addHandler("canvas-double-click", (event) => { if (tool) { event.preventDefaultAction = true; close(); } });
  viewer.addHandler("canvas-press", (event) => {
    if (tool !== "brush" || classOfDrawn() === undefined) return;
    sketch = [placeOf(event.position)];
    drawSketch();
  });
  viewer.addHandler("canvas-drag", (event) => {
    if (tool !== "brush") return; // with the others a drag moves the slide
    event.preventDefaultAction = true;
    if (!sketch.length) return;
    extend(event.position);
    drawSketch();
  });
  viewer.addHandler("canvas-drag-end", (event) => { if (tool === "brush") event.preventDefaultAction = true; });
  viewer.addHandler("canvas-release", () => { if (tool === "brush") close(); });
  viewer.canvas.addEventListener("pointermove", (event) => {
    const box = viewer.canvas.getBoundingClientRect();
    const at = viewer.viewport && onSlide(viewer.viewport.pointFromPixel(new OpenSeadragon.Point(event.clientX - box.left, event.clientY - box.top), true));
    if (!at) return;
    pointer = at;
    if (tool === "polygon" && sketch.length) drawSketch();
    const { mpp } = slide.slide;
    const text = (px) => (mpp ? `${(px * mpp).toFixed(1)}` : px.toFixed(0));
    $("place").textContent = `x ${text(at.x)}, y ${text(at.y)} ${mpp ? "um" : "px"}`;
  });
}

// A slide is 1 wide on the viewport; scale: px of the screen per px of the slide.
const width = () => slide.slide.shape[1];
const onViewport = (x, y) => new OpenSeadragon.Point(x / width(), y / width());
const onSlide = (point) => ({ x: point.x * width(), y: point.y * width() });
const scale = (current = true) => (viewer.viewport.getContainerSize().x * viewer.viewport.getZoom(current)) / width();
const zoomOf = (wanted) => (wanted * width()) / viewer.viewport.getContainerSize().x;
const heatOpacity = () => ($("heat").checked ? Number($("opacity").value) : 0);

// All but the tissue is dimmed; it is asked for when it is first wanted.
function showTissue() {
  const opacity = () => ($("tissue").checked ? 1 : 0);
  if (!slide.tissue || (tissue === null && !opacity())) return;
  if (tissue) tissue.setOpacity(opacity());
  if (tissue !== null) return;
  const number = slide.number;
  tissue = false; // asked for
  viewer.addSimpleImage({
    url: of("/tissue.png"), x: 0, y: 0, width: slide.tissue, opacity: opacity(),
    success: (event) => {
      if (slide.number !== number) return;
      tissue = event.item;
      tissue.setOpacity(opacity());
    },
    error: (event) => say(event.message, true),
  });
}

function seen() {
  const box = viewer.viewport.getBounds(true);
  const a = onSlide(box.getTopLeft()), b = onSlide(box.getBottomRight());
  return [a.x, a.y, b.x, b.y];
}

function remember() {
  if (!slide || !viewer || !viewer.viewport) return;
  const centre = onSlide(viewer.viewport.getCenter());
  const view = new URLSearchParams({ slide: slide.number, x: centre.x.toFixed(1), y: centre.y.toFixed(1), zoom: scale(false).toPrecision(5), by: $("order").value });
  if (chosen) view.set("object", chosen.object);
  history.replaceState(null, "", `#${view}`);
}

function remembered() {
  const view = new URLSearchParams(location.hash.slice(1)), numbers = {};
  for (const name of ["slide", "x", "y", "zoom", "object"]) if (isNumber(view.get(name) ?? "")) numbers[name] = Number(view.get(name));
  if ([...$("order").options].some((option) => option.value === view.get("by"))) numbers.by = view.get("by");
  return numbers;
}

const hasObjects = () => Boolean(slide.objects || slide.review);

// ---- objects: only what is in view, and a margin

const ask = told(async () => {
  if (!slide || !hasObjects() || !$("show").checked || !viewer.world.getItemCount()) return;
  const [x0, y0, x1, y1] = seen(), px = 1 / scale();
  const inside = asked && x0 >= asked.box[0] && y0 >= asked.box[1] && x1 <= asked.box[2] && y1 <= asked.box[3];
  if (inside && px > asked.px / 1.6 && px < asked.px * 1.6) return;
  const dx = (x1 - x0) / 3, dy = (y1 - y0) / 3;
  const wanted = { box: [x0 - dx, y0 - dy, x1 + dx, y1 + dy], px };
  asked = wanted;
  const turn = ++asking, number = slide.number;
  const content = await get(of(`/objects?box=${wanted.box.map((side) => side.toFixed(1))}&px=${px}${beside()}`)).catch((error) => { asked = null; throw error; });
  if (turn !== asking || number !== slide.number) return;
  drawn = content;
  drawn.from = [wanted.box[0], wanted.box[1]];
  $("drawn").textContent = content.shown < content.total ? `${content.shown} of ${content.total} objects here are drawn; go nearer for all` : "";
  trace();
  draw();
});

function lookOf(object, number) {
  const said = decisions[object];
  if (said && said.action === "reject") return -2;
  if (said && said.action === "class") return slide.classes.findIndex((each) => each.name === said.name);
  return number;
}

// What it is drawn as: by its class, or by what the comparison says; kinds are there only where pages asked for them.
const layerOf = (look, kind = -1) => (look === -2 || kind < 0 || !differs() ? look : KIND + kind);

const colourOf = (layer) => (layer >= KIND ? KINDS[layer - KIND].colour : layer === -2 ? REJECTED : layer === -1 ? NONE : slide.classes[layer].colour);
const dashOf = (layer) => (layer >= KIND ? KINDS[layer - KIND].dash : layer === -2 ? [4, 3] : []);
const shapeOf = (layer) => (layer >= KIND ? KINDS[layer - KIND].shape : "circle");

// One path for each layer, in px of the slide from the window's corner: moving about draws them again as they are.
function trace() {
  if (!drawn) return;
  const paths = new Map();
  for (const shapes of [drawn, drawn.missed]) if (shapes) traceInto(paths, shapes);
  drawn.paths = [...paths.values()].sort((a, b) => a.stands - b.stands);
}

function traceInto(paths, { rings, dots }) {
  const [left, top] = drawn.from;
  const layer = (object, number, kind) => {
    const look = lookOf(object, number), wanted = layerOf(look, kind);
    if (hidden.has(look) || hidden.has(wanted)) return null;
    const stands = picked !== null && picked.has(object), key = `${stands} ${wanted}`;
    if (!paths.has(key)) paths.set(key, { layer: wanted, stands, rings: new Path2D(), dots: [] });
    return paths.get(key);
  };
  let at = 0;
  rings.ids.forEach((object, k) => {
    const found = layer(object, rings.classes[k], rings.kinds && rings.kinds[k]);
    if (found) {
      found.rings.moveTo(rings.xy[2 * at] - left, rings.xy[2 * at + 1] - top);
      for (at += 1; at < rings.ends[k]; at += 1) found.rings.lineTo(rings.xy[2 * at] - left, rings.xy[2 * at + 1] - top);
    }
    at = rings.ends[k];
  });
  dots.ids.forEach((object, k) => {
    const found = layer(object, dots.classes[k], dots.kinds && dots.kinds[k]);
    if (found) found.dots.push(dots.xy[2 * k] - left, dots.xy[2 * k + 1] - top);
  });
}

function dot(path, shape, x, y, radius) {
  if (shape === "circle") {
    path.moveTo(x + radius, y);
    path.arc(x, y, radius, 0, 2 * Math.PI);
  } else if (shape === "square") path.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  else if (shape === "diamond") {
    path.moveTo(x, y - 1.3 * radius);
    path.lineTo(x + 1.3 * radius, y);
    path.lineTo(x, y + 1.3 * radius);
    path.lineTo(x - 1.3 * radius, y);
    path.closePath();
  } else {
    for (const by of [1, -1]) {
      path.moveTo(x - radius, y - by * radius);
      path.lineTo(x + radius, y + by * radius);
    }
  }
}

// While the slide moves, what was drawn moves with it, as long as it reaches: drawing anew takes longer than a frame.
function follow() {
  if (!painted || !viewer.world.getItemCount()) { draw(); return; }
  const k = scale(), by = k / painted.k, corner = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const x = corner.x + painted.margin.x - painted.x * by, y = corner.y + painted.margin.y - painted.y * by;
  const size = viewer.viewport.getContainerSize(), { margin } = painted;
  const reaches = x <= margin.x && y <= margin.y
    && x + (size.x + 2 * margin.x) * by >= size.x + margin.x && y + (size.y + 2 * margin.y) * by >= size.y + margin.y;
  if (!reaches || by > 1.6) { draw(); return; }
  marks.style.transform = `translate(${x}px, ${y}px) scale(${by})`;
  showBar(k);
}

function draw() {
  if (!viewer || !viewer.viewport || !viewer.world.getItemCount()) return;
  const ratio = window.devicePixelRatio || 1;
  const size = viewer.viewport.getContainerSize();
  const margin = { x: Math.round(size.x / 4), y: Math.round(size.y / 4) }; // of the window, drawn besides
  const whole = { x: size.x + 2 * margin.x, y: size.y + 2 * margin.y };
  const [wide, high] = [Math.round(whole.x * ratio), Math.round(whole.y * ratio)];
  if (marks.width !== wide || marks.height !== high) {
    marks.width = wide;
    marks.height = high;
    marks.style.width = `${whole.x}px`;
    marks.style.height = `${whole.y}px`;
    marks.style.left = `${-margin.x}px`;
    marks.style.top = `${-margin.y}px`;
  }
  const context = marks.getContext("2d"), k = scale();
  const corner = viewer.viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true).plus(new OpenSeadragon.Point(margin.x, margin.y));
  painted = { k, x: corner.x, y: corner.y, margin };
  marks.style.transform = "none";
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, wide, high);
  showBar(k);
  if (drawn && drawn.paths && $("show").checked) {
    const x = corner.x + drawn.from[0] * k, y = corner.y + drawn.from[1] * k;
    for (const { layer, stands, rings, dots } of drawn.paths) {
      const colour = rgb(colourOf(layer)), line = layer >= KIND ? 2.2 : 1.8;
      const strokes = stands ? [["#000", line + 5], ["#fff", line + 3], [colour, line]] : [[colour, line]];
      context.setTransform(k * ratio, 0, 0, k * ratio, x * ratio, y * ratio);
      strokes.forEach(([each, thick], number) => {
        context.strokeStyle = each;
        context.lineWidth = thick / k;
        context.setLineDash(number === strokes.length - 1 ? dashOf(layer).map((length) => length / k) : []);
        context.stroke(rings);
      });
      context.setTransform(ratio, 0, 0, ratio, x * ratio, y * ratio);
      context.setLineDash([]);
      if (dots.length > MANY) {
        context.fillStyle = stands ? "#000" : colour;
        const side = stands ? 4 : 2;
        for (let n = 0; n < dots.length; n += 2) context.fillRect(dots[n] * k - side / 2, dots[n + 1] * k - side / 2, side, side);
        continue;
      }
      const radius = Math.min(7, Math.max(1.5, 6 * k ** 0.25));
      const path = new Path2D();
      for (let n = 0; n < dots.length; n += 2) dot(path, shapeOf(layer), dots[n] * k, dots[n + 1] * k, radius);
      for (const [each, thick] of strokes) {
        context.strokeStyle = each;
        context.lineWidth = thick;
        context.stroke(path);
      }
    }
  }
  if (slide.hot_spot && $("spot").checked) {
    const [x, y, radius] = slide.hot_spot;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.setLineDash([]);
    for (const [colour, line] of [["#fff", 4], ["#141414", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      context.arc(corner.x + x * k, corner.y + y * k, radius * k, 0, 2 * Math.PI);
      context.stroke();
    }
  }
  if (chosen) {
    const [x0, y0, x1, y1] = chosen.bounds.map((side, axis) => (axis % 2 ? corner.y : corner.x) + side * k);
    const margin = Math.max(8, 14 - (x1 - x0) / 2);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.setLineDash([]);
    for (const [colour, line] of [["#000", 4], ["#fff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(x0 - margin, y0 - margin, x1 - x0 + 2 * margin, y1 - y0 + 2 * margin);
    }
  }
}

function showBar(k) {
  const mpp = slide.slide.mpp || 1, per = k / mpp; // px of the screen per um, or per px
  const aim = 120 / per, power = 10 ** Math.floor(Math.log10(aim));
  const length = [5, 2, 1].map((each) => each * power).find((each) => each <= aim);
  $("length").style.width = `${length * per}px`;
  const inMm = slide.slide.mpp && length >= 1000;
  $("size").textContent = `${shown(inMm ? length / 1000 : length)} ${inMm ? "mm" : slide.slide.mpp ? "um" : "px"}`;
}

// ---- the list of objects, of which only the rows in view are there

const loadOrder = told(async (top = true) => {
  const number = slide.number;
  const content = hasObjects() ? await get(of(`/order?by=${$("order").value}${beside()}`)) : { objects: [], certainty: [], classes: [] };
  if (number !== slide.number) return;
  listed = content;
  narrow(top);
});

// The list, and so J and K, go through those picked alone.
function narrow(top = true) {
  const keep = listed.objects.map((object) => picked === null || picked.has(object));
  order = picked === null ? listed : Object.fromEntries(Object.entries(listed).map(([name, values]) => [name, values.filter((_, place) => keep[place])]));
  places = new Map(order.objects.map((object, place) => [object, place]));
  $("rows").style.height = `${topOf(order.objects.length + perRow() - 1)}px`;
  if (top) $("list").scrollTop = 0;
  showRows();
}

const perRow = () => (gallery ? CELLS : 1);
const rowHeight = () => (gallery ? CELL : ROW);
const topOf = (place) => Math.floor(place / perRow()) * rowHeight();

function showRows() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / rowHeight()) - (gallery ? 1 : 5)) * perRow();
  const last = Math.min(order.objects.length, first + (Math.ceil(list.clientHeight / rowHeight()) + (gallery ? 3 : 10)) * perRow());
  const rows = [];
  for (let place = first; place < last; place += 1) {
    const object = order.objects[place], look = lookOf(object, order.classes[place]), said = decisions[object];
    const sure = order.certainty[place], sureness = element("span", sure === null ? "" : sure.toFixed(3), "sure");
    const name = look >= 0 ? slide.classes[look].name : look === -2 ? className(order.classes[place]) : "no class";
    const colour = colourOf(layerOf(look, order.kinds && order.kinds[place]));
    const row = element("div", undefined, `${gallery ? "cell" : "row"} ${said ? said.action : ""}`);
    row.style.top = `${topOf(place)}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(chosen !== null && chosen.object === object));
    if (gallery) {
      row.style.left = `${(place % CELLS) * CELL}px`;
      row.style.width = row.style.height = `${CELL}px`;
      row.title = name;
      const image = object < 0 ? element("span") : kept(object, name);
      image.style.borderColor = rgb(colour);
      row.append(image, sureness);
    } else {
      row.append(swatch(colour), element("span", name, "grow"));
      if (order.kinds && differs()) row.append(element("span", ["", "other class", "only here", "missed"][order.kinds[place]], "said"));
      if (said) row.append(element("span", { accept: "right", reject: "rejected", class: "changed", draw: "drawn" }[said.action], "said"));
      row.append(sureness);
    }
    row.addEventListener("click", () => choose(object));
    rows.push(row);
  }
  $("rows").replaceChildren(...rows);
  const done = Object.keys(decisions).filter((object) => places.has(Number(object))).length;
  $("progress").textContent = slide && slide.review ? `${done} of ${order.objects.length} reviewed` : "";
}

// Pictures of the gallery stay while it is scrolled.
function kept(object, name) {
  const key = `${slide.number} ${object}`;
  if (!pictures.has(key)) {
    pictures.set(key, picture(of(`/objects/${object}.jpg`), name));
    if (pictures.size > 300) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(key);
}

function turnGallery() {
  gallery = !gallery;
  $("gallery").setAttribute("aria-pressed", String(gallery));
  narrow(false);
  const place = chosen ? places.get(chosen.object) : undefined;
  $("list").scrollTop = place === undefined ? 0 : topOf(place);
}

const className = (number) => (number >= 0 ? slide.classes[number].name : "no class");

const choose = told(async (object, move = true) => {
  select(await get(of(object < 0 ? `/missed/${-1 - object}` : `/objects/${object}`)), move);
});

function select(about, move = true) {
  chosen = about;
  showAbout(about);
  const place = places.get(about.object), list = $("list");
  if (place !== undefined && (topOf(place) < list.scrollTop || topOf(place) + rowHeight() > list.scrollTop + list.clientHeight)) {
    list.scrollTop = topOf(place) - list.clientHeight / 2;
  }
  showRows();
  if (move) goTo(about);
  draw();
  remember();
}

// Its centre; nearer where it is small on the screen, further where it does not fit.
function goTo(about) {
  const [x0, y0, x1, y1] = about.bounds, size = viewer.viewport.getContainerSize();
  const side = Math.max(x1 - x0, y1 - y0), k = scale(false), room = Math.min(size.x, size.y);
  viewer.viewport.panTo(onViewport(...about.centre));
  if (side * k > 0.8 * room) viewer.viewport.zoomTo(zoomOf((0.6 * room) / side));
  else {
    const wanted = side > 0 ? Math.min(2, 60 / side) : 1;
    if (k < wanted / 2) viewer.viewport.zoomTo(zoomOf(wanted));
  }
  const { left, right } = $("panels").getBoundingClientRect(); // beside what lies over the slide
  if (right > left) viewer.viewport.panBy(viewer.viewport.deltaPointsFromPixels(new OpenSeadragon.Point((left - right) / 2, 0), false));
  viewer.viewport.applyConstraints();
}

function step(by) {
  if (!order.objects.length) return;
  const place = chosen && places.has(chosen.object) ? places.get(chosen.object) + by : 0;
  if (place < 0 || place >= order.objects.length) say(by > 0 ? "This is the last one" : "This is the first one");
  else choose(order.objects[place]);
}

function showAbout(about) {
  if (!about) {
    $("about").replaceChildren(element("dt", "none chosen"), element("dd"));
    return;
  }
  const said = decisions[about.object], pairs = [["class", about.class ?? "none"], ["number", about.object < 0 ? `${-1 - about.object} of those missed` : about.object]];
  if (about.name) pairs.push(["name", about.name]);
  if (said) pairs.push(["review", `${{ accept: "right", reject: "rejected", class: said.name, draw: "drawn" }[said.action]}, ${said.reviewer}, ${said.time.slice(0, 16).replace("T", " ")}`]);
  pairs.push(...Object.entries(about.measurements).map(([name, value]) => [name, shown(value)]));
  $("about").replaceChildren(...pairs.flatMap(([name, value]) => [element("dt", name), element("dd", String(value))]));
}

// ---- beside another result, or the truth

const compare = told(async (turn, alone) => {
  say(`Comparing with ${slide.beside} \u2026`);
  const content = await get(of("/beside"));
  if (turn !== opening) return;
  compared = content;
  $("compared").hidden = false;
  $("other").textContent = compared.name;
  const percent = (part) => `${(100 * part).toFixed(1)} %`, { f1, precision, recall } = compared.scores;
  $("scores").textContent = `F1 ${f1.toFixed(3)}, precision ${percent(precision)}, recall ${percent(recall)}; ${compared.how}`;
  $("kinds").replaceChildren(...KINDS.map((kind, number) => {
    const row = element("li"), count = element("span", String(compared.counts[kind.name]), "count");
    row.append(switchOf(KIND + number, kind.text()), sample(kind), element("span", kind.text(), "grow"), count);
    return row;
  }));
  if (alone) $("order").value = DIFFERENCES;
  await besideChanged();
});

// Colours, and whether what is missed is there at all.
async function besideChanged() {
  const only = $("order").querySelector(`[value=${DIFFERENCES}]`);
  only.hidden = only.disabled = !differs();
  if (!differs()) {
    if ($("order").value === DIFFERENCES) $("order").value = slide.certain ? "doubt" : "file";
    if (chosen && chosen.object < 0) { chosen = null; showAbout(null); }
  }
  asked = null;
  await Promise.all([ask(), loadOrder()]);
}

function sample({ colour, dash, shape }) {
  const made = element("canvas", undefined, "sample"), ratio = window.devicePixelRatio || 1;
  made.width = 34 * ratio;
  made.height = 14 * ratio;
  const context = made.getContext("2d"), path = new Path2D();
  context.scale(ratio, ratio);
  context.strokeStyle = rgb(colour);
  context.lineWidth = 2;
  dot(path, shape, 28, 7, 4);
  context.stroke(path);
  context.setLineDash(dash);
  context.strokeRect(1.5, 2, 18, 10);
  return made;
}

// ---- corrections

// The box that shows and hides a layer.
function switchOf(layer, name) {
  const label = element("label"), box = element("input");
  box.type = "checkbox";
  box.checked = !hidden.has(layer);
  box.addEventListener("change", () => { box.checked ? hidden.delete(layer) : hidden.add(layer); trace(); draw(); });
  box.setAttribute("aria-label", `show ${name}`);
  label.append(box);
  return label;
}

function showClasses() {
  const review = Boolean(slide.review);
  $("classes").replaceChildren(...slide.classes.map((each, number) => {
    const row = element("li");
    row.append(switchOf(number, each.name), swatch(each.colour), element("span", each.name, "grow"));
    if (review) {
      const button = element("button");
      if (number < 9) button.append(element("kbd", String(number + 1)));
      button.setAttribute("aria-label", `the chosen object is ${each.name}`);
      button.title = `the chosen object is ${each.name}`;
      if (number >= 9) button.textContent = "set";
      button.addEventListener("click", () => give(each.name));
      row.append(button);
    }
    return row;
  }));
}

const drawnObjects = () => Object.keys(decisions).filter((object) => Number(object) >= slide.objects).join();

// Of this page, or of another one that was asked for meanwhile: objects may have come and gone.
async function take(said) {
  const before = drawnObjects();
  decisions = said;
  const changed = drawnObjects() !== before;
  if (changed && chosen && chosen.object >= slide.objects && !decisions[chosen.object]) { chosen = null; showAbout(null); }
  trace();
  draw();
  showRows();
  if (chosen) showAbout(chosen);
  if (!changed) return;
  asked = null;
  await Promise.all([ask(), loadOrder(false), $("charts").hidden || loadMeasures()]);
}

const loadReview = told(async () => {
  showClasses();
  const number = slide.number;
  const said = slide.review ? await get(of("/review")) : {};
  if (number === slide.number) await take(said);
});

let saving = Promise.resolve(); // one after the other, in the order of the keys

function decide(action, name) {
  if (!slide || !slide.review) return;
  if (!chosen) { say("Choose an object first: J"); return; }
  const object = chosen.object, number = slide.number, missed = object < 0;
  if (missed && action === "reject") { say(`It is in ${compared.name} alone: there is nothing to reject here`); return; }
  saving = saving.then(told(async () => {
    const answer = await post(`api/slides/${number}/review`, { object, action, class: name });
    if (number !== slide.number) return;
    await take(answer.decisions);
    if (training && training.why_not) loadTraining(); // the first correction
    if (missed) say(`Saved: ${answer.object}, as ${compared.name} has it${answer.decisions[answer.object].name ? `, ${answer.decisions[answer.object].name}` : ""}`);
    else say(`Saved: ${object} ${{ accept: "is right", reject: "rejected", class: `is ${name}` }[action]}`);
    if (chosen && chosen.object === object && places.get(object) + 1 < order.objects.length) step(1);
  }));
}

// While something is drawn, the class is that of the drawing.
function give(name) {
  drawClass = name;
  if (tool) showDrawing();
  else decide("class", name);
}

function undo() {
  if (!slide || !slide.review) return;
  const number = slide.number;
  saving = saving.then(told(async () => {
    const answer = await post(`api/slides/${number}/review`, { action: "undo" });
    if (number !== slide.number) return;
    await take(answer.decisions);
    if (answer.object === null) { say("Nothing to undo"); return; }
    say(`Undone: ${answer.object}`);
    if (places.has(answer.object)) await choose(answer.object);
  }));
}

// ---- what was missed is drawn

function use(wanted) {
  if (wanted && !slide.review) { say("There is no result here to draw objects into", true); return; }
  tool = wanted;
  sketch = [];
  for (const name of ["point", "polygon", "brush"]) $(name).setAttribute("aria-pressed", String(tool === name));
  $("viewer").classList.toggle("draws", tool !== null);
  showDrawing();
  drawSketch();
}

const turnOn = (name) => use(tool === name ? null : name);

function showDrawing() {
  const how = { point: "Click", polygon: "Click corners; Enter closes", brush: "Press and drag" }[tool];
  const name = tool && slide.classes.length ? classOfDrawn(false) : null;
  $("drawing").textContent = tool ? `${how}${name ? `: ${name}` : name === undefined ? "; 1 to 9 chooses the class" : ""}` : "";
}

// null where there are no classes, undefined where none has been chosen
function classOfDrawn(aloud = true) {
  if (drawClass !== null) return drawClass;
  if (slide.classes.length < 2) return slide.classes.length ? slide.classes[0].name : null;
  if (aloud) say("Choose the class first: 1 to 9", true);
  return undefined;
}

// What lies beyond the slide is drawn on its edge.
function placeOf(position) {
  const { x, y } = onSlide(viewer.viewport.pointFromPixel(position, true)), [high, wide] = slide.slide.shape;
  return { x: Math.min(Math.max(x, 0), wide), y: Math.min(Math.max(y, 0), high) };
}

function extend(position) {
  const at = placeOf(position), last = sketch.at(-1);
  if (!last || Math.hypot(at.x - last.x, at.y - last.y) * scale() >= STEP) sketch.push(at);
}

function clicked(position) {
  if (tool === "brush" || classOfDrawn() === undefined) return;
  if (tool === "point") { save("point", [placeOf(position)]); return; }
  extend(position);
  drawSketch();
}

function close() {
  if (tool === "point" || !sketch.length) return;
  let corners = sketch;
  if (tool === "polygon" && corners.length < 3) { say("An outline has three corners or more"); return; }
  sketch = [];
  drawSketch();
  if (corners.length < 3) { say("Press and drag around the object"); return; }
  while (corners.length > MOST) corners = corners.filter((_, number) => number % 2 === 0);
  save("polygon", corners);
}

function save(type, corners) {
  const name = classOfDrawn(), number = slide.number;
  if (name === undefined) return;
  const points = corners.map(({ x, y }) => [Number(x.toFixed(2)), Number(y.toFixed(2))]);
  saving = saving.then(told(async () => {
    const answer = await post(`api/slides/${number}/review`, { action: "draw", type, points, class: name }).catch((error) => {
      if (type === "polygon" && tool && tool !== "point" && !sketch.length && number === slide.number) { // Enter tries again
        sketch = corners;
        drawSketch();
      }
      throw error;
    });
    if (number !== slide.number) return;
    await take(answer.decisions);
    await choose(answer.object, false);
    say(`Saved: ${answer.object} drawn${name ? `, ${name}` : ""}`);
  }));
}

function drawSketch() {
  if (!pad || !viewer || !viewer.viewport) return;
  const ratio = window.devicePixelRatio || 1, size = viewer.viewport.getContainerSize();
  const [wide, high] = [Math.round(size.x * ratio), Math.round(size.y * ratio)];
  if (!sketch.length) { if (pad.width) pad.width = 0; return; }
  pad.width = wide; // clears it
  pad.height = high;
  const context = pad.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const corners = (tool === "polygon" && pointer ? [...sketch, pointer] : sketch)
    .map(({ x, y }) => viewer.viewport.pixelFromPoint(onViewport(x, y), true));
  const path = new Path2D();
  corners.forEach(({ x, y }, number) => (number ? path.lineTo(x, y) : path.moveTo(x, y)));
  for (const [colour, line] of [["#fff", 4], ["#000", 2]]) {
    context.strokeStyle = context.fillStyle = colour;
    context.lineWidth = line;
    context.stroke(path);
    if (tool === "polygon") corners.slice(0, sketch.length).forEach(({ x, y }) => context.fillRect(x - line - 1, y - line - 1, 2 * line + 2, 2 * line + 2));
  }
}

const write = told(async () => {
  if (!slide || !slide.review) return;
  const answer = await post(of("/export"), {});
  say(`Written: ${answer.files.join(", ")}`);
});

// ---- measurements: a histogram, or one against another; a part of it picks objects

const CHART = { wide: 346, high: 210, left: 56, right: 10, top: 8, bottom: 34 }; // px of the screen
const BINS = 30;
const AXES = ["along", "up"];
let dragging = null; // where it began

const measureOf = (axis) => ($(axis).value === "" ? undefined : measures[Number($(axis).value)]); // none up: the number of objects
const titleOf = ({ name, unit }) => (unit ? `${name} (${unit})` : name);
const isHistogram = () => $("up").value === "";

const loadMeasures = told(async () => {
  const number = slide.number, content = await get(of("/measures"));
  if (number !== slide.number) return;
  const before = AXES.map((axis) => measureOf(axis) && titleOf(measureOf(axis)));
  measures = content.map((each) => {
    const known = each.values.filter((value) => value !== null);
    const low = known.reduce((a, b) => Math.min(a, b), Infinity), high = known.reduce((a, b) => Math.max(a, b), -Infinity);
    return { ...each, low, high: high > low ? high : low + (Math.abs(low) || 1) };
  });
  AXES.forEach((axis, place) => {
    const choices = measures.map((each, k) => [String(k), titleOf(each)]);
    if (place) choices.unshift(["", "number of objects"]);
    $(axis).replaceChildren(...choices.map(([value, text]) => {
      const made = element("option", text);
      made.value = value;
      return made;
    }));
    const same = choices.find(([value, text]) => value && text === before[place]);
    if (same) [$(axis).value] = same;
  });
  pick(ranges);
});

// The part of a chart that a number lies at, from 0 to 1.
const shareOf = ({ low, high }, value) => (value - low) / (high - low);

// Those within the ranges; all for none.
function pick(wanted) {
  const axes = isHistogram() ? AXES.slice(0, 1) : AXES;
  ranges = wanted && measures.length ? wanted : null;
  picked = null;
  if (ranges) {
    picked = new Set();
    const inside = (axis, place, object) => {
      const value = measureOf(axis).values[object];
      return value !== null && value >= ranges[place][0] && value <= ranges[place][1];
    };
    measures[0].values.forEach((_, object) => axes.every((axis, place) => inside(axis, place, object)) && picked.add(object));
  }
  showRanges(axes);
  drawChart();
  trace();
  draw();
  narrow();
}

function showRanges(axes) {
  for (const [place, axis] of AXES.entries()) {
    const measure = axes.includes(axis) ? measureOf(axis) : null;
    $(`${axis}_name`).textContent = measure ? titleOf(measure) : "";
    for (const [end, side] of ["from", "to"].entries()) {
      const input = $(`${axis}_${side}`);
      input.parentElement.hidden = !measure;
      input.setAttribute("aria-label", measure ? `${titleOf(measure)} ${side}` : "");
      const value = measure && ranges ? ranges[place][end] : null, open = measure && value === (end ? measure.high : measure.low);
      input.value = value === null || open ? "" : String(Number(value.toPrecision(6)));
      input.placeholder = measure ? shown(end ? measure.high : measure.low) : "";
    }
  }
  const count = measures.length ? measureOf("along").values.filter((value) => value !== null).length : 0;
  $("picked").textContent = picked ? `${picked.size} of ${count} objects picked` : measures.length ? `${count} objects` : "The objects have no measurements";
  $("unpick").hidden = !picked;
}

function histogram(measure, among) {
  const counts = new Array(BINS).fill(0);
  measure.values.forEach((value, object) => {
    if (value !== null && (!among || among.has(object))) counts[Math.min(BINS - 1, Math.floor(shareOf(measure, value) * BINS))] += 1;
  });
  return counts;
}

function drawChart() {
  const canvas = $("chart"), ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = CHART.wide * ratio;
  canvas.height = CHART.high * ratio;
  context.scale(ratio, ratio);
  if (!measures.length) return;
  const style = getComputedStyle(document.body), [front, soft, line] = ["--front", "--soft", "--line"].map((name) => style.getPropertyValue(name));
  const along = measureOf("along"), up = measureOf("up");
  const wide = CHART.wide - CHART.left - CHART.right, high = CHART.high - CHART.top - CHART.bottom, floor = CHART.top + high;
  const atX = (value) => CHART.left + shareOf(along, value) * wide;
  const counts = up ? null : histogram(along), most = up ? 0 : Math.max(1, ...counts);
  const atY = (value) => floor - (up ? shareOf(up, value) : value / most) * high;
  if (up) {
    along.values.forEach((value, object) => {
      if (value === null || up.values[object] === null) return;
      context.fillStyle = picked && picked.has(object) ? "#e8590c" : "#4c8dd6";
      context.fillRect(atX(value) - 2, atY(up.values[object]) - 2, 4, 4);
    });
  } else {
    for (const [bars, colour] of [[counts, "#4c8dd6"], [picked ? histogram(along, picked) : [], "#e8590c"]]) {
      context.fillStyle = colour;
      bars.forEach((count, bin) => count && context.fillRect(CHART.left + (bin * wide) / BINS + 0.5, atY(count), wide / BINS - 1, floor - atY(count)));
    }
  }
  context.strokeStyle = line;
  context.strokeRect(CHART.left + 0.5, CHART.top + 0.5, wide, high);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = soft;
  for (const part of [0, 0.5, 1]) {
    context.textAlign = ["left", "center", "right"][part * 2];
    context.fillText(shown(along.low + part * (along.high - along.low)), CHART.left + part * wide, floor + 13);
    context.textAlign = "right";
    const value = up ? up.low + part * (up.high - up.low) : part * most;
    if (up || Number.isInteger(value)) context.fillText(shown(value), CHART.left - 4, floor - part * high + (part === 1 ? 9 : 3));
  }
  context.fillStyle = front;
  context.textAlign = "center";
  context.fillText(titleOf(along), CHART.left + wide / 2, CHART.high - 5);
  context.save();
  context.rotate(-Math.PI / 2);
  context.fillText(up ? titleOf(up) : "number of objects", -(CHART.top + high / 2), 12);
  context.restore();
  if (ranges) {
    const [x0, x1] = ranges[0].map(atX), [y1, y0] = up ? ranges[1].map(atY) : [floor, CHART.top];
    context.strokeStyle = "#e8590c";
    context.lineWidth = 2;
    context.setLineDash([5, 3]);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  const what = up ? `${titleOf(up)} against ${titleOf(along)}` : `Histogram of ${titleOf(along)}, ${shown(along.low)} to ${shown(along.high)}`;
  canvas.setAttribute("aria-label", `${what}; ${$("picked").textContent}. Arrows move what is picked, Shift and arrows its end, Escape picks all.`);
}

// Where the pointer is, in the units of the axes.
function onChart(event) {
  const box = $("chart").getBoundingClientRect(), part = (share) => Math.min(1, Math.max(0, share));
  const x = part((event.clientX - box.left - CHART.left) / (CHART.wide - CHART.left - CHART.right));
  const y = part(1 - (event.clientY - box.top - CHART.top) / (CHART.high - CHART.top - CHART.bottom));
  const valueOf = (axis, share) => { const { low, high } = measureOf(axis); return low + share * (high - low); };
  return [valueOf("along", x), isHistogram() ? y : valueOf("up", y)];
}

const between = (a, b) => a.map((value, place) => [Math.min(value, b[place]), Math.max(value, b[place])]);

$("chart").addEventListener("pointerdown", (event) => {
  if (!measures.length) return;
  $("chart").setPointerCapture(event.pointerId);
  dragging = onChart(event);
});
$("chart").addEventListener("pointermove", (event) => {
  if (!dragging) return;
  ranges = between(dragging, onChart(event));
  drawChart(); // the objects follow when it is let go
});
$("chart").addEventListener("pointerup", (event) => {
  if (!dragging) return;
  const wanted = between(dragging, onChart(event)), axes = isHistogram() ? 1 : 2;
  dragging = null;
  pick(wanted.slice(0, axes).every(([from, to]) => to > from) ? wanted : null); // a click picks all
});
$("chart").addEventListener("pointercancel", () => { dragging = null; pick(null); });

function nudge(key, end) {
  const place = key === "ArrowUp" || key === "ArrowDown" ? 1 : 0;
  if (!measures.length || (place && isHistogram())) return;
  const all = AXES.map((axis) => { const each = measureOf(axis); return each ? [each.low, each.high] : [0, 1]; });
  const now = ranges || all.map(([low, high]) => [low, low + (high - low) / 4]), [low, high] = all[place];
  const by = ((high - low) / BINS) * (key === "ArrowRight" || key === "ArrowUp" ? 1 : -1);
  const [from, to] = ranges ? [end ? now[place][0] : now[place][0] + by, now[place][1] + by] : now[place];
  if (from < low - 1e-9 * (high - low) || to > high + 1e-9 * (high - low) || to <= from) return;
  pick(now.map((each, other) => (other === place ? [Math.max(low, from), Math.min(high, to)] : each)));
}

$("chart").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") pick(null);
  else if (event.key.startsWith("Arrow")) nudge(event.key, event.shiftKey);
  else return;
  event.preventDefault();
  event.stopPropagation(); // or the slide moves
});

function typed() {
  const wanted = AXES.map((axis) => {
    const each = measureOf(axis);
    return ["from", "to"].map((side) => {
      const text = $(`${axis}_${side}`).value;
      return text !== "" ? Number(text) : each ? each[side === "from" ? "low" : "high"] : 0;
    });
  });
  pick(AXES.every((axis) => $(`${axis}_from`).value === "" && $(`${axis}_to`).value === "") ? null : wanted);
}

for (const axis of AXES) {
  $(axis).addEventListener("change", () => pick(null));
  for (const side of ["from", "to"]) $(`${axis}_${side}`).addEventListener("change", typed);
}
$("unpick").addEventListener("click", () => pick(null));
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawChart);

// ---- from corrections to weights: a process of the server, which this page starts, follows and cancels

let training = null, following = null;

const loadTraining = told(async () => showTraining(await get("api/learn")));

function showTraining(content) {
  training = content;
  $("teach").hidden = !training;
  if (!training) return;
  const runs = training.state === "running", could = !training.why_not;
  clearTimeout(following);
  if (runs) following = setTimeout(loadTraining, 1000);
  $("teach").classList.toggle("busy", runs);
  $("learn_about").textContent = training.why_not
    || "Goes on from the weights with what was reviewed, and scores old and new ones on a part that is held out.";
  $("learn_options").hidden = !could || runs;
  $("learn_start").hidden = runs;
  $("learn_start").disabled = !could;
  $("learn_start").title = training.why_not || "";
  $("learn_cancel").hidden = !runs;
  showRounds();
  showProgress();
  showOutcome(training.outcome);
}

function showRounds() {
  const before = $("round").value, wanted = ["", ...training.rounds.map(String)];
  if ([...$("round").options].map((each) => each.value).join() === wanted.join() && wanted.length > 1) return;
  $("round").replaceChildren(...wanted.map((number) => {
    const made = element("option", number ? `round ${number}` : "the run's weights");
    made.value = number;
    return made;
  }));
  $("round").value = wanted.includes(before) ? before : "";
}

const lasting = (seconds) => (seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`);

function showProgress() {
  const { state, phase, epoch, epochs, step, steps, left, error } = training, bar = $("learn_bar");
  bar.hidden = state !== "running";
  if (epoch) bar.value = (epoch - (step !== undefined && step < steps ? 1 - step / steps : 0)) / epochs;
  else bar.removeAttribute("value"); // something goes on
  const parts = [phase || "preparing"];
  if (epoch) parts.push(`epoch ${epoch} of ${epochs}`);
  if (step !== undefined) parts.push(`step ${step} of ${steps}`);
  if (left !== undefined) parts.push(`${lasting(left)} left`);
  $("learn_state").textContent = { none: "", running: parts.join(", "), done: "Done.", failed: error, cancelled: "Cancelled; the weights are as they were." }[state];
  $("learn_state").classList.toggle("wrong", state === "failed");
}

function showOutcome(outcome) {
  $("learn_table").hidden = !outcome;
  $("learn_weights").textContent = outcome ? `New weights: ${outcome.weights}\n${outcome.notes.join("; ")}\nTo use them: ${outcome.command}` : "";
  if (!outcome) return;
  const line = (name, cells) => {
    const row = element("tr");
    row.append(...cells.map((text, column) => element(name, text, name === "td" && column ? "number" : "")));
    return row;
  };
  const text = (value) => (value === null ? "" : value.toFixed(3));
  const change = ({ difference, low, high }) => (difference === null ? "" : `${text(difference)}${low === null ? "" : ` [${text(low)}, ${text(high)}]`}`);
  $("learn_table").tHead.replaceChildren(line("th", ["held out", "before", "after", "difference"]));
  $("learn_table").tBodies[0].replaceChildren(...outcome.rows.map((row) =>
    line("td", [`${row.measure}, ${row.lesson}`, text(row.before), text(row.after), change(row)])));
}

const teach = told(async (action) => {
  const wanted = { action };
  if (action === "start") {
    for (const name of ["epochs", "learning_rate", "seed", "round"]) {
      if (!$(name).checkValidity()) { $(name).reportValidity(); return; }
      if ($(name).value !== "") wanted[name] = Number($(name).value);
    }
  }
  await post("api/learn", wanted).then(showTraining, (error) => {
    $("learn_state").textContent = error.message;
    $("learn_state").classList.add("wrong");
  });
});

function toggle(panel, button) {
  if ($(button).hidden) return;
  $(panel).hidden = !$(panel).hidden;
  $(button).setAttribute("aria-expanded", String(!$(panel).hidden));
  if ($(panel).hidden) return;
  if (panel === "learning") loadTraining();
  else loadMeasures();
}

$("learn_start").addEventListener("click", () => teach("start"));
$("learn_cancel").addEventListener("click", () => teach("cancel"));
$("learning").addEventListener("keydown", (event) => event.key === "Enter" && event.target instanceof HTMLInputElement && teach("start"));

// ---- keys and buttons

const zoom = (by) => { viewer.viewport.zoomBy(by); viewer.viewport.applyConstraints(); };
const pan = (x, y) => {
  const box = viewer.viewport.getBounds();
  viewer.viewport.panBy(new OpenSeadragon.Point((x * box.width) / 5, (y * box.height) / 5));
  viewer.viewport.applyConstraints();
};

const KEYS = {
  j: () => step(1), k: () => step(-1), x: () => decide("reject"), a: () => decide("accept"), u: undo, e: () => write(),
  "+": () => zoom(1.4), "=": () => zoom(1.4), "-": () => zoom(1 / 1.4), 0: () => viewer.viewport.fitBounds(viewer.world.getItemAt(0).getBounds()),
  ArrowLeft: () => pan(-1, 0), ArrowRight: () => pan(1, 0), ArrowUp: () => pan(0, -1), ArrowDown: () => pan(0, 1),
  g: turnGallery, ".": () => turnOn("point"), p: () => turnOn("polygon"), b: () => turnOn("brush"), l: () => toggle("learning", "teach"), m: () => toggle("charts", "measure"), h: () => $("help").toggleAttribute("open"),
  f: () => (document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen()),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || !viewer || !viewer.viewport) return;
  if (event.target instanceof HTMLSelectElement || (event.target instanceof HTMLInputElement && event.target.type !== "checkbox")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-9]$/.test(key)) {
    const each = slide.classes[Number(key) - 1];
    if (each) give(each.name);
    else say(`There are ${slide.classes.length} classes`);
  } else if (tool && key === "Escape") sketch.length ? (sketch = [], drawSketch()) : use(null);
  else if (tool && sketch.length && key === "Enter") close();
  else if (tool === "polygon" && sketch.length && key === "Backspace") { sketch.pop(); drawSketch(); }
  else if (Object.hasOwn(KEYS, key)) KEYS[key]();
  else return;
  event.preventDefault();
});

for (const [id, key] of Object.entries({ in: "+", out: "-", whole: "0", full: "f", previous: "k", next: "j", accept: "a", reject: "x", undo: "u", export: "e", point: ".", polygon: "p", brush: "b", teach: "l", measure: "m", gallery: "g" })) {
  $(id).addEventListener("click", () => { if (viewer) KEYS[key](); $(id).blur(); });
}
$("order").addEventListener("change", () => { loadOrder(); remember(); $("order").blur(); });
$("list").addEventListener("scroll", showRows);
$("show").addEventListener("change", () => { ask(); draw(); });
$("spot").addEventListener("change", draw);
$("tissue").addEventListener("change", showTissue);
$("pictures").addEventListener("change", showTable);
$("differ").addEventListener("change", told(besideChanged));
for (const id of ["heat", "opacity"]) $(id).addEventListener("input", () => heat && heat.setOpacity(heatOpacity()));
window.addEventListener("focus", () => slide && slide.review && loadReview()); // another tab may have corrected
window.addEventListener("hashchange", () => { const view = remembered(); if (view.slide !== undefined) open(view.slide, view); });

told(async () => {
  table = await get("api/slides");
  loadTraining();
  showTable();
  const view = remembered(), first = table.there.indexOf(true);
  const wanted = view.slide !== undefined && table.there[view.slide];
  if (wanted) await open(view.slide, view);
  else if (first >= 0) await open(first);
})();
