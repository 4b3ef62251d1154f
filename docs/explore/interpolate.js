// Nine pictures on the way from one noise to another, by the student.

import { about, begin, controls, draw, latest, model, normal, options, panel, part, watch } from "./shared.js";

const COUNT = 9;

/** Noise between a and b: on the straight line, or on the arc that keeps the length of noise. */
function between(a, b, share, path) {
  if (path === "line") return a.map((value, i) => (1 - share) * value + share * b[i]);
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const angle = Math.acos(Math.min(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)), 1));
  if (angle < 1e-3) return a;
  return a.map((value, i) =>
    (Math.sin((1 - share) * angle) * value + Math.sin(share * angle) * b[i]) / Math.sin(angle));
}

await begin(async () => {
  const [facts, student] = await Promise.all([about(), model("student")]);
  options(controls.label, facts.classes);
  controls.label.value = 9;
  const count = facts.tokens * facts.token_dim;

  const compute = async () => {
    const [label, w, first, last] = ["label", "guidance", "first", "last"].map((name) => Number(controls[name].value));
    const [a, b] = [normal(first, count), normal(last, count)], path = controls.path.value;
    const z = new Float32Array(COUNT * count);
    for (let i = 0; i < COUNT; i++) z.set(between(a, b, i / (COUNT - 1), path), i * count);
    const { x } = await student({
      z: [z, [COUNT, facts.tokens, facts.token_dim]],
      y: [new BigInt64Array(COUNT).fill(BigInt(label)), [COUNT]],
      w: [new Float32Array(COUNT).fill(w), [COUNT]],
    });
    draw(part("pictures"), x, facts.size, panel.clientWidth < 500 ? 3 : COUNT);
    part("pictures").setAttribute("aria-label",
      `Nine pictures of class ${facts.classes[label]}, from the noise of seed ${first} to that of seed ${last} on the ${path}`);
    const middle = z.subarray(4 * count, 5 * count);
    const size = Math.sqrt(middle.reduce((sum, value) => sum + value * value, 0) / count);
    part("middle").textContent = `Root mean square of the noise in the middle: ${size.toFixed(2)}.`;
  };
  watch(latest(compute));
  await compute();
});
