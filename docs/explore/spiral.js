// Pictures of two pixels: the exact density of a spiral beside the density of a small flow, both with guidance.

import { begin, controls, facts, latest, model, options, panel, part, watch } from "./shared.js";

const SIDE = 64, REACH = 1.5; // the mesh on [-REACH, REACH]^2
const AREA = (2 * REACH / SIDE) ** 2;
const RESOLUTION = 448; // pixels of a canvas
const DELTA = 0.002; // of the differences that give the flow's score
const LONGEST = 1; // of an arrow; the numbers below have the whole score
const KEY_STEP = 0.05;

const mesh = Float32Array.from({ length: 2 * SIDE * SIDE }, (_, i) => {
  const place = Math.floor(i / 2), along = i % 2 ? Math.floor(place / SIDE) : place % SIDE;
  return -REACH + (along + 0.5) * (2 * REACH / SIDE);
});
let spiral, flow, point = [0, 0];
const known = {}; // what was computed on the mesh, and for which settings

/** The normals of the arms with noise: mean, inverse covariance, and the logarithm of weight and normalisation. */
function normals(noise) {
  return spiral.means.map((arm, k) => arm.map(([a, b], m) => {
    const [[p, q], [, r]] = spiral.covariances[k][m], first = p + noise ** 2, second = r + noise ** 2;
    const det = first * second - q * q;
    const log = -Math.log(2 * Math.PI * spiral.links) - 0.5 * Math.log(det);
    return { a, b, aa: second / det, ab: -q / det, bb: first / det, log };
  }));
}

/** log p(x | class) in nats and its gradient; class -1: no class. */
function exact(arms, label, [x, y]) {
  const chosen = label < 0 ? arms.flat() : arms[label];
  const parts = chosen.map(({ a, b, aa, ab, bb, log }) => {
    const [u, v] = [x - a, y - b], [pu, pv] = [aa * u + ab * v, ab * u + bb * v];
    return { log: log - 0.5 * (u * pu + v * pv), score: [-pu, -pv] };
  });
  const most = Math.max(...parts.map(({ log }) => log)), shares = parts.map(({ log }) => Math.exp(log - most));
  const sum = shares.reduce((total, share) => total + share, 0);
  const score = [0, 1].map((i) => parts.reduce((total, part, m) => total + shares[m] * part.score[i], 0) / sum);
  return { log: most + Math.log(sum) - (label < 0 ? Math.log(arms.length) : 0), score };
}

/** The same of p(x | class)^(1 + w) / p(x)^w, not normalised. */
function tilted(arms, label, w, at) {
  const own = exact(arms, label, at), none = exact(arms, -1, at);
  return {
    log: (1 + w) * own.log - w * none.log,
    score: own.score.map((value, i) => (1 + w) * value - w * none.score[i]),
  };
}

/** log p of the guided flow at points [x, y, x, y, ...]. */
async function ofFlow(points, label, w) {
  const count = points.length / 2;
  const inputs = {
    x: [points, [count, 1, 1, 2]],
    y: [new BigInt64Array(count).fill(BigInt(label)), [count]],
    w: [new Float32Array(count).fill(w), [count]],
  };
  return (await flow(inputs)).log_prob;
}

/** The flow's log density at the point, and its gradient from central differences. */
async function flowAt([x, y], label, w) {
  const near = [x, y, x + DELTA, y, x - DELTA, y, x, y + DELTA, x, y - DELTA];
  const [log, right, left, up, down] = await ofFlow(Float32Array.from(near), label, w);
  return { log, score: [(right - left) / (2 * DELTA), (up - down) / (2 * DELTA)] };
}

/** Compute what the settings ask for on the mesh, unless it is known. */
async function onMesh(label, w, noise) {
  if (known.exact !== `${label} ${w} ${noise}`) {
    known.arms = normals(noise);
    const logs = Float64Array.from({ length: SIDE * SIDE }, (_, i) =>
      tilted(known.arms, label, w, mesh.subarray(2 * i, 2 * i + 2)).log);
    const most = Math.max(...logs);
    known.total = most + Math.log(logs.reduce((sum, value) => sum + Math.exp(value - most), 0) * AREA);
    known.truth = logs.map((value) => Math.exp(value - known.total));
    known.exact = `${label} ${w} ${noise}`;
  }
  if (known.flow !== `${label} ${w}`) {
    known.learned = (await ofFlow(mesh, label, w)).map(Math.exp);
    known.flow = `${label} ${w}`;
  }
}

async function compute() {
  const [label, w, noise] = ["label", "guidance", "noise"].map((name) => Number(controls[name].value));
  await onMesh(label, w, noise);
  const truth = tilted(known.arms, label, w, point), learned = await flowAt(point, label, w);
  truth.log -= known.total;
  const most = Math.max(largest(known.truth), largest(known.learned));
  paint(part("exact"), known.truth, most, truth.score.map((value) => noise ** 2 * value));
  paint(part("flow"), known.learned, most, learned.score.map((value) => spiral.noise_std ** 2 * value));
  tell(label, w, noise, truth, learned);
}

const largest = (values) => values.reduce((most, value) => (value > most ? value : most), 0); // NaN is passed over

/** Numbers at the point, and descriptions of both maps. */
function tell(label, w, noise, truth, learned) {
  const place = point.map((value) => value.toFixed(2)).join(", ");
  for (const [id, found] of Object.entries({ exact: truth, flow: learned })) {
    part(`${id}-log`).textContent = found.log.toFixed(3);
    part(`${id}-score`).textContent = found.score.map((value) => value.toFixed(2)).join(", ");
  }
  const outside = 1 - known.learned.reduce((sum, value) => sum + value, 0) * AREA;
  part("told").textContent = `Point (${place}): log density ${truth.log.toFixed(2)} exactly, ${learned.log.toFixed(2)} by the `
    + `flow. About ${Math.round(Math.max(100 * outside, 0))}% of the flow's samples lie outside this square.`;
  const kind = label < 0 ? "without a class" : `of ${spiral.classes[label]}`;
  const names = { exact: `Exact density ${kind}, noise ${noise}`, flow: `Density of the flow ${kind}, noise ${spiral.noise_std}` };
  for (const [id, name] of Object.entries(names)) {
    part(id).setAttribute("aria-label", `${name}, guidance ${w}. Arrow keys move the point, which is at ${place}`);
  }
}

/** A map of the density (the stronger the colour, the larger its square root), the point, and its arrow. */
function paint(canvas, density, most, arrow) {
  const { low, middle, high } = colours(), small = document.createElement("canvas");
  small.width = small.height = SIDE;
  const image = new ImageData(SIDE, SIDE);
  density.forEach((value, i) => {
    const share = value > 0 ? Math.sqrt(Math.min(value / most, 1)) : 0;
    const [from, to, way] = share < 0.6 ? [low, middle, share / 0.6] : [middle, high, (share - 0.6) / 0.4];
    const row = SIDE - 1 - Math.floor(i / SIDE); // the second pixel grows upwards
    image.data.set([0, 1, 2].map((j) => from[j] + way * (to[j] - from[j])).concat(255), 4 * (row * SIDE + (i % SIDE)));
  });
  small.getContext("2d").putImageData(image, 0, 0);
  canvas.width = canvas.height = RESOLUTION;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, RESOLUTION, RESOLUTION);
  const length = Math.hypot(...arrow), scale = length > LONGEST ? LONGEST / length : 1;
  const start = onCanvas(point), end = onCanvas(point.map((value, i) => value + scale * arrow[i]));
  for (const [width, colour] of [[9, `rgb(${low.join(" ")})`], [4, "#e65100"]]) mark(context, start, end, width, colour);
}

const onCanvas = ([x, y]) => [x, -y].map((value) => (value + REACH) / (2 * REACH) * RESOLUTION);

/** A dot with an arrow. */
function mark(context, [x, y], [toX, toY], width, colour) {
  const angle = Math.atan2(toY - y, toX - x), head = Math.min(16, 0.6 * Math.hypot(toX - x, toY - y));
  context.lineWidth = width;
  context.lineCap = "round";
  context.strokeStyle = context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(toX, toY);
  for (const side of [-0.5, 0.5]) {
    context.moveTo(toX, toY);
    context.lineTo(toX - head * Math.cos(angle + side), toY - head * Math.sin(angle + side));
  }
  context.stroke();
  context.beginPath();
  context.arc(x, y, 3 + width, 0, 2 * Math.PI);
  context.fill();
}

/** The theme's colours as red, green and blue: of the page, of what is active, and of the text. */
function colours() {
  const swatch = panel.appendChild(document.createElement("span"));
  const found = {};
  for (const [name, variable] of [["low", "default-bg"], ["middle", "accent-fg"], ["high", "default-fg"]]) {
    swatch.style.color = `var(--md-${variable}-color)`;
    found[name] = getComputedStyle(swatch).color.match(/[\d.]+/g).slice(0, 3).map(Number);
  }
  swatch.remove();
  return found;
}

/** Move the point with mouse, finger or arrow keys, and draw anew when the theme changes. */
function listen(changed) {
  const move = (at) => {
    point = at.map((value) => Math.round(100 * Math.min(Math.max(value, -REACH), REACH)) / 100);
    changed();
  };
  const pointed = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const [right, down] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    move([(2 * right - 1) * REACH, (1 - 2 * down) * REACH]);
  };
  for (const canvas of [part("exact"), part("flow")]) {
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      pointed(event);
    });
    canvas.addEventListener("pointermove", (event) => { if (event.buttons) pointed(event); });
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!step) return;
      event.preventDefault();
      move(point.map((value, i) => value + KEY_STEP * step[i]));
    });
  }
  new MutationObserver(changed).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
}

await begin(async () => {
  [spiral, flow] = await Promise.all([facts("spiral"), model("spiral")]);
  options(controls.label, spiral.classes, ["no class"]);
  controls.label.value = 0;
  const work = latest(compute);
  listen(work);
  watch(work);
  await compute();
});
