"""Results of the benchmarks as Markdown: one function for each generated part of the speed page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from labcore.campaigns import results
from labcore.experiments.bench import COMPILED, INVERSE, NATIVE, OURS, STEP, THEIRS, Row
from labcore.markdown import table
from labcore.site.records import benchmark, made_with, target


def foundation() -> str:
    """Write the speed-up over ml-tarflow on equal weights, differences of the results, and the training step."""
    found = benchmark("foundation")["ml_tarflow"]
    speed_up = {row["case"]: row["speed_up"] for row in found["timings"]}
    batches = (1, 16, 100)
    rows = [
        [name, *(f"{speed_up[f'inverse, batch {batch}, guidance {guidance}']:.1f}" for batch in batches)]
        for name, guidance in (("sequential inverse", "0"), ("with guidance 1.5", "1.5"))
    ]
    inverse = max(value for name, value in found["differences"].items() if "inverse" in name)
    step = speed_up["training step, batch 256, float32 against float32"]
    bfloat = speed_up["training step, batch 256, bfloat16 against float32"]
    return "\n".join(
        [
            table(["speed-up over ml-tarflow", *(f"batch {batch}" for batch in batches)], rows),
            f"- z differs by at most {found['differences']['z']:g}, and images of the inverse differ by at most "
            f"{inverse:.1e} of the largest value.",
            f"- A training step at batch 256 takes {1 / step:.2f} times ml-tarflow's time in float32, and {1 / bfloat:.2f} "
            "times with bfloat16 autocast.",
            "",
            made_with("foundation"),
            "",
        ]
    )


def _rows(record: dict[str, Any], part: str) -> list[Row]:
    return [Row(**row) for row in record[part]]


def inverse() -> str:
    """Write the fastest way without Jacobi sweeps for each case, its speed-up over ml-tarflow, and time / lower bound."""
    cases: dict[tuple[int, int, float], dict[str, Row]] = {}
    for row in _rows(benchmark("speed"), "perturbed"):
        if (row.task, row.precision, row.blocks) == (INVERSE, "fp32", 4):
            cases.setdefault((row.tokens, row.batch, row.guidance), {})[row.way] = row
    lines = []
    for (tokens, batch, g), ways in cases.items():
        best = min((row for name, row in ways.items() if name != THEIRS), key=lambda row: row.ms)
        lines.append(
            [f"{tokens:,}", batch, f"{g:g}", best.way, f"{ways[THEIRS].ms / best.ms:.1f}", f"{best.floor:.1f}"]
        )
    heads = ["tokens", "images", "guidance", "fastest way", "speed-up over ml-tarflow", "time / lower bound"]
    return f"{table(heads, lines)}\n{made_with('speed')}\n"


def headline() -> str:
    """The range of speed-ups of the default exact inverse over ml-tarflow's, and the sizes it covers."""
    cases: dict[tuple[int, int, float], dict[str, float]] = {}
    for row in _rows(benchmark("speed"), "perturbed"):
        if (row.task, row.precision, row.blocks) == (INVERSE, "fp32", 4):
            cases.setdefault((row.tokens, row.batch, row.guidance), {})[row.way] = row.ms
    faster = [ways[THEIRS] / ways[NATIVE] for ways in cases.values()]
    tokens, images = (sorted({case[place] for case in cases}) for place in (0, 1))
    return (
        f"On two CPU cores the exact inverse is {min(faster):.0f} to {max(faster):.0f} times as fast as ml-tarflow's: "
        f"{tokens[0]} to {tokens[-1]:,} tokens, {images[0]} to {images[-1]} images, with and without guidance.\n"
    )


def targets() -> str:
    """Write the targets of the exact inverse, the measured values, and whether they reach the targets."""
    lines = []
    for row in benchmark("speed")["targets"]:
        name = _images(row["batch"]) + (f", guidance {row['guidance']:g}" if row["guidance"] else "")
        faster = f"{row['times as fast']:.1f}", target(row["times as fast"], row["wanted"])
        lines.append([f"{row['tokens']}", name, row["way"], *faster, f"{row['by the floor']:.1f}"])
    return table(["tokens", "", "fastest way", "speed-up", "target", "time / lower bound"], lines)


def calibrated() -> str:
    """Write the speed-up of three inverses of the shipped flow (default, calibrated, compiled) over ml-tarflow's."""
    ms = {
        (row.batch, row.guidance, row.way): row.ms
        for row in _rows(benchmark("speed"), "shipped")
        if row.task == INVERSE and row.precision == "fp32"
    }
    lines = [
        [
            _images(batch),
            f"{g:g}",
            *(f"{ms[batch, g, THEIRS] / ms[batch, g, way]:.1f}" for way in (NATIVE, "calibrated", COMPILED)),
        ]
        for batch in (1, 16)
        for g in (0.0, 1.0)
    ]
    heads = ["fashion-tarflow", "guidance", "speed-up, native", "calibrated to an error of 1e-4", "compiled by torch"]
    return f"{table(heads, lines)}\n{made_with('speed')}\n"


def where() -> str:
    """Write how an inverse spends its time, by torch's profiler."""
    found = {
        (row["batch"], row.get("guidance"), row.get("forward", False)): row for row in benchmark("where")["shares"]
    }
    parts = (
        "matrix products",
        "attention",
        "copies, into the cache above all",
        "normalisation",
        "activation",
        "all others",
    )
    lines = []
    for (batch, g, forward), row in found.items():
        task = "forward pass" if forward else "inverse" + (f", guidance {g:g}" if g else "")
        lines.append(
            [
                f"{task}, {_images(batch)}",
                f"{row['ms']:,.0f}",
                *(f"{row[part]:.0%}" for part in parts),
                f"{1 - row['of the profiled time in operators']:.0%}",
                f"{row['operators']:,}",
            ]
        )

    def products(row: dict[str, Any]) -> float:
        return row["ms"] * row["matrix products"] * row["of the profiled time in operators"]

    longer = products(found[100, 0.0, False]) / products(found[100, None, True])
    heads = [
        "49 tokens",
        "ms",
        "matrix products",
        "attention",
        "copies",
        "normalisation",
        "activation",
        "other operators",
    ]
    return "\n".join(
        [
            table([*heads, "outside of operators", "operators called"], lines),
            f"The matrix products of an inverse of 100 images take {longer:.1f} times as long as the same products in the "
            "forward pass: they have 100 rows each, one for each image.",
            "",
            made_with("where"),
            "",
        ]
    )


def reading() -> str:
    """Write how fast compiled code reads the weights for one image, by number of threads."""
    lines = [
        [
            f"{row['tokens']}",
            threads,
            f"{row['ms'][threads]:.1f}",
            f"{row['ms'][threads] / row['pass ms']:.1f}",
            f"{row['GB/s'][threads]:.0f}",
        ]
        for row in benchmark("where")["reading"]
        for threads in row["ms"]
    ]
    heads = ["tokens", "threads", "ms, 1 image", "time / lower bound", "GB of weights a second"]
    return f"{table(heads, lines)}\n{made_with('where')}\n"


def training() -> str:
    """Write the speed-up of a training step by torch.compile and by bfloat16 autocast."""
    ms = {
        (row.tokens, row.batch, row.precision, row.way): row.ms
        for row in _rows(benchmark("speed"), "perturbed")
        if row.task == STEP and row.blocks == 4
    }
    compiled = [time / ms[*case, "compiled"] for (*case, way), time in ms.items() if way == OURS]
    bfloat = {batch: ms[49, batch, "fp32", OURS] / ms[49, batch, "bf16", OURS] for batch in (100, 1)}
    lines = [
        ["`train.compile=true`, over all cases", f"{min(compiled):.2f} to {max(compiled):.2f}"],
        *([f"bfloat16 autocast, {_images(batch)} of 49 tokens", f"{up:.1f}"] for batch, up in bfloat.items()),
    ]
    return f"{table(['training step', 'speed-up over plain float32'], lines)}\n{made_with('speed')}\n"


def student() -> str:
    """Compare one pass of a student with ml-tarflow's guided inverse and score denoising; add its training step."""
    found = benchmark("inversion")
    lines = [
        [
            row["tokens"],
            _images(row["batch"]),
            f"{row['ms an image']['learned']:.1f}",
            f"{row['ms an image']['ml-tarflow']:,.0f}",
            f"{row['ml-tarflow / learned']:.0f}",
            target(row["ml-tarflow / learned"], row["wanted"]),
        ]
        for row in found["sampling"]
    ]
    heads = ["tokens", "batch", "student, ms an image", "ml-tarflow, ms an image", "speed-up", "target"]
    steps = ", ".join(f"{row['guided / plain']:.1f} at {row['tokens']} tokens" for row in found["training step"])
    return "\n".join(
        [
            table(heads, lines),
            f"Training with guidance as an input takes longer than a plain step of training, by a factor of {steps}.",
            "",
            made_with("inversion"),
            "",
        ]
    )


def alignment() -> str:
    """Write speed and memory of the parallel generative pass, and the training step of each direction."""
    found = benchmark("align")
    generation = [
        [f"`{_direction(row['way'])}`", f"{row['times as fast']:.0f}", f"{row['memory ratio']:.0%}"]
        for row in found["generation"]
        if "times as fast" in row
    ]
    steps = [
        [f"`{_direction(row['way'])}`", f"{row['/ likelihood']:.2f}", target(row["/ likelihood"], row["allowed"], True)]
        for row in found["training step"]
        if "/ likelihood" in row
    ]
    return "\n".join(
        [
            table(["generative pass with its gradient", "speed-up over token by token", "memory"], generation),
            table(["training step, two aligned blocks", "time / step without alignment", "target"], steps),
            made_with("align"),
            "",
        ]
    )


def measures() -> str:
    """Write the time of classification and of scoring samples."""
    lines = [
        [row["classes"], f"{row['training-free / forward']:.1f}", f"{row['Bayes / training-free']:,.1f}"]
        for row in benchmark("classification")["classification"]
    ]
    fidelity = benchmark("fidelity")["fidelity"]
    peaks = [row["peak MB"] / 1000 for row in fidelity]
    numbers = [row["n"] for row in fidelity]
    heads = ["classes", "training-free pass / forward pass", "Bayes' rule / training-free pass"]
    return "\n".join(
        [
            table(heads, lines),
            f"Scoring {fidelity[0]['n']:,} samples with all six metrics of `efflite0` takes {fidelity[0]['seconds']:.0f} s, "
            f"if the statistics of the training images exist; the peak of memory is {min(peaks):.1f} to {max(peaks):.1f} GB "
            f"for {min(numbers):,} to {max(numbers):,} samples.",
            "",
            made_with("classification"),
            made_with("fidelity"),
            "",
        ]
    )


def panels() -> str:
    """Write how long notebook 05 takes for its first picture, and for the pictures after a slider has moved."""
    found = benchmark("panels")["panels"]
    lines = [
        [what, f"{found[key]:.{digits}f} {unit}", target(found[key], found[allowed], True, unit) if allowed else "-"]
        for what, key, allowed, unit, digits in (
            ("first picture after the notebook is opened", "first picture s", "first picture allowed s", "s", 1),
            ("of which the page and an idle kernel", "page and kernel s", None, "s", 1),
            ("of which `import torch`", "import torch s", None, "s", 1),
            ("36 images after a slider is released, median", "median ms", "median allowed ms", "ms", 0),
            ("the same, 95th percentile", "95th percentile ms", "95th percentile allowed ms", "ms", 0),
            ("one picture in the kernel: the student's pass, and its PNG", "drawing ms", None, "ms", 0),
        )
    ]
    return f"{table(['notebook 05 in Chromium', 'measured', 'target'], lines)}\n{made_with('panels')}\n"


def exact_side() -> str:
    """Write how long the panel of notebook 05 that shows the exact inverse takes for a picture, with and without C code."""
    found = benchmark("exact-side")["exact_side"]
    compiled, plain = found["native ms"], found["torch ms"]
    lines = [["compiled C code, the default", f"{compiled:.0f} ms", "1"]]
    lines.append(["torch", f"{plain:.0f} ms", f"{plain / compiled:.1f}"])
    head = f"{found['images']} images of the student and of the exact inverse, denoised and drawn"
    return f"{table([head, 'a picture', 'ratio'], lines)}\n{made_with('exact-side')}\n"


def batch() -> str:
    """Write the time that `lab run` takes in addition to the notebook's own cells."""
    found = benchmark("batch")["batch"]
    beyond, kernel, skipped = (
        found[key] for key in ("run beyond its cells s", "of which a bare kernel s", "200 done, skipped s")
    )
    lines = [
        ["one run, beyond the notebook's cells", f"{beyond:.1f} s", target(beyond, found["allowed"], True, "s")],
        ["of which the start of an empty kernel", f"{kernel:.1f} s", "-"],
        ["200 finished runs, skipped", f"{skipped:.2f} s", target(skipped, found["allowed to skip"], True, "s")],
    ]
    return f"{table(['`lab run`', 'measured', 'target'], lines)}\n{made_with('batch')}\n"


def planned() -> str:
    """Write the plan of training steps beside the measured steps and their peak memory."""
    lines = [
        [
            f"`{row['preset']}`",
            f"{row['parameters']:,}",
            row["images a step"],
            f"{1000 * row['planned s']:,.0f} ms",
            f"{1000 * row['measured s']:,.0f} ms",
            f"{row['measured s'] / row['planned s']:.2f}",
            f"{row['planned GB']:.2f} GB",
            f"{row['measured GB']:.2f} GB",
        ]
        for row in benchmark("planned")["rows"]
    ]
    heads = ["preset", "parameters", "images a step", "planned", "measured", "measured / planned"]
    return f"{table([*heads, 'memory, planned', 'measured'], lines)}\n{made_with('planned')}\n"


def guess() -> str:
    """Write how many sweeps a student's guess saves a Jacobi solver, and how near a start must be to save half of them."""
    rows = benchmark("guess")["rows"]
    lines = [
        [
            _images(row["batch"]),
            row["seed"],
            f"{row['learned off']:.2f}",
            row["sweeps from learned"],
            row["sweeps from z"],
        ]
        for row in rows
    ]
    heads = ["images", "seed", "distance of the student's guess (RMS)", "sweeps from the guess", "sweeps from z"]
    return "\n".join([table(heads, lines), made_with("guess"), "", _near_starts()])


def _near_starts() -> str:
    """Write the share of sweeps that remains with a start near the solution, in the campaign of notebook 06."""
    published = results.published("06_inverse_solvers")
    if published is None:
        return ""
    distances = ("0.1", "0.03", "0.01", "0.003", "0.001")
    lines = []
    for row in ("batch 1", "batch 16"):
        found = [one["metrics"]["by_distance"] for one in published.records if one["row"] == row]
        shares = [[each[d][0] / each["1.0"][0] for each in found] for d in distances if d in found[0]]
        lines.append([row, *(f"{min(each):.0%} to {max(each):.0%}" for each in shares)])
    known = [d for d in distances if d in found[0]]
    return (
        table(["start at this distance from the solution (RMS)", *known], lines)
        + f"\nShare of the sweeps that a start at distance 1 needs, over {len(found)} seeds. Record: campaign "
        "`06_inverse_solvers`.\n"
    )


def gpu() -> str:
    """Return the table of the GPU benchmark, or the sentence that it has not been run."""
    from benchmarks.gpu.table import committed  # the checkout's, which this command needs anyway

    return committed()


def _images(number: int) -> str:
    return "1 image" if number == 1 else f"{number} images"


def _direction(way: str) -> str:
    return {"literal": "reverse-literal", "reverse, 8 sweeps": "reverse, 8 adjoint sweeps"}.get(way, way)


BLOCKS: dict[str, Callable[[], str]] = {
    "speed-foundation": foundation,
    "speed-inverse": inverse,
    "speed-targets": targets,
    "speed-calibrated": calibrated,
    "speed-headline": headline,
    "speed-where": where,
    "speed-reading": reading,
    "speed-training": training,
    "speed-student": student,
    "speed-alignment": alignment,
    "speed-measures": measures,
    "speed-panels": panels,
    "speed-exact-side": exact_side,
    "speed-batch": batch,
    "speed-planned": planned,
    "speed-guess": guess,
    "speed-gpu": gpu,
}
