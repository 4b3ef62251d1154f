// What the explorables share: the runtime, models, seeded noise, pictures, and the order of requests.

const here = new URL(".", import.meta.url);
let runtime;

/** Text of the missing part, for the reader; other errors are shown as they are. */
class Missing extends Error {}

async function fetched(name, advice) {
  const answer = await fetch(new URL(name, here));
  if (!answer.ok) throw new Missing(`${name} is missing on this site; ${advice}`);
  return answer;
}

/** The runtime (onnxruntime-web, one thread of WebAssembly), loaded once. */
export async function onnx() {
  if (!runtime) {
    const advice = "build the site on a machine where npm can fetch onnxruntime-web";
    await fetched("runtime/ort-wasm-simd-threaded.mjs", advice);
    runtime = await import(new URL("runtime/ort.wasm.min.mjs", here));
    runtime.env.wasm.numThreads = 1;
    runtime.env.wasm.wasmPaths = new URL("runtime/", here).href;
  }
  return runtime;
}

/** A model of the site, as a function of named inputs {name: [values, shape]} that gives {name: Float32Array}. */
export async function model(name) {
  const advice = "build the site where the packages of labcore[onnx] are installed";
  const [ort, file] = await Promise.all([onnx(), fetched(`models/${name}.onnx`, advice)]);
  const session = await ort.InferenceSession.create(new Uint8Array(await file.arrayBuffer()));
  return async (inputs) => {
    const feeds = {};
    for (const [key, [values, shape]] of Object.entries(inputs)) {
      const type = values instanceof BigInt64Array ? "int64" : "float32";
      feeds[key] = new ort.Tensor(type, values, shape);
    }
    const found = await session.run(feeds);
    return Object.fromEntries(Object.entries(found).map(([key, tensor]) => [key, tensor.data]));
  };
}

/** Facts of the site's models, from a JSON file. */
export async function facts(name) {
  return (await fetched(`models/${name}.json`, "build the site where the packages of labcore[onnx] are installed")).json();
}

/** Sizes, class names and noise of the models, and one test picture per class as {classes, ..., pictures}. */
export async function about() {
  const advice = "build the site where the packages of labcore[onnx] are installed";
  const found = await facts("about");
  const bytes = new Uint8Array(await (await fetched("models/pictures.bin", advice)).arrayBuffer());
  const pixels = found.size * found.size;
  found.pictures = found.classes.map((_, i) =>
    Float32Array.from(bytes.subarray(i * pixels, (i + 1) * pixels), (value) => value / 127.5 - 1));
  return found;
}

/** Standard normal numbers that depend only on the seed; other numbers than labcore's for the same seed. */
export function normal(seed, count) {
  let state = (seed * 2654435761 + 1) >>> 0;
  const uniform = () => { // mulberry32
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({ length: count }, () => // Box and Muller
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** Draw grey pictures with values in [-1, 1] into a canvas, `columns` in a row. */
export function draw(canvas, values, size, columns = 1) {
  const count = values.length / (size * size), rows = Math.ceil(count / columns), gap = columns > 1 ? 1 : 0;
  canvas.width = columns * (size + gap) - gap;
  canvas.height = rows * (size + gap) - gap;
  const context = canvas.getContext("2d");
  for (let picture = 0; picture < count; picture++) {
    const image = context.createImageData(size, size);
    for (let i = 0; i < size * size; i++) {
      const grey = Math.round(Math.min(Math.max(values[picture * size * size + i] / 2 + 0.5, 0), 1) * 255);
      image.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(image, (picture % columns) * (size + gap), Math.floor(picture / columns) * (size + gap));
  }
}

/** A function that calls `compute` for the latest request only: requests that come while it computes replace each other. */
export function latest(compute) {
  let waiting = false, busy = false;
  return async () => {
    waiting = true;
    if (busy) return;
    busy = true;
    try {
      while (waiting) {
        waiting = false;
        await compute();
        await new Promise((done) => setTimeout(done)); // the browser paints and reads its events
      }
    } catch (error) {
      fail(error);
    } finally {
      busy = false;
    }
  };
}

/** The page's panel: its controls by name, and the elements with an id. */
export const panel = document.querySelector(".explorable");
export const controls = panel.querySelector("form").elements;
export const part = (id) => document.getElementById(id);

/** Show each slider's value beside it, and call `changed` whenever a control changes. */
export function watch(changed) {
  const form = panel.querySelector("form");
  const show = () => form.querySelectorAll("input[type=range]").forEach((slider) => {
    slider.nextElementSibling.value = slider.value;
  });
  form.addEventListener("input", () => { show(); changed(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

/** Options of a select; `first`: texts before the classes, with the values -1, -2, ... */
export function options(select, names, first = []) {
  first.forEach((name, i) => select.add(new Option(name, -1 - i)));
  names.forEach((name, i) => select.add(new Option(name, i)));
}

/** Load what the page needs, draw its first picture, and then show the panel instead of the still picture. */
export async function begin(load) {
  part("message").textContent = "The runtime and the models are loading; this picture is still.";
  try {
    await load();
    panel.classList.add("live");
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  panel.classList.remove("live");
  part("message").textContent = error instanceof Missing
    ? `${error.message}. The still picture shows what this page does.`
    : `This page failed (${error.message}). Reload it, or use another browser.`;
}
