"""The plan of a training step beside some measured steps, as `lab rehearse` shows them, for small presets on this machine."""

from __future__ import annotations

from labcore.rehearsal.rehearse import Asked, rehearse

PRESETS = ("itarflow-16-longer", "fashion-small", "emoji-32", "pictures-32")
"""Flows of 16 to 64 tokens and of width 64 to 256; our choice."""
STEPS = 12
"""Training steps, of which the first two do not count; our choice."""


def planned() -> dict:
    """Return planned and measured seconds of a step and bytes, and the peak of a matrix product that the plan measured."""
    rows = []
    for preset in PRESETS:
        found = rehearse(Asked(preset, synthetic=True), STEPS, images=0, say=lambda line: None)
        row = {
            "preset": preset,
            "parameters": found.plan.parameters,
            "images a step": found.plan.batch_size,
            "peak TFLOP/s": round(found.there.gpu.single / 1e12, 3),
            "planned s": round(found.expected.seconds_per_step, 4),
            "measured s": round(found.trial.seconds_per_step, 4),
            "planned GB": round(found.expected.memory / 1e9, 3),
            "measured GB": round(found.trial.memory / 1e9, 3),
        }
        print("planned    ", row, flush=True)
        rows.append(row)
    return {"rows": rows}
