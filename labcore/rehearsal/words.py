"""Output of a rehearsal, in lines of 80 columns. Each command is on a line of its own, so that it can be copied."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from labcore.plan import EFFICIENCY, GPUS, Estimate, Machine, Plan, duration, estimate, words
from labcore.rehearsal.ready import Point

if TYPE_CHECKING:
    from labcore.rehearsal.rehearse import Rehearsal

Say = Callable[[str], None]
COLUMNS, NAME, STATUS = 80, 10, 9


def point(found: Point, say: Say) -> None:
    """Show a requirement with its status."""
    row(found.name, found.status, found.found, say)


def row(name: str, status: str, text: str, say: Say) -> None:
    """Show a name, a status, and a wrapped text to their right."""
    head = f"{name:{NAME}s}{status:{STATUS}s}"
    wrapped = textwrap.fill(
        text,
        COLUMNS,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
    say(wrapped)


def plan(found: Plan, machine: Machine, expected: Estimate, processes: int, images: int, say: Say) -> None:
    """Show the plan, on this machine and on the GPUs of the table. images: number of images to encode before the first step."""
    row("plan", "", "; ".join(words.sizes(found)), say)
    row("", "", words.peaks(machine), say)
    if found.once:
        seconds = images * found.once / (processes * EFFICIENCY * machine.gpu.single)
        line = f"{found.once / 1e9:,.0f} GFLOPs for each of {images:,} images, {duration(seconds)} here"
        row("", "", f"once, before the first step: {line}", say)
    devices = f"{processes} x this" if processes > 1 else "this one"
    say(_kind(devices, expected))
    for kind, gpu in GPUS.items():
        say(_kind(f"{processes} x {kind}", estimate(found, gpu, processes)))
    estimates = [estimate(found, gpu, processes) for gpu in GPUS.values()]
    if note := words.of_small_steps(found, estimates):
        row("", "", note, say)
    row("", "", f"times assume {EFFICIENCY:.0%} of the peak; only one step was checked against a GPU, an H200", say)


def _kind(who: str, e: Estimate) -> str:
    """Return time and memory on a kind of device as one line."""
    start = " " * (NAME + STATUS) + f"{who:14s}"
    if not e.micro_batch:
        return f"{start}too small: one image takes {words.size(e.memory)}"
    again = f", accumulation {e.accumulation}" if e.accumulation > 1 else ""
    return f"{start}{e.duration}, {e.micro_batch} at a time in {words.size(e.memory)}{again}"


def missing(found: Rehearsal, say: Say) -> None:
    """Show the missing requirements, and how to meet them."""
    say(f"\n{len(found.missing)} missing; nothing was trained. Get:\n")
    _numbered(found.missing, say)
    if not found.asked.synthetic:
        say("")
        _item("To measure speed and memory before that, give --synthetic: it uses random images and weights", say)
    command(found, say)


def _numbered(points: list[Point], say: Say) -> None:
    for number, each in enumerate(points, 1):
        _item(f"{number}. {each.name}: {each.remedy or each.found}", say, 3)


def problem(found: Rehearsal, say: Say) -> None:
    """Show why the run does not fit, and with which settings and GPUs it would."""
    say("")
    _item(f"This does not fit on {found.there.name}: {found.problem}", say)
    if found.fits:
        say("According to the plan, these would fit:")
    for each in found.fits:
        _item(f"- {each}", say, 2)
    if found.there.kind == "cpu" and not found.asked.smoke:
        say("To run all of its code at a tiny size on this machine:")
        say(f"  lab rehearse {found.asked.preset} --smoke")
    command(found, say)


def measured(found: Rehearsal, say: Say) -> None:
    """Show the measurements next to the plan, and an estimate of the whole run."""
    trial, expected = found.trial, found.expected
    say("")
    speed = trial.seconds_per_step / expected.seconds_per_step
    row(
        "speed",
        "measured",
        f"{words.step(trial.seconds_per_step)} a step in {trial.precision}, the median of {trial.steps} steps of "
        f"{trial.batch_size} images; the first step took {words.step(trial.first_step)}",
        say,
    )
    row("", "plan", f"{words.step(expected.seconds_per_step)} a step; the measured time is {speed:.2g} times this", say)
    _memory(found, say)
    if trial.drawn:
        row("drawing", "measured", f"{words.step(trial.seconds_per_image)} an image, {trial.drawn} drawn together", say)
    else:
        row("drawing", "", f"nothing was drawn: {trial.undrawn or 'no images were asked for'}", say)
    _whole_run(found, say)
    if found.later:
        say("\nThe real run also needs:\n")
        _numbered(found.later, say)
    command(found, say)


def _memory(found: Rehearsal, say: Say) -> None:
    from labcore.rehearsal.fitting import memory_of

    trial, micro = found.trial, found.micro_batch
    planned = memory_of(found.plan, micro)
    if trial.memory is None:
        row("memory", "", "this system does not report how much memory a process uses", say)
    else:
        row("memory", "measured", f"{words.size(trial.memory)} at the peak of training", say)
    times = "" if trial.memory is None else f"; the measured memory is {trial.memory / planned:.2g} times this"
    row("", "plan", f"{words.size(planned)} with {micro} images at a time{times}", say)


def _whole_run(found: Rehearsal, say: Say) -> None:
    """Show the days and the price of the whole run."""
    plural = "s" if found.processes > 1 else ""
    who = f"{found.processes} device{plural} like this"
    text = (
        f"{found.plan.steps:,} steps take {duration(86_400 * found.days)} on {who}, without evaluations, "
        "checkpoints and preparations before the first step"
    )
    if found.processes > 1:
        text += "; this assumes that exchanging gradients takes no time"
    row("whole run", "", text, say)
    if found.processes > 1:
        alone = duration(86_400 * found.days * found.processes)
        row("", "", f"on one device: {alone}, if it computes each batch in {found.processes} parts", say)
    if found.price is not None:
        each = f"{found.device_hours:,.3g} device hours at {found.asked.price:,g} an hour"
        row("price", "", f"{found.price:,.2f}: {each}", say)
    if found.asked.smoke:
        row("", "", "numbers of the smoke size say nothing about the full run", say)


def command(found: Rehearsal, say: Say) -> None:
    """Show the command of the real run."""
    say("\nThe real run starts with:")
    say(f"  {found.command}")


def _item(text: str, say: Say, indent: int = 0) -> None:
    """Show a wrapped paragraph."""
    later = " " * indent
    say(textwrap.fill(text, COLUMNS, subsequent_indent=later, break_long_words=False, break_on_hyphens=False))
