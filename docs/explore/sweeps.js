// One block of the flow, inverted by Jacobi sweeps: each sweep computes all tokens at once from the last guess of all tokens.

import { about, begin, controls, draw, latest, model, normal, options, part, watch } from "./shared.js";

const SMALLEST = 1e-7, LARGEST = 10; // the errors that the chart shows
const CHART = { left: 42, right: 532, top: 24, bottom: 198 };
const SVG = "http://www.w3.org/2000/svg";

let facts, z, exact, guess, history;
const blocks = []; // the graph of each block, once loaded

async function params(block, x, label) {
  blocks[block] ??= await model(`block-${block}`);
  return blocks[block]({ x: [x, [1, facts.tokens, facts.token_dim]], y: [BigInt64Array.of(BigInt(label)), [1]] });
}

/** z = (x - shift) exp(-log_scale): one block of the forward pass. */
async function forward(block, x, label) {
  const { log_scale, shift } = await params(block, x, label);
  return x.map((value, i) => (value - shift[i]) * Math.exp(-log_scale[i]));
}

/** x <- z exp(log_scale(x)) + shift(x): one sweep. */
async function sweep() {
  const { log_scale, shift } = await params(Number(controls.block.value), guess, Number(controls.picture.value));
  guess = z.map((value, i) => value * Math.exp(log_scale[i]) + shift[i]);
  history.push(errors());
  show();
}

/** Encode the picture up to the block, and begin with z as the first guess, or with zeros. */
async function restart() {
  pause();
  const block = Number(controls.block.value), label = Number(controls.picture.value);
  const noise = normal(0, facts.size ** 2);
  let x = patchify(facts.pictures[label].map((value, i) => value + facts.noise_std * noise[i]));
  for (let number = 1; number < block; number++) x = await forward(number, x, label);
  exact = x;
  z = await forward(block, x, label);
  guess = controls.start.value === "z" ? z : new Float32Array(z.length);
  history = [errors()];
  show();
}

/** The largest error of each token, in the order in which the block reads the tokens: even blocks read them backwards. */
function errors() {
  const { tokens, token_dim: dim } = facts, backwards = Number(controls.block.value) % 2 === 0;
  const found = Array.from({ length: tokens }, (_, token) => {
    let most = 0;
    for (let i = token * dim; i < (token + 1) * dim; i++) most = Math.max(most, Math.abs(guess[i] - exact[i]));
    return most;
  });
  return backwards ? found.reverse() : found;
}

function show() {
  draw(part("exact"), unpatchify(exact), facts.size);
  draw(part("guess"), unpatchify(guess), facts.size);
  const last = history.at(-1), sweeps = history.length - 1, largest = Math.max(...last);
  const backwards = Number(controls.block.value) % 2 === 0;
  part("errors").replaceChildren(...last.map((error, order) => {
    const token = backwards ? facts.tokens - 1 - order : order, side = facts.size / facts.patch;
    return shape("rect", {
      x: token % side, y: Math.floor(token / side), width: 0.95, height: 0.95, "fill-opacity": 1 - height(error),
    });
  }));
  part("lines").replaceChildren(...history.map((line, number) => {
    const points = line.map((error, order) => `${across(order)},${down(error)}`).join(" ");
    return shape("polyline", { points, class: number === sweeps ? "line last" : "line" });
  }));
  const correct = last.filter((error) => error < 1e-3).length;
  part("summary").textContent = `After ${sweeps} ${sweeps === 1 ? "sweep" : "sweeps"}: ${correct} of ${facts.tokens} tokens have an error `
    + `below 0.001; the largest error is ${largest < 1e-3 ? largest.toExponential(1) : largest.toPrecision(2)}.`;
  const names = { exact: "The block's exact input", guess: `The guess after ${sweeps} sweeps` };
  for (const [id, name] of Object.entries(names)) part(id).setAttribute("aria-label", name);
}

/** Where an error lies between SMALLEST (1) and LARGEST (0), in powers of ten. */
function height(error) {
  const clipped = Math.min(Math.max(error, SMALLEST), LARGEST);
  return 1 - Math.log10(clipped / SMALLEST) / Math.log10(LARGEST / SMALLEST);
}
const across = (order) => CHART.left + (order / (facts.tokens - 1)) * (CHART.right - CHART.left);
const down = (error) => CHART.top + height(error) * (CHART.bottom - CHART.top);

function shape(name, attributes, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function axes() {
  const lines = [shape("path", { class: "axis", d: `M${CHART.left},${CHART.top}V${CHART.bottom}H${CHART.right}` })];
  for (const power of [1, -1, -3, -5, -7]) {
    lines.push(shape("text", { x: CHART.left - 6, y: down(10 ** power) + 4, "text-anchor": "end" }, `1e${power}`));
  }
  for (const order of [0, 12, 24, 36, 48]) {
    lines.push(shape("text", { x: across(order), y: CHART.bottom + 15, "text-anchor": "middle" }, String(order + 1)));
  }
  part("axes").replaceChildren(...lines);
}

function patchify(image) {
  return Float32Array.from(image, (_, i) => image[pixel(i)]);
}

function unpatchify(tokens) {
  const image = new Float32Array(tokens.length);
  tokens.forEach((value, i) => { image[pixel(i)] = value; });
  return image;
}

/** The pixel of value i of the tokens, which are squares in raster order. */
function pixel(i) {
  const { size, patch, token_dim: dim } = facts, token = Math.floor(i / dim), inside = i % dim, side = size / patch;
  const row = Math.floor(token / side) * patch + Math.floor(inside / patch);
  return row * size + (token % side) * patch + (inside % patch);
}

let timer;
function pause() {
  clearInterval(timer);
  timer = undefined;
  part("play").textContent = "Play";
}

await begin(async () => {
  facts = await about();
  options(controls.picture, facts.classes);
  controls.picture.value = 7;
  for (let block = 1; block <= facts.blocks; block++) controls.block.add(new Option(String(block), block));
  axes();
  let changed = false, asked = 0; // a changed control comes before the sweeps that were asked for after it
  const work = latest(async () => {
    if (changed) {
      changed = false;
      await restart();
    }
    while (asked && !changed) {
      asked--;
      await sweep();
    }
  });
  const again = () => { changed = true; asked = 0; work(); };
  const next = () => { asked++; work(); };
  part("sweep").addEventListener("click", () => { pause(); next(); });
  part("again").addEventListener("click", again);
  part("play").addEventListener("click", () => {
    if (timer) return pause();
    timer = setInterval(() => {
      if (history.length > facts.tokens) pause();
      else if (!asked) next();
    }, 250);
    part("play").textContent = "Pause";
  });
  watch(again);
  await restart();
});
