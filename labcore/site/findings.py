"""Results of the campaigns as Markdown: one function for each generated part of the pages about findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from labcore.campaigns import results, verdicts
from labcore.campaigns.claims import QUALITY, load_claims
from labcore.campaigns.records import Record
from labcore.campaigns.spec import TableSpec, load_spec
from labcore.campaigns.tables import exploded, tables
from labcore.campaigns.verdicts import Verdict, corrected, judge
from labcore.experiments import evidence
from labcore.markdown import table
from labcore.presets import PRESETS
from labcore.site import first_figures

ALIGNMENT, NORMS = "01_alignment_strategies", "03_trajectory_norms"
INVERSES, NOISE = "04_learned_vs_analytic_inverse", "07_latent_256"
LEARNED_ALIGNMENT, LEARNED_INVERSES = first_figures.ALIGNMENT, first_figures.INVERSES
CAMPAIGNS = (LEARNED_ALIGNMENT, LEARNED_INVERSES, ALIGNMENT, NORMS, INVERSES, NOISE)
"""The campaigns whose claims are counted, in the order of the page."""

LEARNED_HEADLINES = {
    LEARNED_ALIGNMENT: (
        ("reverse, last two blocks", "baseline", QUALITY, "FID (classifier)"),
        ("reverse, last two blocks", "baseline", "last.training_free", "accuracy"),
    ),
    LEARNED_INVERSES: (
        ("hidden-alignment", "exact, score", QUALITY, "FID (classifier)"),
        ("hidden-alignment", "naive", QUALITY, "FID (classifier)"),
    ),
}
"""Campaign -> row, row to compare with, measure, and the name of the shown number: the claims about flows that have learned,
which README shows first. A claim of quality is shown by the classifier's Fréchet distance and recall."""
HEADLINES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    ALIGNMENT: (
        ("reverse", "baseline", "last.fid_efflite0", "reverse alignment (weight 1) has a lower FID than no alignment"),
        (
            "reverse",
            "detach",
            "last.fid_efflite0",
            "reverse alignment (weight 1) has a lower FID than detached alignment",
        ),
    ),
    INVERSES: (
        ("hidden-alignment", "exact, score", "fid_efflite0", "a student has a lower FID than the exact inverse"),
        ("naive", "hidden-distillation", "fid_efflite0", "naive has a lower FID than hidden distillation"),
    ),
}
"""Campaign -> row, row to compare with, number, and words: the claims about barely trained flows that README shows."""


@cache
def records(campaign: str) -> list[Record]:
    """Read the published records of a campaign; ways of inverting are rows of their own. ValueError if there are none."""
    found = results.published(campaign)
    if found is None:
        raise ValueError(f"{campaign} has no published records; call this from the checkout")
    return _by_table_row(load_spec(campaign).table, found.records)


def _by_table_row(layout: TableSpec, found: list[Record]) -> list[Record]:
    """Return a record for each row of a campaign's table, of which one run may give several."""
    return found if layout.each is None else exploded(found, layout.each)


@cache
def judged(campaign: str) -> list[Verdict]:
    """Judge all claims of a campaign about numbers, each alone."""
    return [judge(claim, records(campaign)) for claim in load_claims(campaign).of_numbers]


def headlines() -> str:
    """Write a few claims of the campaigns with the steps of their flows, the difference, and both verdicts."""
    lines = [line for campaign, chosen in LEARNED_HEADLINES.items() for line in _learned_lines(campaign, chosen)]
    for campaign, chosen in HEADLINES.items():
        alone = judged(campaign)
        by_key = {
            (one.claim.row, one.claim.than, one.claim.number): (one, decision)
            for one, decision in zip(alone, corrected(alone), strict=True)
        }
        for row, than, number, says in chosen:
            found, decision = by_key[row, than, number]
            lines.append([says, _flow_steps(campaign), *_measured(found, "FID (efflite0)"), found.verdict, decision])
    heads = ["claim", "flow's steps", "difference (95% interval)", "seeds", "judged alone", "with Holm's correction"]
    return table(heads, lines)


def _learned_lines(campaign: str, chosen: Sequence[tuple[str, str, str, str]]) -> list[list[Any]]:
    """Return the lines of claims about flows that have learned; of a claim of quality, with its first two numbers."""
    claims = load_claims(campaign)
    by_key = {(o.stated.row, o.stated.than, o.stated.measure): o for o in evidence.judged(claims, records(campaign))}
    lines = []
    for *key, name in chosen:
        one = by_key[tuple(key)]
        found = _measured(one.verdicts[0], name)
        if one.stated.measure == QUALITY:
            found = (f"{found[0]}, {_measured(one.verdicts[1], 'recall')[0]}", found[1])
        decisions = [evidence.QUALITY_WORDS.get(each, each) for each in (one.alone, one.corrected)]
        lines.append([one.stated.claim, _flow_steps(campaign), *found, *decisions])
    return lines


def _measured(found: Verdict, name: str) -> tuple[str, int]:
    """Return a difference, after the name of its measure, and its number of seeds."""
    if found.difference is None:
        return f"{name} -", 0
    return f"{name} {found.difference.text(signed=True)}", found.difference.n


def _flow_steps(campaign: str) -> str:
    """Return the number of optimizer steps of a campaign's flows: of the runs themselves, or of the students' teacher."""
    given = results.published(campaign).records[0]["parameters"]
    steps = PRESETS[given["teacher"]]["train"]["steps"] if "teacher" in given else given["steps"]
    return f"{steps:,}"


def counts() -> str:
    """Write how many claims of each campaign are supported, reversed and so on, each judged alone, and after correction."""
    decisions = {campaign: evidence.judged(load_claims(campaign), records(campaign)) for campaign in CAMPAIGNS}
    decided = ["supported", "reversed", "contradictory"]
    kinds = [*decided, "undetermined", "not run"]
    lines = []
    for campaign, found in decisions.items():
        alone, after = (Counter(evidence.QUALITY_WORDS.get(each, each) for each in side) for side in _sides(found))
        left = f"{sum(after[kind] for kind in decided)} of {sum(alone[kind] for kind in decided)}"
        stated = f"[`{campaign}`](../papermill_runs/claims/{campaign}.yaml)"
        lines.append([stated, len(found), *(alone[kind] for kind in kinds), left])
    return table(["campaign", "claims", *kinds, "decided claims that remain after Holm's correction"], lines)


def _sides(found: Sequence[evidence.Judged]) -> tuple[list[str], list[str]]:
    """Return the decisions judged alone, and those after Holm's correction."""
    return [one.alone for one in found], [one.corrected for one in found]


def _chosen(campaign: str, columns: dict[str, str], baseline: str, rows: Sequence[str]) -> str:
    """Write some columns of a campaign's table, with the note on how to read it."""
    return tables(records(campaign), TableSpec(columns=columns, baseline=baseline), rows)["table.md"]


def _setting(campaign: str) -> str:
    """Say seeds, steps and number format of a campaign."""
    found = results.published(campaign).records
    seeds = sorted({one["seed"] for one in found})
    steps = sorted({one["parameters"]["steps"] for one in found})
    formats = sorted({one["parameters"]["precision"] for one in found})
    link = f"[all columns](../papermill_runs/results/{campaign}/table.md)"
    return (
        f"{len(found)} runs: {len(seeds)} seeds for each row, {' or '.join(map(str, steps))} steps, "
        f"{' or '.join(formats)}. Table with {link}.\n"
    )


def alignment_table() -> str:
    """Write accuracy and FID of the directions of alignment."""
    columns = {"training-free accuracy": "last.training_free", "FID (efflite0)": "last.fid_efflite0"}
    rows = ["baseline", "forward", "detach", "reverse", "reverse-8"]
    return f"{_setting(ALIGNMENT)}\n{_chosen(ALIGNMENT, columns, 'baseline', rows)}"


def alignment_share() -> str:
    """Write the smallest and the largest share of the alignment's gradient, and the weight."""
    found = records(ALIGNMENT)
    shares = [
        align / likelihood
        for one in found
        for sites in one["metrics"]["conflicts"].values()
        for _, blocks in sites
        for _, cosine, likelihood, align in blocks
        if cosine is not None
    ]
    (weight,) = {one["parameters"]["weight"] for one in found}
    return (
        f"The alignment has a weight of {weight:g}. In the blocks that it reaches, the norm of its gradient is "
        f"{min(shares):.0%} to {max(shares):.0%} of the norm of the likelihood's gradient.\n"
    )


def norms_table() -> str:
    """Write sizes of states, likelihood and largest log-scale by clamp."""
    columns = {"largest state / smallest state": "last.spread", "nats/dim": "last.nats_per_dim"}
    rows = list(dict.fromkeys(one["row"] for one in records(NORMS)))
    rows.sort(key=lambda row: row != "no clamp")
    return f"{_setting(NORMS)}\n{_chosen(NORMS, columns, 'no clamp', rows)}"


def inverses_table() -> str:
    """Write FID, recall, recognised share and error of reconstruction of the exact inverse and of the students."""
    columns = {"FID (efflite0)": "fid_efflite0", "recall (efflite0)": "recall_efflite0"}
    columns |= {"recognised": "recognised", "image MSE": "image_mse"}
    arms = ("exact", "naive", "hidden-distillation", "hidden-alignment", "no-denoiser", "norm-both", "norm-none")
    found = [one["row"] for one in records(INVERSES)]
    rows = [row for arm in (*arms, "features", "guided") for row in dict.fromkeys(found) if row.startswith(arm)]
    return f"{_setting(INVERSES)}\n{_chosen(INVERSES, columns, 'exact, score', rows)}"


def noise_table() -> str:
    """Write FID and recognised share by the noise of a flow of latents, and the scores of real images."""
    columns = {"FID (efflite0)": "last.fid", "recognised": "last.recognised"}
    floors: dict[str, Any] = records(NOISE)[0]["metrics"]["floors"]
    rows = ["sigma 0.1", "sigma 0.2", "sigma 0.3"]
    shares = {row: fmean(o["metrics"]["last"]["recognised"] for o in records(NOISE) if o["row"] == row) for row in rows}
    return (
        f"{_setting(NOISE)}\n{_chosen(NOISE, columns, 'sigma 0.2', rows)}\n"
        f"For comparison: held-out images have a FID of {floors['held-out images']['fid']:.1f}, and their reconstructions by "
        f"the autoencoder {floors['through the autoencoder']['fid']:.1f}. The classifier recognises "
        f"{', '.join(f'{share:.0%}' for share in shares.values())} of the samples of {', '.join(rows)}.\n"
    )


def quickstart_table() -> str:
    """Write the results of the quickstart over its seeds."""
    return results.published("00_quickstart").table


def learned(campaign: str, columns: dict[str, str], baseline: str) -> str:
    """State the progress of a campaign on flows that have learned, then its first figure, its claims, and a folded table.

    A campaign is published row by row, so that rows without records are named as not run.
    """
    found = results.published(campaign)
    if found is None:
        return "Not run yet: no record is published.\n"
    spec = load_spec(campaign)
    seeds = {row: len({one["seed"] for one in found.records if one["row"] == row}) for row in spec.rows}
    done = "; ".join(f"{row} ({count})" for row, count in seeds.items() if count)
    left = "; ".join(row for row, count in seeds.items() if not count)
    layout = TableSpec(each=spec.table.each, columns=columns, baseline=baseline)
    parts = [
        f"Rows with records, and their number of seeds: {done}. Not run yet: {left or 'none'}. "
        f"[All columns](../papermill_runs/results/{campaign}/table.md), [claims and planned cost]"
        f"(../papermill_runs/claims/{campaign}.yaml).\n",
        first_figures.shown(campaign),
        evidence.verdicts_table(evidence.judged(load_claims(campaign), _by_table_row(layout, found.records))),
        evidence.folded(
            "Numbers of each row", tables(found.records, layout, [row for row in spec.rows if seeds[row]])["table.md"]
        ).lstrip(),
    ]
    return "\n".join(parts)


def learned_alignment() -> str:
    """Write the answers to FlowBack's questions for flows that have learned."""
    columns = {
        "FID (classifier)": "last.fid_classifier",
        "recall (classifier)": "last.recall_classifier",
        "FID (efflite0)": "last.fid_efflite0",
        "training-free accuracy": "last.training_free",
        "nats/dim": "last.nats_per_dim",
    }
    return learned(LEARNED_ALIGNMENT, columns, "baseline")


def learned_inverses() -> str:
    """Write the answers to BiFlow's questions for flows that have learned."""
    columns = {
        "FID (classifier)": "fid_classifier",
        "recall (classifier)": "recall_classifier",
        "FID (efflite0)": "fid_efflite0",
        "image MSE": "image_mse",
        "recognised": "recognised",
    }
    return learned(LEARNED_INVERSES, columns, "exact, score")


def _verdicts(campaign: str) -> Callable[[], str]:
    return lambda: verdicts.table(judged(campaign))


BLOCKS: dict[str, Callable[[], str]] = {
    "findings-headlines": headlines,
    "findings-counts": counts,
    "findings-alignment": alignment_table,
    "findings-alignment-share": alignment_share,
    "findings-alignment-verdicts": _verdicts(ALIGNMENT),
    "findings-learned-alignment": learned_alignment,
    "findings-learned-inverses": learned_inverses,
    "findings-norms": norms_table,
    "findings-norms-verdicts": _verdicts(NORMS),
    "findings-inverses": inverses_table,
    "findings-inverses-verdicts": _verdicts(INVERSES),
    "findings-noise": noise_table,
    "findings-noise-verdicts": _verdicts(NOISE),
    "findings-quickstart": quickstart_table,
}
