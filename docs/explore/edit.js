// A picture edited without training: the flow encodes it, its noise or its class changes, and the student decodes it.

import { about, begin, controls, draw, latest, model, normal, options, part, watch } from "./shared.js";

const COUNT = 9;
const OWN = -1; // the choice of an own picture
const canvas = part("given");

let facts, picture, unknown, cursor = 0;

const side = () => facts.size / facts.patch;
const tokenOf = (pixel) =>
  Math.floor(Math.floor(pixel / facts.size) / facts.patch) * side() + Math.floor((pixel % facts.size) / facts.patch);

/** The given picture, with the unknown tokens in blue, and the cursor of the keyboard. */
function show() {
  draw(canvas, picture, facts.size);
  const context = canvas.getContext("2d"), { patch } = facts;
  context.fillStyle = "rgb(83 108 254 / 75%)";
  unknown.forEach((hidden, token) => {
    if (hidden) context.fillRect((token % side()) * patch, Math.floor(token / side()) * patch, patch, patch);
  });
  if (document.activeElement === canvas && canvas.matches(":focus-visible")) {
    context.strokeStyle = "#ff9100";
    context.strokeRect((cursor % side()) * patch + 0.5, Math.floor(cursor / side()) * patch + 0.5, patch - 1, patch - 1);
  }
  const hidden = unknown.filter(Boolean).length;
  canvas.setAttribute("aria-label", `The given picture, ${hidden} of ${facts.tokens} tokens unknown. `
    + `Arrow keys move, space marks or unmarks: token ${cursor + 1} is ${unknown[cursor] ? "unknown" : "known"}`);
}

/** The steps of labcore.biflow.edit, for nine draws of the noise. */
async function edit(forward, student) {
  const [label, target, w, seed] = ["label", "target", "guidance", "seed"].map((name) => Number(controls[name].value));
  const { size, tokens, token_dim: dim } = facts, pixels = size * size, x = new Float32Array(COUNT * pixels);
  for (let i = 0; i < COUNT; i++) {
    const noise = normal(1000 * seed + i, pixels);
    for (let j = 0; j < pixels; j++) {
      const known = unknown[tokenOf(j)] ? 0 : picture[j]; // mid-grey where unknown
      x[i * pixels + j] = known + facts.noise_std * noise[j];
    }
  }
  const labels = (value) => [new BigInt64Array(COUNT).fill(BigInt(value)), [COUNT]];
  const { z } = await forward({ x: [x, [COUNT, 1, size, size]], y: labels(label) });
  for (let i = 0; i < COUNT; i++) {
    const fresh = normal(1000 * seed + 500 + i, tokens * dim);
    for (let j = 0; j < tokens * dim; j++) if (unknown[Math.floor(j / dim)]) z[i * tokens * dim + j] = fresh[j];
  }
  const out = await student({
    z: [z, [COUNT, tokens, dim]], y: labels(target), w: [new Float32Array(COUNT).fill(w), [COUNT]],
  });
  draw(part("pictures"), out.x, size, 3);
  const name = (value) => (value < 0 ? "no class" : facts.classes[value]);
  part("pictures").setAttribute("aria-label",
    `Nine decoded pictures: from ${name(label)} to ${name(target)}, guidance ${w}, seed ${seed}`);
}

/** A file of the visitor: fitted into the square, grey, with a dark background. */
async function read(file) {
  const image = await createImageBitmap(file), { size } = facts, small = document.createElement("canvas");
  small.width = small.height = size;
  const context = small.getContext("2d"), scale = size / Math.max(image.width, image.height);
  const [w, h] = [image.width * scale, image.height * scale];
  context.drawImage(image, (size - w) / 2, (size - h) / 2, w, h);
  const data = context.getImageData(0, 0, size, size).data;
  const grey = Float32Array.from({ length: size * size }, (_, i) => { // a transparent pixel is background
    const [r, g, b, a] = data.subarray(4 * i, 4 * i + 4);
    return a < 128 ? NaN : (0.299 * r + 0.587 * g + 0.114 * b) / 127.5 - 1;
  });
  const corners = [0, size - 1, size * size - size, size * size - 1].map((i) => grey[i]).filter((v) => !isNaN(v));
  const bright = corners.reduce((sum, value) => sum + value, 0) > 0;
  picture = grey.map((value) => (isNaN(value) ? -1 : bright ? -value : value));
}

/** Mark tokens, or draw pixels, where the pointer goes. */
function paint(event, changed) {
  const box = canvas.getBoundingClientRect();
  const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
    .map((share) => Math.min(Math.max(Math.floor(share * facts.size), 0), facts.size - 1));
  if (controls.tool.value === "draw") {
    for (const [down, right] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      if (row + down < facts.size && column + right < facts.size) picture[(row + down) * facts.size + column + right] = 0.8;
    }
  } else {
    unknown[tokenOf(row * facts.size + column)] = controls.tool.value === "hide";
  }
  changed();
}

function listen(changed) {
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    paint(event, changed);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons) for (const passed of event.getCoalescedEvents?.() ?? [event]) paint(passed, changed);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side(), ArrowDown: side() }[event.key];
    if (step) cursor = (cursor + step + facts.tokens) % facts.tokens;
    else if (event.key === " ") unknown[cursor] = !unknown[cursor];
    else return;
    event.preventDefault();
    changed();
  });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, show);
  for (const name of ["dragover", "drop"]) canvas.addEventListener(name, (event) => event.preventDefault());
  canvas.addEventListener("drop", (event) => own(event.dataTransfer.files[0], changed));
  controls.file.addEventListener("change", () => own(controls.file.files[0], changed));
  part("all").addEventListener("click", () => { unknown.fill(false); changed(); });
}

async function own(file, changed) {
  if (!file) return;
  try {
    await read(file);
    part("told").textContent = "";
  } catch {
    part("told").textContent = `${file.name} is no picture that this browser reads; choose a PNG or JPEG file.`;
    return;
  }
  controls.picture.value = controls.label.value = OWN;
  changed();
}

/** The chosen test picture with its class, or an empty one to draw. */
function choose() {
  const chosen = Number(controls.picture.value);
  picture = chosen === OWN ? new Float32Array(facts.size ** 2).fill(-1) : facts.pictures[chosen].slice();
  if (chosen === OWN) controls.tool.value = "draw";
  controls.label.value = chosen;
  if (chosen !== OWN) controls.target.value = chosen;
}

await begin(async () => {
  const [found, forward, student] = await Promise.all([about(), model("forward"), model("student")]);
  facts = found;
  options(controls.picture, facts.classes, ["empty: draw or drop one"]);
  for (const select of [controls.label, controls.target]) options(select, facts.classes, ["no class"]);
  controls.picture.value = 2;
  unknown = Array.from({ length: facts.tokens }, (_, token) => token >= 28); // the lower three rows
  choose();
  const compute = latest(() => edit(forward, student));
  const changed = () => { show(); compute(); };
  controls.picture.addEventListener("input", choose);
  listen(changed);
  watch(changed);
  show();
  await edit(forward, student);
});
