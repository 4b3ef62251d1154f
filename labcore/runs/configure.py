"""A run's configuration from what a user types: a preset or a file, data, and single settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from labcore.config import (
    RENAMED,
    BaseRunConfig,
    DataConfig,
    StudentRunConfig,
    TarFlowConfig,
    TokensConfig,
    with_present_names,
)
from labcore.data.datasets import NAMES, Data
from labcore.hints import nearest
from labcore.kinds import STUDENT, kind_of_sections
from labcore.latents import codec_of, square_pixels
from labcore.presets import ALL, PRESETS, SMALL, STUDENTS, about
from labcore.runs.config_paths import anchored, from_anywhere
from labcore.runs.models import find_model, run_section
from labcore.train.distillation import SAME
from labcore.yamlfile import parse_yaml, read_yaml

STUDENT_TRAIN: dict[str, Any] = dict(
    steps=2000, batch_size=128, lr=1e-3, warmup_steps=100, weight_decay=0.0, ema_decay=0.999
)
"""How a learned inverse is trained where nothing is said; our choice, for the sizes that two cores bear."""

AnyRun = TypeVar("AnyRun", bound=BaseRunConfig)


def configure(
    preset: str = "fashion-small",
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
    align: str | None = None,
) -> BaseRunConfig:
    """A validated configuration of a run that no flow teaches; its kind is that of the file or preset.

    file: a YAML file with the sections of its kind, instead of a preset; a flow's are model, data, train and align. data: a
    data set's name, or a folder of class folders. align: a direction of alignment, or "off"; sites that nothing names are
    `labcore.kinds.flow.default_sites`. settings:
    "train.steps=100" and the like, the last word. Paths become absolute (`labcore.runs.config_paths`). A model's image size,
    channels and classes follow the data where they are not set. Raises ValueError or FileNotFoundError for what does not exist
    or fit.
    """
    values = _read(file) if file else preset_sections(preset)
    kind = kind_of_sections(values)
    if kind.has_teacher and file is None:
        raise ValueError(
            f"preset {preset!r} trains the learned inverse of a flow; name that, as in  {about(preset)[0]}"
        )
    if kind.has_teacher:
        raise ValueError(f"{file} is of the learned inverse of a flow; give it to `lab train` or configure_student")
    if align is not None and "align" not in kind.sections:
        raise ValueError(f"--align was {align!r}; a {kind.name} is aligned with nothing: leave it out")
    sections = _sections(values, kind.sections)
    _choose_data(sections["data"], data, image_size, channels)
    chosen = _settings(sections, settings, _data_options(data, image_size, channels))
    if data is not None or image_size is not None or channels is not None:
        found = Data.of(DataConfig(**sections["data"])).split("train")
        follow = dict(image_size=found.image_size, channels=found.channels, num_classes=found.num_classes)
        if sections["model"].get("codec") is not None:
            used = codec_of(kind.config.model_fields["model"].annotation(**sections["model"]))
            if found.image_size % used.factor:
                raise ValueError(f"image_size was {found.image_size}; {used.name} takes multiples of {used.factor}")
            follow |= dict(image_size=found.image_size // used.factor, channels=used.channels)
        sections["model"].pop("class_names", None)  # those of other data
        if sections["model"].get("num_classes") == 0:
            chosen.add(("model", "num_classes"))  # an unconditional model stays one, whatever the folders are called
        sections["model"].update({k: v for k, v in follow.items() if ("model", k) not in chosen})
    if align not in (None, "off"):
        if ("align", "direction") in chosen and sections["align"]["direction"] != align:
            raise ValueError(
                f"--align was {align!r} and the setting align.direction {sections['align']['direction']!r}; give one of them"
            )
        sections["align"]["direction"] = align
    if align == "off" and any(section == "align" for section, _ in chosen):
        raise ValueError("--align off takes no align settings; leave one of them out")
    if align == "off":
        sections["align"] = {}
    return anchored(kind.validated(sections))


def configure_student(
    flow: str,
    preset: str | None = None,
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
) -> StudentRunConfig:
    """A validated configuration of a learned inverse of `flow` (what `find_model` takes).

    preset: one of a learned inverse, whose image and blocks give way to the flow's. file: a YAML file with the keys
    model, data, train and student instead; a key flow is passed over. What nothing says follows the flow: image,
    tokens, blocks, layers, widths and classes from its model, and the data from its run where that is at hand;
    training is that of `STUDENT_TRAIN`. Raises as `configure`, and as `find_model`.
    """
    if file:
        values = _read(file)
    else:
        values = STUDENTS[preset] if preset else {}
    sections = _sections({name: section for name, section in values.items() if name != "flow"}, STUDENT.sections)
    if preset:  # a way to teach, for any flow
        sections["model"] = {key: value for key, value in sections["model"].items() if key not in SAME}
    flow = from_anywhere(flow)
    sections = follow(flow, sections)
    sections["train"] = {**STUDENT_TRAIN, **sections["train"]}
    _choose_data(sections["data"], data, image_size, channels)
    if data is not None and image_size is None:
        sections["data"] |= square_pixels(find_model(flow).config)
    _settings(sections, settings, _data_options(data, image_size, channels))
    return anchored(StudentRunConfig(flow=flow, **sections))


def follow(flow: str, sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A learned inverse's sections with what `model` and `data` do not say from the flow (what `find_model` takes)."""
    config = find_model(flow).config
    model = {key: getattr(config, key) for key in TokensConfig.model_fields} | sections["model"]
    if model["num_classes"] != config.num_classes:
        model["class_names"] = None
    data = run_section(flow, "data") or square_pixels(config)
    return {**sections, "model": model, "data": {**data, **sections["data"]}}


def configure_run(
    preset: str = "fashion-small",
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
    align: str | None = None,
    invert: str | None = None,
) -> BaseRunConfig:
    """The configuration of a learned inverse, of `invert` or of what `file` says under flow; else that of a flow.

    So the config.yaml in a run's folder says the same run again, of either kind. Raises as `configure` and
    `configure_student`, and ValueError for what is not for a learned inverse.
    """
    own = _read(file) if file else {}
    options = dict(file=file, data=data, image_size=image_size, channels=channels, settings=settings)
    if invert is None and not kind_of_sections(own).has_teacher:
        return configure(preset, align=align, **options)
    of_student = file is None and kind_of_sections(ALL.get(preset, {})).has_teacher
    if align or (preset != "fashion-small" and not of_student):
        raise ValueError(
            "a learned inverse is trained (--invert, or flow in --config), and no flow, so --align and a flow's --preset "
            f"are not for it; its presets are {', '.join(STUDENTS)}"
        )
    flow = own.get("flow") if invert is None else invert
    if not isinstance(flow, str):
        raise ValueError(f"{file}: flow was {flow!r}; give a zoo name, a run's folder or a saved model")
    return configure_student(flow, preset if of_student else None, **options)


def as_named(preset: str, settings: Sequence[str] = ()) -> tuple[BaseRunConfig, TarFlowConfig | None]:
    """A preset as it stands, and of a learned inverse the flow that it names, as a preset too; no file is read.

    Raises ValueError for an unknown preset and for settings that it has not.
    """
    values = preset_sections(preset)
    if not kind_of_sections(values).has_teacher:
        return configure(preset, settings=settings), None
    sections = _sections({k: v for k, v in values.items() if k != "flow"}, STUDENT.sections)
    flow = Path(values["flow"]).parts[1]
    sections["data"] = {**PRESETS[flow]["data"], **sections["data"]}
    _settings(sections, settings)
    return StudentRunConfig(flow=flow, **sections), TarFlowConfig(**PRESETS[flow]["model"])


def _sections(values: dict[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every section of a run by name; ValueError for what is no section."""
    for name, section in values.items():
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"section {name} is {section!r}; it needs settings like key: value")
    sections = {name: dict(values.get(name) or {}) for name in names}
    if unknown := values.keys() - sections.keys():
        raise ValueError(f"unknown sections {sorted(map(str, unknown))}; a run has {', '.join(names)}")
    return sections


def _choose_data(section: dict[str, Any], data: str | None, image_size: int | None, channels: int | None) -> None:
    if data is not None:
        section |= data_section(data)
    if image_size is not None:
        section["image_size"] = image_size
    if channels is not None:
        section["channels"] = channels


def data_section(data: str) -> dict[str, Any]:
    """Settings of a run's data for the name of a data set, or a folder."""
    return dict(name=data, path=None, crop=None) if data in NAMES else dict(name="folder", path=from_anywhere(data))


def _data_options(data: str | None, image_size: int | None, channels: int | None) -> dict[tuple[str, str], str]:
    """Settings that options of the command line have set, with what the option is called."""
    given: dict[tuple[str, str], str] = {}
    if image_size:
        given["data", "image_size"] = "--image-size"
    if channels:
        given["data", "channels"] = "--channels"
    if data:
        given["data", "name"] = "--data"
    if data and data not in NAMES:
        given["data", "path"] = "--data"
    return given


def _settings(
    sections: dict[str, dict[str, Any]], settings: Sequence[str], options: Mapping[tuple[str, str], str] | None = None
) -> set[tuple[str, str]]:
    """Put single settings in their sections; which they were. A warm-up that nobody set is a quarter of given steps at most.

    options: settings that have their value of an option of this name; ValueError where a setting says something else.
    """
    chosen: set[tuple[str, str]] = set()
    for setting in settings:
        section, key, value = _setting(setting, sections)
        if (section, key) in chosen:
            raise ValueError(
                f"the settings give {section}.{key} twice, as {sections[section][key]!r} and {value!r}; give it once"
            )
        option = (options or {}).get((section, key))
        if option and value != sections[section].get(key):
            raise ValueError(
                f"{option} gives {section}.{key} {sections[section].get(key)!r}, and the settings {value!r}; give one of them"
            )
        sections[section][key] = value
        chosen.add((section, key))
    train = sections["train"]
    if ("train", "steps") in chosen and ("train", "warmup_steps") not in chosen and isinstance(train["steps"], int):
        train["warmup_steps"] = min(train.get("warmup_steps", 0), train["steps"] // 4)  # a short trial needs no more
    return chosen


def at_length(run: AnyRun, steps: int, batch_size: int, save_every: int, seed: int, precision: str = "fp32") -> AnyRun:
    """A run that is compared with others: so many steps and images a step, all of its checkpoints kept.

    Raises ValueError unless there is a checkpoint on the way or at the end, and for precision "auto", which on a CPU times
    formats and may choose another for each of the runs.
    """
    allowed = ("fp32", "bf16", "fp16")
    if precision not in allowed:
        raise ValueError(
            f"precision was {precision!r}; runs that are compared need one and the same: {', '.join(allowed)}"
        )
    if not 1 <= save_every <= steps:
        raise ValueError(f"save_every was {save_every} with steps {steps}; give 1 to {steps}")
    changes = dict(steps=steps, batch_size=batch_size, seed=seed, precision=precision)
    changes |= dict(save_every=save_every, eval_every=save_every, keep=steps // save_every + 1)
    changes["warmup_steps"] = min(run.train.warmup_steps, steps // 4)
    return run.replace(train=run.train.replace(**changes).model_dump())


def preset_sections(name: str) -> dict[str, Any]:
    """The sections of a preset; ValueError, with a guess, for a name that is none."""
    if name not in ALL:
        raise ValueError(f"no preset {name!r}{nearest(name, ALL)}; `lab presets` lists them: {', '.join(SMALL)}, ...")
    return ALL[name]


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"no file {str(file)!r}; give a YAML file with the sections model, data and train")
    values = read_yaml(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds {type(values).__name__}; it needs the sections model, data and train")
    return with_present_names(values)


def _setting(text: str, sections: Iterable[str]) -> tuple[str, str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    section = RENAMED.get(section, section)
    if not (equals and dot and key and section in sections):
        raise ValueError(
            f"setting {text!r}; write SECTION.KEY=VALUE with section {', '.join(sections)}, as in train.steps=100"
        )
    try:
        parsed = parse_yaml(value)
    except ValueError as error:
        raise ValueError(
            f"setting {_short(text)}: {_short(value)} is not a value ({error}); write a number, a word, null, or [a, b]"
        ) from None
    return section, key, parsed


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
