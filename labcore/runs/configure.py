"""Configuration of a run from a user's options: a preset or a file, data, and single settings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from labcore.config import (
    RENAMED,
    BaseRunConfig,
    DataConfig,
    StudentRunConfig,
    TarFlowConfig,
    TokensConfig,
    with_present_names,
)
from labcore.data.datasets import NAMES, OF_FOLDERS, Data
from labcore.data.protocol import Dataset
from labcore.hints import nearest
from labcore.kinds import STUDENT, kind_of_sections
from labcore.latents import square_pixels
from labcore.latents.weights import layout
from labcore.presets import ALL, DEFAULT, PRESETS, SMALL, STUDENTS, about
from labcore.runs.config_paths import anchored, from_anywhere
from labcore.runs.models import find_model, run_section
from labcore.train.distillation import SAME
from labcore.yamlfile import parse_value, read_yaml

STUDENT_TRAIN: dict[str, Any] = dict(
    steps=2000, batch_size=128, lr=1e-3, warmup_steps=100, weight_decay=0.0, ema_decay=0.999
)
"""Default settings of a student's training; our choice, for sizes that two cores can train."""

LOOKED_AT = 32
"""Side in pixels at which `lab data` reads the pictures of a folder by default; our choice."""

AnyRun = TypeVar("AnyRun", bound=BaseRunConfig)


class DataOptions(NamedTuple):
    """The options of a command that choose images; None keeps the setting of the preset or file.

    data: a data set's name, or a folder of class folders. image_size: pixels along a side. channels: 1 grey, 3 RGB.
    """

    data: str | None = None
    image_size: int | None = None
    channels: int | None = None

    def section(self) -> dict[str, Any]:
        """Return the settings of the section `data` that the options set."""
        found = {} if self.data is None else data_section(self.data)
        sizes = dict(image_size=self.image_size, channels=self.channels)
        return found | {key: value for key, value in sizes.items() if value is not None}

    def settings(self, data: str = "--data") -> dict[tuple[str, str], str]:
        """Return {(section, key): name of the option} of these settings. data: how `data` is called in messages."""
        called = {"name": data, "path": data, "image_size": "--image-size", "channels": "--channels"}
        return {("data", key): called[key] for key, value in self.section().items() if value is not None}


UNCHANGED = DataOptions()
"""No options: the images of the preset or file."""


def configure(
    preset: str = DEFAULT,
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
    align: str | None = None,
) -> BaseRunConfig:
    """Make the validated configuration of a run without a teacher, such as a flow's, from a preset or a file.

    The model's image size, channels and classes are those of the data, unless they are set. Paths become absolute
    (`labcore.runs.config_paths`).

    Args:
        preset: name of a preset; default "fashion-small".
        file: a YAML file to use instead of a preset, with the sections of its kind of run: model, data, train and align for a
            flow.
        data: name of a data set, or a folder of pictures; default that of the preset or file.
        image_size: side of the pictures in pixels.
        channels: 1 (grey) or 3 (RGB).
        settings: single settings such as "train.steps=100"; they override preset and file.
        align: direction of an alignment, or "off". Without sites, those of `labcore.kinds.flow.default_sites` are used.

    Raises:
        ValueError: settings are unknown, contradict each other or do not fit, or the preset needs a teacher.
        FileNotFoundError: the file or the data do not exist.
    """
    values = _read(file) if file else preset_sections(preset)
    kind = kind_of_sections(values)
    if kind.has_teacher and file is None:
        raise ValueError(f"preset {preset!r} trains the student of a flow; name the flow, as in  {about(preset)[0]}")
    if kind.has_teacher:
        raise ValueError(f"{file} configures a student; give it to `lab train` or configure_student")
    if align is not None and "align" not in kind.sections:
        raise ValueError(f"--align was {align!r}; a {kind.name} cannot be aligned: leave it out")
    sections = _sections(values, kind.sections)
    images = DataOptions(data, image_size, channels)
    sections["data"] |= images.section()
    chosen = _settings(sections, settings, images.settings())
    if images != UNCHANGED:
        of_model = {key for section, key in chosen if section == "model"}
        pictures = Data.of(DataConfig(**sections["data"])).split("train")
        sections["model"] = following(sections["model"], pictures, of_model)
    if align is not None:
        sections["align"] = _aligned(sections["align"], align, chosen)
    return anchored(kind.validated(sections))


def following(model: Mapping[str, Any], images: Dataset, chosen: Collection[str]) -> dict[str, Any]:
    """Return the section of a model that follows the images in size, channels and classes, except for keys in `chosen`.

    Of a model of latents, size and channels are those of the latents. No weights are read. An unconditional model stays one.
    Raises ValueError for images that the autoencoder does not take, and as `labcore.latents.weights.layout`.
    """
    of_images = dict(image_size=images.image_size, channels=images.channels, num_classes=images.num_classes)
    codec = model.get("codec")
    if isinstance(codec, str):  # the configuration rejects all others
        factor, channels, _ = layout(codec)
        if images.image_size % factor:
            raise ValueError(f"image_size was {images.image_size}; {codec} takes multiples of {factor}")
        of_images |= dict(image_size=images.image_size // factor, channels=channels)
    if model.get("num_classes") == 0:
        del of_images["num_classes"]  # an unconditional model stays unconditional
    without_names = {key: value for key, value in model.items() if key != "class_names"}  # they belong to other data
    return without_names | {key: value for key, value in of_images.items() if key not in chosen}


def _aligned(section: dict[str, Any], align: str, chosen: set[tuple[str, str]]) -> dict[str, Any]:
    """Return the section `align` with the direction of --align, {} for "off"; ValueError if a setting contradicts it."""
    if align == "off":
        if any(name == "align" for name, _ in chosen):
            raise ValueError("--align off takes no align settings; leave one of them out")
        return {}
    if ("align", "direction") in chosen and section["direction"] != align:
        raise ValueError(
            f"--align was {align!r} and the setting align.direction {section['direction']!r}; give one of them"
        )
    return {**section, "direction": align}


def configure_student(
    flow: str,
    preset: str | None = None,
    file: Path | None = None,
    data: str | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    settings: Sequence[str] = (),
) -> StudentRunConfig:
    """Return the validated configuration of a student of `flow`, which is an argument for `find_model`.

    Image, tokens, blocks, layers, widths and classes follow the flow's model, and the data follow the flow's run if that is
    found, unless they are set. `STUDENT_TRAIN` has the defaults of the training. Raises as `configure`, and as `find_model`.

    preset: name of a student's preset; the flow's image and blocks replace the preset's. file: a YAML file to use instead, with
    the sections model, data, train and student; a key flow is ignored.
    """
    if file:
        values = _read(file)
    else:
        values = STUDENTS[preset] if preset else {}
    sections = _sections({name: section for name, section in values.items() if name != "flow"}, STUDENT.sections)
    if preset:  # it says how to teach a student of any flow
        sections["model"] = {key: value for key, value in sections["model"].items() if key not in SAME}
    flow = from_anywhere(flow)
    sections = filled_from_flow(flow, sections)
    sections["train"] = {**STUDENT_TRAIN, **sections["train"]}
    images = DataOptions(data, image_size, channels)
    sections["data"] |= images.section()
    if data is not None and image_size is None:
        sections["data"] |= square_pixels(find_model(flow).config)
    _settings(sections, settings, images.settings())
    return anchored(StudentRunConfig(flow=flow, **sections))


def filled_from_flow(flow: str, sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a student's sections; settings that `model` and `data` lack are taken from the flow."""
    config = find_model(flow).config
    model = {key: getattr(config, key) for key in TokensConfig.model_fields} | sections["model"]
    if model["num_classes"] != config.num_classes:
        model["class_names"] = None
    data = run_section(flow, "data") or square_pixels(config)
    return {**sections, "model": model, "data": {**data, **sections["data"]}}


def configure_run(
    preset: str | None = None,
    file: Path | None = None,
    images: DataOptions = UNCHANGED,
    settings: Sequence[str] = (),
    align: str | None = None,
    invert: str | None = None,
) -> BaseRunConfig:
    """Return the configuration of a student if `invert` is given or `file` has a key flow, else that of a flow.

    So the config.yaml in a run's folder gives the same run again, of either kind. preset: None is `DEFAULT` for a flow.
    Raises as `configure` and `configure_student`, and ValueError for options that a student does not have.
    """
    own = _read(file) if file else {}
    options = dict(file=file, **images._asdict(), settings=settings)
    if invert is None and not kind_of_sections(own).has_teacher:
        if file is not None and preset is not None:
            raise ValueError(f"--preset was {preset!r} and --config {file}; give one of them")
        return configure(DEFAULT if preset is None else preset, align=align, **options)
    of_student = file is None and preset is not None and kind_of_sections(ALL.get(preset, {})).has_teacher
    if align or (preset is not None and not of_student):
        raise ValueError(
            "--align and a flow's --preset do not apply to a student, and a student is trained (--invert, or flow in "
            f"--config); leave them out, or give a student's --preset: {', '.join(STUDENTS)}"
        )
    flow = own.get("flow") if invert is None else invert
    if not isinstance(flow, str):
        raise ValueError(f"{file}: flow was {flow!r}; give a zoo name, a run's folder or a saved model")
    return configure_student(flow, preset if of_student else None, **options)


def as_named(
    preset: str, settings: Sequence[str] = (), images: DataOptions = UNCHANGED
) -> tuple[BaseRunConfig, TarFlowConfig | None]:
    """Return the configuration of a preset, and for a student the model of the flow that it names; no file is read.

    The flow is a preset too. images: options that choose other data; the model's sizes do not follow these (`following`
    does that). Raises ValueError for an unknown preset, for unknown settings, and for settings that contradict an option.
    """
    values = preset_sections(preset)
    kind = kind_of_sections(values)
    sections = _sections({name: section for name, section in values.items() if name != "flow"}, kind.sections)
    flow = Path(values["flow"]).parts[1] if kind.has_teacher else None
    if flow is not None:
        sections["data"] = {**PRESETS[flow]["data"], **sections["data"]}
    sections["data"] |= images.section()
    _settings(sections, settings, images.settings())
    if flow is None:
        return anchored(kind.validated(sections)), None
    return StudentRunConfig(flow=flow, **sections), TarFlowConfig(**PRESETS[flow]["model"])


def _sections(values: dict[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return every section of a run by name; ValueError for an unknown section or a value that is none."""
    for name, section in values.items():
        if section is not None and not isinstance(section, dict):
            raise ValueError(f"section {name} is {section!r}; it needs settings like key: value")
    sections = {name: dict(values.get(name) or {}) for name in names}
    if unknown := values.keys() - sections.keys():
        raise ValueError(f"unknown sections {sorted(map(str, unknown))}; a run has {', '.join(names)}")
    return sections


def configure_data(options: DataOptions, settings: Sequence[str] = ()) -> DataConfig:
    """Return the configuration of images alone. A folder without a size gets `LOOKED_AT` pixels.

    options: as in `configure`, but `data` may also name a preset, for the data that it names. settings:
    "data.test_share=0.2" and the like. Raises ValueError for no data and for a preset that needs a folder, and as `configure`.
    """
    source = options.data
    if source is None:
        raise ValueError("no data were given; give a folder, a data set's name or a preset")
    if source in ALL and not Path(source).exists():
        options = options._replace(data=None)
        section = as_named(source, images=options)[0].data.model_dump()
        if section["name"] == "folder" and section["path"] is None:
            raise ValueError(f"preset {source!r} is for a folder that you give: lab data FOLDER --image-size N")
    else:
        section = options.section()
    put_settings({"data": section}, settings, options.settings(data="the first argument"))
    if section["name"] == "folder" and section.get("image_size") is None:
        section["image_size"] = LOOKED_AT
    return DataConfig(**section)


def data_section(data: str) -> dict[str, Any]:
    """Return the settings of a run's data for the name of a data set, or for a folder."""
    if data not in NAMES:
        return dict(name="folder", path=from_anywhere(data))
    return dict(name=data, path=None, **dict.fromkeys(OF_FOLDERS))


def _settings(
    sections: dict[str, dict[str, Any]], settings: Sequence[str], options: Mapping[tuple[str, str], str] | None = None
) -> set[tuple[str, str]]:
    """Put single settings of a run into their sections, as `put_settings`.

    If the steps are set and the warm-up is not, the warm-up is at most a quarter of the steps.
    """
    chosen = put_settings(sections, settings, options)
    train = sections["train"]
    if ("train", "steps") in chosen and ("train", "warmup_steps") not in chosen and isinstance(train["steps"], int):
        train["warmup_steps"] = min(train.get("warmup_steps", 0), train["steps"] // 4)  # a short trial needs no more
    return chosen


def put_settings(
    sections: dict[str, dict[str, Any]], settings: Sequence[str], options: Mapping[tuple[str, str], str] | None = None
) -> set[tuple[str, str]]:
    """Put single settings, such as "train.steps=100", into their sections; return the (section, key) of each.

    options: {(section, key): name} of settings that an option has set. Raises ValueError if a setting is given twice or
    contradicts an option.
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
    return chosen


def at_length(run: AnyRun, steps: int, batch_size: int, save_every: int, seed: int, precision: str = "fp32") -> AnyRun:
    """Return the run with this length and precision, to be compared with other runs; it keeps all of its checkpoints.

    Raises ValueError if save_every is not in 1..steps, and for precision "auto", which times the formats on a CPU and may
    choose different ones for the compared runs.
    """
    allowed = ("fp32", "bf16", "fp16")
    if precision not in allowed:
        raise ValueError(
            f"precision was {precision!r}; runs that are compared need the same one: give {', '.join(allowed)}"
        )
    if not 1 <= save_every <= steps:
        raise ValueError(f"save_every was {save_every} with steps {steps}; give 1 to {steps}")
    changes = dict(steps=steps, batch_size=batch_size, seed=seed, precision=precision)
    changes |= dict(save_every=save_every, eval_every=save_every, keep=steps // save_every + 1)
    changes["warmup_steps"] = min(run.train.warmup_steps, steps // 4)
    return run.replace(train=run.train.replace(**changes).model_dump())


def preset_sections(name: str) -> dict[str, Any]:
    """Return the sections of a preset; ValueError, with a suggestion, for an unknown name."""
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
            f"setting was {text!r}; write SECTION.KEY=VALUE with section {', '.join(sections)}, as in train.steps=100"
        )
    try:
        parsed = parse_value(value)
    except ValueError as error:
        raise ValueError(
            f"setting {_short(text)}: {_short(value)} is not a value ({error}); write a number, a word, null, or [a, b]"
        ) from None
    return section, key, parsed


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
