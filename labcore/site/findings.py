"""What the campaigns found, as Markdown: one function for each generated part of the pages about findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Any

from labcore.campaigns import results, verdicts
from labcore.campaigns.claims import load_claims
from labcore.campaigns.records import Record
from labcore.campaigns.spec import TableSpec, load_spec
from labcore.campaigns.tables import exploded, tables
from labcore.campaigns.verdicts import Verdict, corrected, judge
from labcore.experiments import evidence
from labcore.markdown import table

ALIGNMENT, NORMS = "01_alignment_strategies", "03_trajectory_norms"
INVERSES, NOISE = "04_learned_vs_analytic_inverse", "07_latent_256"
LEARNED_ALIGNMENT = "flowback_16"
CAMPAIGNS = (ALIGNMENT, NORMS, INVERSES, NOISE)
"""The campaigns whose claims are counted, in the order of the page. `learned` has those that are published row by row."""

HEADLINES: dict[str, tuple[tuple[str, str, str, str], ...]] = {
    ALIGNMENT: (
        ("reverse", "baseline", "last.fid_efflite0", "Reverse alignment has a lower FID than no alignment"),
        ("reverse", "baseline", "last.training_free", "Reverse alignment recognises classes better than no alignment"),
        ("reverse", "detach", "last.fid_efflite0", "Reverse alignment has a lower FID than detached alignment"),
    ),
    NORMS: (("clamp 3", "no clamp", "last.spread", "A clamp of 3 makes the sizes of a flow's states more alike"),),
    INVERSES: (
        ("hidden-alignment", "exact, score", "fid_efflite0", "A student has a lower FID than its exact teacher"),
        ("hidden-alignment", "naive", "fid_efflite0", "Hidden alignment has a lower FID than naive distillation"),
        ("naive", "hidden-distillation", "fid_efflite0", "Naive has a lower FID than hidden distillation"),
    ),
    NOISE: (("sigma 0.2", "sigma 0.1", "last.fid", "Latents: training noise 0.2 has a lower FID than 0.1"),),
}
"""Campaign -> row, row to compare with, number, and words: the claims that README shows."""


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
    """Judge all claims that a campaign states of numbers, each alone."""
    return [judge(claim, records(campaign)) for claim in load_claims(campaign).of_numbers]


def headlines() -> str:
    """A few claims of each campaign with the measured difference, judged alone and together."""
    lines = []
    for campaign, chosen in HEADLINES.items():
        alone = judged(campaign)
        by_key = {
            (one.claim.row, one.claim.than, one.claim.number): (one, decision)
            for one, decision in zip(alone, corrected(alone), strict=True)
        }
        for row, than, number, says in chosen:
            found, decision = by_key[row, than, number]
            n = found.difference.n if found.difference else 0
            lines.append([says, difference(found), n, found.verdict, decision])
    return table(["claim", "difference (95% interval)", "seeds", "judged alone", "with Holm's correction"], lines)


def difference(found: Verdict) -> str:
    """Write the paired difference of a verdict with its interval, in the digits that the interval has."""
    if found.difference is None:
        return "-"
    mean, half = found.difference.mean, found.difference.half
    if half is None:
        return f"{mean:+.3g}"
    digits = 1 if half >= 1 else 2 if half >= 0.1 else 3 if half >= 0.01 else 4
    return f"{mean:+.{digits}f} ± {half:.{digits}f}"


def counts() -> str:
    """How many claims of each campaign are supported, reversed, undetermined and not run."""
    lines = []
    for campaign in CAMPAIGNS:
        found = judged(campaign)
        number = Counter(one.verdict for one in found)
        left = sum(verdict in ("supported", "reversed") for verdict in corrected(found))
        decided = number["supported"] + number["reversed"]
        kinds = ("supported", "reversed", "undetermined", "not run")
        stated = f"[`{campaign}`](../papermill_runs/claims/{campaign}.yaml)"
        lines.append([stated, len(found), *(number[kind] for kind in kinds), f"{left} of {decided}"])
    heads = ["campaign", "claims", "supported", "reversed", "undetermined", "not run"]
    return table([*heads, "decided claims that remain after Holm's correction"], lines)


def _chosen(campaign: str, columns: dict[str, str], baseline: str, rows: Sequence[str]) -> str:
    """Some columns of a campaign's table, and how to read it."""
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
    """Accuracy and FID of the directions of alignment."""
    columns = {"training-free accuracy": "last.training_free", "FID (efflite0)": "last.fid_efflite0"}
    rows = ["baseline", "forward", "detach", "reverse", "reverse-8"]
    return f"{_setting(ALIGNMENT)}\n{_chosen(ALIGNMENT, columns, 'baseline', rows)}"


def alignment_share() -> str:
    """The smallest and the largest share of the alignment's gradient, and the weight."""
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
    """Sizes of states, likelihood and largest log-scale by clamp."""
    columns = {"largest state / smallest state": "last.spread", "nats/dim": "last.nats_per_dim"}
    rows = list(dict.fromkeys(one["row"] for one in records(NORMS)))
    rows.sort(key=lambda row: row != "no clamp")
    return f"{_setting(NORMS)}\n{_chosen(NORMS, columns, 'no clamp', rows)}"


def inverses_table() -> str:
    """FID, recognised share and error of reconstruction of the exact inverse and of the students."""
    columns = {"FID (efflite0)": "fid_efflite0", "recognised": "recognised", "image MSE": "image_mse"}
    arms = ("exact", "naive", "hidden-distillation", "hidden-alignment", "no-denoiser", "norm-both", "norm-none")
    found = [one["row"] for one in records(INVERSES)]
    rows = [row for arm in (*arms, "features", "guided") for row in dict.fromkeys(found) if row.startswith(arm)]
    return f"{_setting(INVERSES)}\n{_chosen(INVERSES, columns, 'exact, score', rows)}"


def noise_table() -> str:
    """FID and recognised share by the noise of a flow of latents, and what real images score."""
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
    """The quickstart over its seeds."""
    return results.published("00_quickstart").table


def learned(campaign: str, columns: dict[str, str], baseline: str) -> str:
    """State the progress of a campaign on flows that have learned, some columns of its table, and its claims.

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
        tables(found.records, layout, [row for row in spec.rows if seeds[row]])["table.md"],
        evidence.verdicts_table(evidence.judged(load_claims(campaign), _by_table_row(layout, found.records))),
    ]
    return "\n".join(parts)


def learned_alignment() -> str:
    """FlowBack's questions on flows that have learned."""
    columns = {
        "FID (classifier)": "last.fid_classifier",
        "recall (classifier)": "last.recall_classifier",
        "FID (efflite0)": "last.fid_efflite0",
        "training-free accuracy": "last.training_free",
        "nats/dim": "last.nats_per_dim",
    }
    return learned(LEARNED_ALIGNMENT, columns, "baseline")


def _verdicts(campaign: str) -> Callable[[], str]:
    return lambda: verdicts.table(judged(campaign))


BLOCKS: dict[str, Callable[[], str]] = {
    "findings-headlines": headlines,
    "findings-counts": counts,
    "findings-alignment": alignment_table,
    "findings-alignment-share": alignment_share,
    "findings-alignment-verdicts": _verdicts(ALIGNMENT),
    "findings-learned-alignment": learned_alignment,
    "findings-norms": norms_table,
    "findings-norms-verdicts": _verdicts(NORMS),
    "findings-inverses": inverses_table,
    "findings-inverses-verdicts": _verdicts(INVERSES),
    "findings-noise": noise_table,
    "findings-noise-verdicts": _verdicts(NOISE),
    "findings-quickstart": quickstart_table,
}
