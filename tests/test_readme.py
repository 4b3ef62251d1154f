"""README's numbers are those of the committed records."""

import json
import re
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest

from labcore import zoo
from labcore.campaigns import results, tables
from labcore.campaigns.claims import load_claims
from labcore.campaigns.spec import TableSpec
from labcore.campaigns.verdicts import Claim, corrected, judge
from labcore.experiments import ways
from labcore.experiments.bench import INVERSE, OURS, STEP, THEIRS, Row
from labcore.plan import plan
from labcore.presets import MEASURED, about
from labcore.runs.configure import as_named

ROOT = Path(__file__).parent.parent
STATED = "[stated claims](papermill_runs/claims/{}.yaml)"
ALIGNMENT, NORMS, INVERSES, NOISE = (
    load_claims(name).of_numbers
    for name in ("01_alignment_strategies", "03_trajectory_norms", "04_learned_vs_analytic_inverse", "07_latent_256")
)
README = " ".join((ROOT / "README.md").read_text().split())


def bench(part: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{part}-x86-64-cpu--2-threads.json").read_text())


@pytest.fixture(scope="module")
def campaign() -> results.Published:
    return results.published("01_alignment_strategies")


def test_the_alignment_table(campaign):
    columns = {"training-free accuracy": "last.training_free", "FID (efflite0)": "last.fid_efflite0"}
    layout = TableSpec(columns=columns, baseline="baseline")
    rows = ["baseline", "forward", "detach", "reverse", "reverse-8"]
    shown = tables.tables(campaign.records, layout, rows)["table.md"].split("\n\n")[0]
    assert shown in (ROOT / "README.md").read_text()


def test_the_alignment_verdicts(campaign):
    judged = {claim: judge(claim, campaign.records) for claim in ALIGNMENT}
    counts = Counter(found.verdict for found in judged.values())
    assert (
        f"Of the {len(judged)} [stated claims](papermill_runs/claims/01_alignment_strategies.yaml), " in README
        and f"{counts['supported']} are **supported**" in README
    )
    assert f"{counts['reversed']} are **reversed**" in README
    assert f"The other {counts['undetermined']} are **undetermined**" in README
    decided = {"supported", "reversed"}
    alone = [claim for claim, found in judged.items() if found.verdict in decided]
    left = [claim for claim, verdict in zip(judged, corrected([*judged.values()]), strict=True) if verdict in decided]
    assert f"for all {len(judged)}, {len(left)} of the {len(alone)} decided ones remain" in README
    assert {(c.row, c.than, c.number) for c in left} == {
        ("reverse", than, "last.fid_efflite0") for than in ("baseline", "forward")
    }
    assert {r["seed"] for r in campaign.records} == {1, 2, 3, 4, 5} and "400 steps and five seeds" in README
    assert {r["parameters"]["precision"] for r in campaign.records} == {"fp32"}
    assert {r["parameters"]["weight"] for r in campaign.records} == {1.0} and "a weight of 1," in README


@pytest.mark.parametrize(
    ("row", "than", "number", "verdict", "scale", "digits"),
    [
        ("reverse", "baseline", "last.training_free", "supported", 100, 1),
        ("reverse", "baseline", "last.fid_efflite0", "supported", 1, 1),
        ("reverse", "baseline", "last.nats_per_dim", "supported", 1, 4),
        ("reverse", "forward", "last.fid_efflite0", "supported", 1, 1),
        ("forward", "baseline", "last.sfid_efflite0", "supported", 1, 0),
        ("reverse", "detach", "last.fid_efflite0", "reversed", 1, 1),
        ("forward", "reverse", "last.training_free", "reversed", 100, 1),
        ("reverse-8", "reverse", "last.nats_per_dim", "reversed", 1, 4),
    ],
)
def test_the_differences_that_readme_tells(campaign, row, than, number, verdict, scale, digits):
    (claim,) = (c for c in ALIGNMENT if (c.row, c.than, c.number) == (row, than, number))
    found = judge(claim, campaign.records)
    mean, half = scale * found.difference.mean, scale * found.difference.half
    assert found.verdict == verdict
    assert f"{mean:+.{digits}f} ± {half:.{digits}f}" in README


def test_the_measured_preset(campaign):
    """Its accuracy is the baseline's mean; its cost, seconds a step of the baseline's runs."""
    cost, numbers = MEASURED["fashion-16"]
    baseline = [r for r in campaign.records if r["row"] == "baseline"]
    mean = sum(r["metrics"]["last"]["training_free"] for r in baseline) / len(baseline)
    assert f"accuracy {mean:.2f}" in numbers
    lines = " ".join(line for r in baseline for line in r["log"])
    found = [float(text) for text in re.findall(r"seconds_per_step ([0-9.]+)", lines)]
    assert found and f"{round(400 * sum(found) / len(found) / 60)} minutes" in cost


def test_the_share_of_the_alignment(campaign):
    ratios = [
        align / likelihood
        for r in campaign.records
        for found in r["metrics"]["conflicts"].values()
        for _, blocks in found
        for _, cosine, likelihood, align in blocks
        if cosine is not None
    ]
    assert f"{100 * min(ratios):.0f}% to {100 * max(ratios):.0f}% of the likelihood's" in README


def test_the_alignment_bench():
    record = bench("align")
    ways = {row["way"]: row for row in record["generation"] if row["batch"] == 8}
    fast = [round(ways[way]["times as fast"]) for way in ("literal", "reverse")]
    assert f"{fast[0]} times (`reverse-literal`) and {fast[1]} times (`reverse`) as fast" in README
    assert {f"{100 * ways[way]['memory ratio']:.0f}% of the memory" in README for way in ("literal", "reverse")} == {
        True
    }
    steps = {row["way"]: row.get("/ likelihood") for row in record["training step"]}
    assert f"{steps['forward']:.2f} (`forward`) and {steps['reverse']:.2f} (`reverse`) times a plain one" in README


def test_the_flops_at_the_papers_size():
    found = ways.paper_flops()
    one, exact = found["one pass of the learned inverse"], 2 * found["one pass of the flow"] + found["score"]
    assert f"the score costs {found['score'] / found['learned block']:.1f} times the denoising block" in README
    assert f"{exact / one:.1f} times one pass of the learned one" in README
    assert f"{found['VAE decoder'] / 1e9:.0f} GFLOPs, {found['VAE decoder'] / one:.0f} times that pass" in README


def test_the_bench_of_speed():
    """The fastest of our ways without sweeps, of every case; and a calibration of the shipped flow."""
    found = bench("speed")
    inverses = [Row(**row) for row in found["perturbed"] if row["task"] == INVERSE and row["precision"] == "fp32"]
    cases = {}
    for row in inverses:
        if row.blocks == 4:
            cases.setdefault((row.tokens, row.batch, row.guidance), {})[row.way] = row
    for (tokens, batch, g), ways_of in cases.items():
        best = min((row for name, row in ways_of.items() if name != THEIRS), key=lambda row: row.ms)
        times = ways_of[THEIRS].ms / best.ms
        assert f"| {tokens:,} | {batch} | {g:g} | {best.way} | {times:.1f} | {best.floor:.1f} |" in README
    shipped = {(r["batch"], r["guidance"], r["way"]): r["ms"] for r in found["shipped"] if r["task"] == INVERSE}

    def times_as_fast(batch: int, g: float, way: str) -> str:
        return f"{shipped[batch, g, THEIRS] / shipped[batch, g, way]:.1f}"

    calibrated = [times_as_fast(batch, g, "calibrated") for batch in (1, 16) for g in (0.0, 1.0)]
    assert (
        "is {} times as fast as ml-tarflow's inverse for one image ({} guided) and {} for 16 ({} guided)".format(
            *calibrated
        )
        in README
    )
    compiled = times_as_fast(16, 0.0, "compiled"), times_as_fast(16, 1.0, "compiled")
    assert "by compiled tokens, {} ({} guided)".format(*compiled) in README


def test_what_stands_in_the_way():
    rows = {(r["batch"], r.get("guidance"), r.get("forward", False)): r for r in bench("where")["shares"]}
    one, hundred, forward = rows[1, 0.0, False], rows[100, 0.0, False], rows[100, None, True]

    def products(row: dict) -> float:
        return row["ms"] * row["matrix products"] * row["of the profiled time in operators"]

    assert f"of the time of 100 images {hundred['matrix products']:.0%} are matrix products" in README
    assert f"which take {products(hundred) / products(forward):.1f} times as long as the same ones" in README
    assert f"{hundred['attention']:.0%} attention over a cache" in README
    assert f"and {hundred['copies, into the cache above all']:.0%} copies into it" in README
    outside = 1 - one["of the profiled time in operators"]
    assert f"time {outside:.0%} lie outside of operators, of which there are {one['operators']:,}" in README


def test_the_bench_of_training_steps():
    found = [Row(**row) for row in bench("speed")["perturbed"]]
    steps = {(r.tokens, r.batch, r.precision, r.way): r.ms for r in found if r.task == STEP and r.blocks == 4}
    times = [ms / steps[*case, "compiled"] for (*case, way), ms in steps.items() if way == OURS]
    assert f"is {min(times):.2f} to {max(times):.2f} times as fast as plain" in README
    bf16 = [steps[49, batch, "fp32", OURS] / steps[49, batch, "bf16", OURS] for batch in (100, 1)]
    assert f"{bf16[0]:.1f} times for 100 images of 49 tokens and {bf16[1]:.1f} for one" in README


def test_what_a_learned_guess_saves():
    rows = bench("guess")["rows"]
    off, learned, plain = (
        [row[key] for row in rows] for key in ("learned off", "sweeps from learned", "sweeps from z")
    )
    assert f"lies {min(off):.2f} to {max(off):.2f} (RMS) from the solution" in README
    assert f"needs {min(learned)} to {max(learned)} sweeps where z itself needs {min(plain)} to {max(plain)}" in README
    tough = {}
    for record in results.published("06_inverse_solvers").records:
        by_distance = record["metrics"]["by_distance"]
        shares = [by_distance[d][0] / by_distance["1.0"][0] for d in ("0.01", "0.003")]
        tough.setdefault(record["row"], []).append(shares)
    assert all(near > 0.5 and nearer < 0.5 for near, nearer in tough["batch 1"])
    assert all(nearer > 0.5 for _, nearer in tough["batch 16"])


def test_the_bench_of_one_pass():
    found = bench("inversion")
    times = {(row["tokens"], row["batch"]): row["ml-tarflow / learned"] for row in found["sampling"]}
    told = [round(times[case]) for case in ((49, 1), (49, 64), (256, 1), (256, 16))]
    assert (
        "{} times as fast at 49 tokens for one image and {} for 64, {} times at 256 tokens for one and {} for 16".format(
            *told
        )
        in README
    )
    low, high = sorted(row["guided / plain"] for row in found["training step"])
    assert f"takes {low:.1f} to {high:.1f} times a plain step" in README


def test_the_batch_bench():
    row = bench("batch")["batch"]
    assert f"{row['run beyond its cells s']:.1f} s beyond what a notebook's cells take" in README
    assert f"{row['of which a bare kernel s']:.1f} s of them the start of a bare kernel" in README
    assert f"{row['200 done, skipped s']:.2f} s for 200 runs that are done" in README


@pytest.fixture(scope="module")
def norms() -> results.Published:
    return results.published("03_trajectory_norms")


def test_what_readme_tells_of_the_clamp(norms):
    assert {r["seed"] for r in norms.records} == {0, 1, 2, 3, 4} and len(norms.records) == 25
    assert {(r["parameters"]["steps"], r["parameters"]["precision"]) for r in norms.records} == {(600, "fp32")}
    judged = {(c.row, c.number): judge(c, norms.records) for c in NORMS}

    def told(row: str, number: str, digits: tuple[int, int]) -> str:
        found = judged[row, number].difference
        return f"{found.mean:+.{digits[0]}f} ± {found.half:.{digits[1]}f}"

    assert f"for 3 ({told('clamp 3', 'last.spread', (3, 3))})" in README
    assert f"for 1 beside 3 ({told('clamp 1', 'last.spread', (2, 2))})" in README
    assert {judged[row, "last.spread"].verdict for row in ("clamp 3", "clamp 1")} == {"undetermined"}
    assert f"one of 1 costs {told('clamp 1', 'last.nats_per_dim', (4, 4))[1:]} nats/dim" in README
    half = judge(Claim("", "clamp 0.5", "no clamp", "last.nats_per_dim", "higher"), norms.records).difference
    assert f"one of 0.5 costs {half.mean:.4f} ± {half.half:.4f}" in README
    little = judged["clamp 3", "last.nats_per_dim"].difference
    assert abs(little.mean) + little.half < 1e-4
    free = [r["metrics"]["last"] for r in norms.records if r["row"] == "no clamp"]
    assert f"the largest state is {sum(one['spread'] for one in free) / 5:.2f} times the smallest" in README
    for row, preset in (("clamp 3", "itarflow-16"), ("no clamp", "itarflow-16-unclamped")):
        mine = [r for r in norms.records if r["row"] == row]
        cost, numbers = about(preset)[1:]
        assert f"{sum(r['metrics']['last']['nats_per_dim'] for r in mine) / 5:.3f} nats/dim" in numbers
        steps = [float(t) for r in mine for line in r["log"] for t in re.findall(r"seconds_per_step ([0-9.]+)", line)]
        assert f"{round(600 * sum(steps) / len(steps) / 60)} minutes" in cost


@pytest.fixture(scope="module")
def inverses() -> results.Published:
    return results.published("04_learned_vs_analytic_inverse")


def test_the_aligned_flow_that_ships_beside_its_baseline():
    records = [
        json.loads((zoo.path(name) / "record.json").read_text()) for name in ("fashion-tarflow", "fashion-r-repa")
    ]
    assert records[0]["steps"] == records[1]["steps"]
    plain, aligned = ([record[key] for record in records] for key in ("training_free_accuracy", "likelihood"))
    free = " and ".join(f"{one['accuracy']:.1%}" for one in plain)
    assert f"training-free accuracy is {free} (95%: {plain[1]['low']:.1%} to {plain[1]['high']:.1%})" in README
    assert f"likelihood {aligned[0]['nats_per_dim']:.4f} and {aligned[1]['nats_per_dim']:.4f}" in README
    shares = [record["recognised"]["0"] for record in records]
    told = " and ".join(f"{one['accuracy']:.1%}" for one in shares)
    assert f"recognised more often, {told} ({shares[1]['low']:.1%} to {shares[1]['high']:.1%})" in README


def test_what_readme_tells_of_panels():
    found = json.loads((ROOT / "benchmarks/results/panels-x86-64-cpu--2-threads.json").read_text())["panels"]
    assert f"first picture {found['first picture s']:.1f} s after" in README
    assert f"images {found['median ms']:.0f} ms after" in README
    assert f"{found['95th percentile ms']:.0f} at the 95th percentile" in README


def test_the_table_of_learned_inverses(inverses):
    columns = {"FID (efflite0)": "fid_efflite0", "recognised": "recognised"}
    layout = TableSpec(each="ways", columns=columns, baseline="exact, score")
    rows = ["exact", "naive", "hidden-distillation", "hidden-alignment", "no-denoiser", "norm-both", "norm-none"]
    shown = tables.tables(inverses.records, layout, [*rows, "features", "guided"])["table.md"].split("\n\n")[0]
    assert shown in (ROOT / "README.md").read_text()
    seeds = {r["seed"] for r in inverses.records}
    word = {2: "two", 3: "three", 4: "four", 5: "five"}[len(seeds)]
    assert f"has run with {word} seeds" in README and len(inverses.records) == 9 * len(seeds)
    assert {(r["parameters"]["steps"], r["parameters"]["precision"]) for r in inverses.records} == {(600, "fp32")}


def test_the_verdicts_on_learned_inverses(inverses):
    """Each claim stands under its verdict, with its difference; counts too."""
    records = tables.exploded(inverses.records, "ways")
    judged = [judge(claim, records) for claim in INVERSES]
    counts = Counter(found.verdict for found in judged)
    told = README[
        README.index(
            f"Of the {len(judged)} [stated claims](papermill_runs/claims/04_learned_vs_analytic_inverse.yaml), "
        ) :
    ]
    parts = dict(zip(("supported", "reversed", "undetermined"), re.split(r"\*\*: ", told)[1:4], strict=True))
    digits = {"fid_efflite0": 1, "image_mse": 4}
    for found in judged:
        if found.verdict == "not run":
            continue
        d, places = found.difference, digits.get(found.claim.number, 3)
        text = f"{d.mean:+.{places}f} ± {d.half:.{places}f})"
        part = parts[found.verdict]
        assert found.claim.says in part and text in part[part.index(found.claim.says) :]
    ran = len(judged) - counts["not run"]
    left = sum(verdict in ("supported", "reversed") for verdict in corrected(judged))
    assert f"correction for the {ran} that were run, all {left} decided claims remain" in told
    assert left == counts["supported"] + counts["reversed"]
    assert re.search(rf"\. {counts['reversed']} (is|are) \*\*reversed", told)
    assert (
        f"{counts['undetermined']} are **undetermined**" in told
        and f"{counts['not run']} have **not been run**" in told
    )


def test_what_recomputing_saves_at_1024_tokens():
    found = {}
    for again in ("true", "false"):
        config, flow = as_named("flowback-256-reverse-p1-1000k", [f"train.recompute={again}"])
        found[again] = plan(config, flow)
    times, saved = found["true"].flops / found["false"].flops, found["false"].activations / found["true"].activations
    assert f"{times:.1f} times the arithmetic and an eighth of the memory an image" in README and round(saved) == 8


def test_the_noise_of_latents():
    """The table, the verdicts, what the notebook says of them, and what the preset tells."""
    campaign = results.published("07_latent_256")
    assert campaign.table.split("\n\n")[0] in (ROOT / "README.md").read_text()
    low, high = (judge(claim, campaign.records) for claim in NOISE)
    assert {low.verdict, high.verdict} == {"undetermined"}
    told = [f"{-found.difference.mean:.1f} ± {found.difference.half:.1f}" for found in (low, high)]
    assert f"0.2 is lower than 0.1 by {told[0]} and than 0.3 by {told[1]}, both **undetermined**" in README
    floors = campaign.records[0]["metrics"]["floors"]
    assert f"images score {floors['held-out images']['fid']:.1f}" in README
    assert f"reconstructions {floors['through the autoencoder']['fid']:.1f}." in README
    last = {
        row: [r["metrics"]["last"] for r in campaign.records if r["row"] == f"sigma {row}"] for row in (0.1, 0.2, 0.3)
    }
    shares = [fmean(one["recognised"] for one in found) for found in last.values()]
    assert shares == sorted(shares) and len(campaign.records) == 9
    fid = fmean(one["fid"] for one in last[0.2])
    assert f"FID {fid:.1f} (efflite0), {shares[1]:.0%} recognised" in about("latent-small")[2]
    minutes = [r["seconds"] / 60 for r in campaign.records]
    assert f"{min(minutes):.0f} to {max(minutes) + 0.5:.0f} minutes" in about("latent-small")[1]
    text = (ROOT / "notebooks" / "07_latent_256.ipynb").read_text()
    assert ", ".join(f"{share:.0%}" for share in shares) in text and all(one in text for one in told)


def test_what_decoded_pictures_take():
    found = plan(*as_named("biflow-256-b-final"))
    assert (
        f"{found.frozen / 1e9:,.0f} of the {found.flops / 1e9:,.0f} GFLOPs of an image in `biflow-256-b-final`"
        in README
    )
