"""Claims files: what is refused, how all claims of a campaign are judged together, and the differences of its first figure."""

import math

import pytest
import yaml

from labcore.campaigns.claims import load_claims
from labcore.campaigns.interval import Interval, mean_interval
from labcore.campaigns.verdicts import Claim, Verdict
from labcore.experiments import evidence, quality
from labcore.viz import evidence as drawn
from labcore.viz.words import described

LITE0 = "efficientnet-lite0"
NUMBER = {
    "claim": "b is above a",
    "row": "b",
    "than": "a",
    "measure": "last.n",
    "direction": "higher",
    "paper": "2 / 1",
}
IMAGES = {"claim": "b has better images", "row": "b", "than": "a", "measure": "quality"}


def stated(tmp_path, **changes):
    values = {"about": "toys", "source": "nowhere", "path": "last.{}", "claims": [NUMBER, IMAGES], **changes}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(values))
    return load_claims("toy", tmp_path)


def records(row: str, taught: list[str], **measures: list[float]) -> list[dict]:
    seeds = range(len(next(iter(measures.values()))))
    return [
        {"row": row, "seed": s, "metrics": {"taught": taught, "last": {name: v[s] for name, v in measures.items()}}}
        for s in seeds
    ]


def pair(fid: float, recall: float, taught: list[str], near: tuple[float, ...] = (1.0, 1.1, 0.9)) -> list[dict]:
    """Row b differs from row a by fid and recall, times `near` in 3 seeds."""
    zero = [0.0, 0.0, 0.0]
    found = {f"{name}_{judge}": zero for name in ("fid", "recall") for judge in ("classifier", "efflite0")} | {
        "n": zero
    }
    moved = {key: [fid * v if key[0] == "f" else recall * v for v in near] for key in found if key != "n"}
    return records("a", [], **found) + records("b", taught, **moved, n=[0.1, -0.1, 0.3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"claims": [{**NUMBER, "direction": None}]}, "takes higher or lower"),
        ({"claims": [{**IMAGES, "direction": "higher"}]}, "'quality' takes no direction"),
        ({"claims": [NUMBER, NUMBER]}, "are in two claims"),
        ({"claims": []}, "at least 1"),
        ({"claim": [NUMBER]}, "claim"),
        (
            {"budget": {"hours": 1, "rows": [{"row": "b", "steps": 1, "minutes": 20.5, "seeds": 3}]}},
            "rows take 1.0 hours, and the budget is 1",
        ),
    ],
)
def test_what_a_claims_file_cannot_say(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        stated(tmp_path, **changes)


def test_a_missing_claims_file(tmp_path):
    with pytest.raises(ValueError, match=r"no claims file toy.yaml in .*; write the claims before the runs"):
        load_claims("toy", tmp_path)


@pytest.mark.parametrize(
    ("taught", "parts", "alone"), [([], 4, "better"), ([LITE0], 2, "better"), (["fashion-classifier"], 0, "no claim")]
)
def test_quality_is_judged_by_those_that_taught_neither_row(tmp_path, taught, parts, alone):
    number, images = evidence.judged(stated(tmp_path), pair(-1, 1, taught))
    assert number.alone == number.corrected == "undetermined" and len(number.verdicts) == 1
    assert len(images.verdicts) == parts and images.alone == alone
    table = evidence.verdicts_table([number, images])
    assert f"over the {1 + bool(parts)} claims that were run, of 2 stated" in table
    assert ("supported at this scale" in table) == bool(parts) and "| 2 / 1 |" in table


def test_holm_is_over_all_claims_of_a_campaign(tmp_path):
    """p of +1, +1.1, +0.9 is 0.0033 for each of the four measures, so for the claim: decided among 2 claims, not among 17."""
    few = stated(tmp_path)
    many = stated(tmp_path, claims=[IMAGES, *({**NUMBER, "row": f"c{i}"} for i in range(16))])
    found = pair(-1, 1, []) + [r for i in range(16) for r in records(f"c{i}", [], n=[0.1, -0.1, 0.3])]
    assert evidence.judged(few, found)[1].corrected == "better"
    first = evidence.judged(many, found)[0]
    assert first.alone == "better" and first.corrected == "undetermined"
    assert evidence.judged(few, pair(1, -1, []))[1].alone == "worse"
    assert evidence.judged(few, [])[1].alone == "not run"


def test_the_p_value_of_a_claim_of_quality_is_the_largest_of_its_measures(tmp_path):
    """All measures must be decided (Berger 1982); a contradiction needs one on each side."""
    claim, way = Claim("", "b", "a", "a", "lower"), {"lower": "supported", "higher": "reversed"}
    of = lambda mean, half: Verdict(claim, way["lower" if mean < 0 else "higher"], Interval(mean, half, 5))  # noqa: E731
    clear, clearer, other = of(-1.0, 0.5), of(-1.0, 0.1), of(1.0, 0.3)
    p = [one.difference.p_value for one in (clear, clearer, other)]
    assert quality.p_value([clear, clearer]) == p[0] > p[1]
    assert quality.p_value([clear, clearer, other]) == max(p[1], p[2]) == p[2] < p[0]
    assert quality.p_value([clear, Verdict(claim, "not run", None)]) is None and quality.p_value([]) is None


def test_an_undetermined_claim_says_which_differences_would_be_seen(tmp_path):
    found = evidence.judged(stated(tmp_path, claims=[IMAGES]), pair(-1, 1, [], near=(1.0, -1.0, 0.5)))
    text = evidence.verdicts_table(found)
    (one,) = found
    assert one.alone == "undetermined" and f"80% power for fid_classifier {one.verdicts[0].smallest:.2g}, " in text


def test_differences_of_the_figure(tmp_path):
    found = evidence.differences(
        pair(-1, 1, [LITE0]), ["a", "b", "never"], lambda row: "a", evidence.OF_IMAGES, "last.{}"
    )
    by_name = {measure.name: rows for measure, rows in found.items()}
    assert by_name.keys() == {"fid_classifier", "recall_classifier", "fid_efflite0", "recall_efflite0"}
    one = by_name["fid_classifier"]["b"]
    assert by_name["fid_classifier"].keys() == {"b"} and (one.mean, one.n, one.taught) == (pytest.approx(-1), 3, False)
    assert one.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5) and by_name["fid_efflite0"]["b"].taught
    figure = drawn.differences(found, ["b", "never"], "a")
    shown = [axes for axes in figure.axes if axes.has_data()]
    assert len(shown) == 4 and [t.get_text() for t in shown[0].get_yticklabels()] == ["b"]
    assert figure.legends[0].get_title().get_text() == "nothing to compare yet: never"
    assert drawn.differences(found, ["b"], "a").legends[0].get_title().get_text() == ""


def test_the_standardised_size_and_its_exact_interval():
    """d_z of five differences with mean 1 and sd 0.158; the interval's ends are where t has probability 0.975 and 0.025."""
    from scipy.stats import nct

    for values in ([1.0, 1.2, 0.8, 1.1, 0.9], [-0.1, 0.2, -0.8, 0.1, -0.9]):
        size = mean_interval(values).standardised
        mean = math.fsum(values) / 5
        sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / 4)
        assert size.value == pytest.approx(mean / sd) and size.low < size.value < size.high
        t = math.sqrt(5) * size.value
        ends = [float(nct.cdf(t, 4, math.sqrt(5) * end)) for end in (size.low, size.high)]
        assert ends == pytest.approx([0.975, 0.025], abs=1e-4)
    assert mean_interval([1.0]).standardised is None and mean_interval([1.0, 1.0]).standardised is None


def test_a_campaign_of_its_baseline_alone_has_a_figure_that_says_so():
    figure = drawn.differences({}, ["a"], "the baseline")
    assert "nothing to compare yet" in described(figure)
