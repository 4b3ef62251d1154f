// Nine pictures of the student in one pass: class, guidance, noise scale and seed.

import { about, begin, controls, draw, latest, model, normal, options, part, watch } from "./shared.js";

const COUNT = 9;

await begin(async () => {
  const [facts, student] = await Promise.all([about(), model("student")]);
  options(controls.label, facts.classes, ["no class"]);
  controls.label.value = 7;

  const compute = async () => {
    const start = performance.now();
    const [label, w, scale, seed] = ["label", "guidance", "scale", "seed"].map((name) => Number(controls[name].value));
    const z = normal(seed, COUNT * facts.tokens * facts.token_dim).map((value) => scale * value);
    const { x } = await student({
      z: [z, [COUNT, facts.tokens, facts.token_dim]],
      y: [new BigInt64Array(COUNT).fill(BigInt(label)), [COUNT]],
      w: [new Float32Array(COUNT).fill(w), [COUNT]],
    });
    draw(part("pictures"), x, facts.size, 3);
    const name = label < 0 ? "without a class" : `of class ${facts.classes[label]}`;
    part("pictures").setAttribute(
      "aria-label", `Nine pictures ${name}: guidance ${w}, noise scale ${scale}, seed ${seed}`);
    part("time").textContent = `Nine pictures in ${Math.round(performance.now() - start)} ms.`;
  };
  watch(latest(compute));
  await compute();
});
