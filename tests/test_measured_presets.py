"""Cost and expected numbers of the small presets are those of their committed campaigns."""

import re
from pathlib import Path
from statistics import fmean

import pytest

from labcore import zoo
from labcore.campaigns import results
from labcore.campaigns.claims import load_claims
from labcore.campaigns.tables import exploded
from labcore.campaigns.verdicts import judge
from labcore.jsonfile import read_json
from labcore.presets import MEASURED, about

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def minutes_of_training(records: list[dict], steps: int) -> int:
    """Minutes of `steps` steps at the mean pace that the records' logs have."""
    lines = " ".join(line for one in records for line in one["log"])
    seconds = [float(text) for text in re.findall(r"seconds_per_step ([0-9.]+)", lines)]
    assert seconds
    return round(steps * fmean(seconds) / 60)


def test_the_preset_of_the_alignment_campaign():
    cost, numbers = MEASURED["fashion-16"]
    baseline = [r for r in results.published("01_alignment_strategies").records if r["row"] == "baseline"]
    assert f"accuracy {fmean(r['metrics']['last']['training_free'] for r in baseline):.2f}" in numbers
    assert f"{minutes_of_training(baseline, 400)} minutes" in cost


@pytest.mark.parametrize(("row", "preset"), [("clamp 3", "itarflow-16"), ("no clamp", "itarflow-16-unclamped")])
def test_the_presets_of_the_campaign_of_norms(row, preset):
    found = [r for r in results.published("03_trajectory_norms").records if r["row"] == row]
    cost, numbers = about(preset)[1:]
    assert f"{fmean(r['metrics']['last']['nats_per_dim'] for r in found):.3f} nats/dim" in numbers
    assert f"{minutes_of_training(found, 600)} minutes" in cost


def test_the_preset_of_the_campaign_of_latents():
    records = results.published("07_latent_256").records
    last = [r["metrics"]["last"] for r in records if r["row"] == "sigma 0.2"]
    fid, share = (fmean(one[name] for one in last) for name in ("fid", "recognised"))
    cost, numbers = about("latent-small")[1:]
    assert f"FID {fid:.1f} (efflite0), {share:.0%} recognised" in numbers
    minutes = [r["seconds"] / 60 for r in records]
    assert f"{min(minutes):.0f} to {max(minutes) + 0.5:.0f} minutes" in cost


def test_the_numbers_in_the_notebook_of_latents():
    records = results.published("07_latent_256").records
    text = (NOTEBOOKS / "07_latent_256.ipynb").read_text()
    rows = [[r["metrics"]["last"]["recognised"] for r in records if r["row"] == f"sigma {s}"] for s in (0.1, 0.2, 0.3)]
    assert ", ".join(f"{fmean(row):.0%}" for row in rows) in text
    for claim in load_claims("07_latent_256").of_numbers:
        found = judge(claim, records).difference
        assert f"{-found.mean:.1f} ± {found.half:.1f}" in text


def test_the_preset_of_the_flow_of_emoji_that_ships():
    record = read_json(zoo.path("emoji-tarflow") / "record.json")
    cost, numbers = about("emoji-32")[1:]
    assert f"{record['training_seconds'] / 3600:.1f} hours" in cost
    assert f"{record['likelihood']['nats_per_dim']:.3f} nats/dim" in numbers
    free = f"{record['training_free_accuracy']['accuracy']:.1%} training-free accuracy"
    assert f"{free} ({record['largest_class']:.1%} by guessing)" in numbers


def test_the_numbers_in_the_notebook_of_inverses_by_kind_of_noise():
    text = (NOTEBOOKS / "04_learned_vs_analytic_inverse.ipynb").read_text()
    ways = exploded(results.published("biflow_16").records, "ways")
    fid = lambda row, judge: fmean(one["metrics"][f"fid_{judge}"] for one in ways if one["row"] == row)  # noqa: E731
    student = [f"hidden-alignment{kind}" for kind in ("", ", fitted z", ", encoded z")]
    exact = [f"exact, score{kind}" for kind in ("", ", fitted z", ", encoded z")]
    drawn, fitted, encoded = (fid(row, "classifier") for row in student)
    assert f"{drawn:.2f} from *drawn*, {fitted:.2f} from *fitted* and {encoded:.2f} from" in text
    assert "{:.0f}, {:.0f} and {:.0f}. So".format(*(fid(row, "efflite0") for row in student)) in text
    assert f"{drawn - fitted:.2f} of {drawn - encoded:.2f} by the classifier" in text
    assert "({:.2f}, {:.2f} and {:.2f} by the classifier)".format(*(fid(row, "classifier") for row in exact)) in text
