"""Flows and students (their learned inverses) as pipelines of diffusers: class labels in, pictures out, saved as one folder.

    TarFlowPipeline.from_flow("fashion-tarflow")(class_labels=[3, 7], guidance_scale=2.0).images

A pipeline's folder has the model in the lab's own format, in flow/ or inverse/, so `TarFlow.from_pretrained` can load that
folder too. For a flow of latents it also has the autoencoder. Guidance scales are those of diffusers, where 1 is off: the lab's
guidance is guidance_scale - 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from labcore import zoo
from labcore.biflow.model import BackwardModel
from labcore.finite import check_result, images_from
from labcore.flows.tarflow import TarFlow
from labcore.inverse.denoise import denoise
from labcore.inverse.solve import invert
from labcore.latents import codec_of
from labcore.latents.codec import CHUNK, DECODED, Autoencoder
from labcore.types import NULL

Generators = torch.Generator | list[torch.Generator] | None
Names = Mapping[Any, str] | Sequence[str] | None
"""Names of classes: {number: name}, where the number may be a string as in JSON, or a list in the order of the numbers."""
Labels = int | np.integer | str | Sequence[int] | Sequence[str] | np.ndarray | Tensor | None
"""Numbers or names of classes, one or several."""
OUTPUTS = ("pil", "np", "pt")


class _Held(ModelMixin):
    """Wrapper of a model of the lab as a component of diffusers; it is saved and loaded strictly, by the lab's functions.

    Weights stay float32. If another format is requested, the model computes in it by autocast (`computing`), and its states
    are float32, as in training.
    """

    model_class: type
    asked: torch.dtype = torch.float32

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    def to(self, *args: Any, **kwargs: Any) -> _Held:
        """Move the module as torch does; a number format is only stored, for `computing`."""
        values = [value.dtype if isinstance(value, Tensor) else value for value in args]
        formats = [value for value in (*values, *kwargs.values()) if isinstance(value, torch.dtype)]
        if formats:
            self.asked = formats[-1]
        others = [value for value in values if not isinstance(value, torch.dtype)]
        named_others = {name: value for name, value in kwargs.items() if not isinstance(value, torch.dtype)}
        return super().to(*others, **named_others)

    def half(self) -> _Held:
        return self.to(torch.float16)

    def bfloat16(self) -> _Held:
        return self.to(torch.bfloat16)

    def float(self) -> _Held:
        return self.to(torch.float32)

    @apply_forward_hook
    def computing(self) -> torch.autocast:
        """Return a context in which the model computes in the requested format; an offloaded model is moved back first."""
        half = self.asked in (torch.bfloat16, torch.float16)
        return torch.autocast(self.device.type, self.asked if half else None, enabled=half)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        self.model.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, torch_dtype: torch.dtype | None = None, device_map: Any = None, **_: Any
    ) -> _Held:
        component = cls(cls.model_class.from_pretrained(source))
        device = device_map.get("") if isinstance(device_map, Mapping) else device_map
        return component.to(*(value for value in (torch_dtype, device) if value is not None))


class HeldFlow(_Held):
    model_class = TarFlow


class HeldInverse(_Held):
    model_class = BackwardModel


class _ImagesOfClasses(DiffusionPipeline):
    """Base of both pipelines: labels, noise, the autoencoder and pictures."""

    _optional_components: ClassVar[list[str]] = ["vae"]
    part: str
    """Name of the component that holds the model."""

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline as diffusers does; a folder needs no network. Raises ValueError for device_map "balanced"."""
        _no_variant(kwargs.get("variant"))
        if kwargs.get("device_map") == "balanced":
            raise ValueError('device_map was "balanced"; each model needs a single device: give "cuda" or "cpu"')
        return super().from_pretrained(source, **kwargs)

    def save_pretrained(
        self, save_directory: str | Path, *args: Any, variant: str | None = None, **kwargs: Any
    ) -> None:
        """Save the pipeline as diffusers does. Raises ValueError for a variant, because the lab's models have none."""
        _no_variant(variant)
        super().save_pretrained(save_directory, *args, **kwargs)

    def register(self, model: _Held, vae: Any, id2label: Names) -> None:
        """Register the components and the names of classes.

        vae: None for the autoencoder that the model's configuration names, if any. id2label: None for the model's own names.
        Raises ValueError if the autoencoder does not fit the model, and as `labcore.latents.load`.
        """
        if vae is None and model.config.codec is not None:
            vae = codec_of(model.config).network
        if id2label is None and model.config.class_names is not None:
            id2label = dict(enumerate(model.config.class_names))
        self.register_modules(**{self.part: model}, vae=vae)
        self.register_to_config(id2label=None if id2label is None else _named(id2label, model.config.num_classes))
        if vae is not None and vae.config.latent_channels != model.config.channels:
            raise ValueError(
                f"the autoencoder has latents of {vae.config.latent_channels} channels, the model takes {model.config.channels}"
            )

    @property
    def model(self) -> Any:
        """The wrapped model of the lab."""
        return getattr(self, self.part).model

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Return the numbers of classes of these names. Raises ValueError with all names for an unknown one."""
        names = {name: int(number) for number, name in (self.config.id2label or {}).items()}
        wanted = [label] if isinstance(label, str) else list(label)
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"no class is named {', '.join(unknown)}; there are {', '.join(names) or 'no names'}")
        return [names[name] for name in wanted]

    def _labels(self, class_labels: Labels, num_images: int) -> tuple[Tensor | None, int]:
        """Return labels on the model's device, and the number of images."""
        classes = self.model.config.num_classes
        if isinstance(num_images, bool) or not isinstance(num_images, int) or num_images < 1:
            raise ValueError(f"num_images was {num_images!r}; give one whole number, 1 or more")
        if class_labels is None:
            return None, num_images
        labels, one = self._numbers(class_labels)
        if not one and num_images not in (1, len(labels)):
            raise ValueError(
                f"num_images was {num_images} for {len(labels)} class_labels, which get one image each; leave num_images out, "
                "or give one label"
            )
        if not labels or any(not NULL <= label < classes for label in labels):
            allowed = f"0 to {classes - 1}, and -1 for none" if classes else "none: this model knows no classes"
            raise ValueError(f"class_labels were {labels}; allowed are {allowed}")
        if one:
            labels = labels * num_images
        return torch.tensor(labels, device=self._execution_device), len(labels)

    def _numbers(self, class_labels: Any) -> tuple[list[int], bool]:
        """Return the class numbers of labels or names, and whether a single one was given. Raises ValueError."""
        plain = class_labels.tolist() if hasattr(class_labels, "tolist") else class_labels  # NumPy's and torch's
        one = not isinstance(plain, Iterable) or isinstance(plain, str)
        labels = [plain] if one else list(plain)
        if any(isinstance(label, bool) or not isinstance(label, int | str) for label in labels):
            raise ValueError(
                f"class_labels were {class_labels!r}; give whole numbers or names of classes, one or a list"
            )
        return [label if isinstance(label, int) else self.get_label_ids(label)[0] for label in labels], one

    def _noise(self, num: int, generator: Generators) -> Float[Tensor, "b t d"]:
        """Draw noise (num, t, d). With a list of generators, each image depends only on its own generator."""
        if isinstance(generator, list) and len(generator) != num:
            raise ValueError(f"{len(generator)} generators for {num} images; give one an image, or one for all")
        shape = (num, self.model.config.tokens, self.model.config.token_dim)
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=self.model.dtype)

    def _pictures(self, x: Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple[Any]:
        if self.vae is not None:
            x = self._codec().decode(x, CHUNK)
        check_result(x, type(self).__name__, advice=DECODED)
        x = (x.float() / 2 + 0.5).clamp(0, 1).cpu()
        if output_type != "pt":
            x = x.permute(0, 2, 3, 1).numpy()
            x = self.numpy_to_pil(x) if output_type == "pil" else x
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=x) if return_dict else (x,)

    def _codec(self) -> Autoencoder:
        """Return the lab's wrapper of the autoencoder, made again if the component was replaced."""
        codec = getattr(self, "_known", None)
        if codec is None or codec.network is not self.vae:
            codec = self._known = Autoencoder("vae", self.vae)
        return codec

    @staticmethod
    def _check(guidance_scale: float, output_type: str) -> None:
        if guidance_scale < 1:
            raise ValueError(f"guidance_scale was {guidance_scale}; 1 is off, and it cannot be below")
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type was {output_type!r}; allowed are {', '.join(OUTPUTS)}")


class TarFlowPipeline(_ImagesOfClasses):
    """Pipeline of a flow: noise, exact inverse, score denoising, and for a flow of latents the autoencoder."""

    part = "flow"
    model_cpu_offload_seq = "flow->vae"

    def __init__(self, flow: HeldFlow, vae: Any = None, id2label: Names = None):
        super().__init__()
        self.register(flow, vae, id2label)

    @classmethod
    def from_flow(cls, flow: TarFlow | str | Path, vae: Any = None, id2label: Names = None) -> TarFlowPipeline:
        """Make a pipeline of a flow.

        Args:
            flow: a flow, a name of `labcore.zoo`, a folder that `save_pretrained` wrote, or a name on the hub.
            vae: AutoencoderKL or AutoencoderTiny of diffusers, for a flow of latents; default the one that its configuration
                names.
            id2label: names of the classes; default the model's own names.

        Raises:
            ValueError: the autoencoder does not fit the flow.
            FileNotFoundError: there is no such flow or autoencoder.
        """
        return cls(HeldFlow(_loaded(flow, TarFlow)), vae, id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_images: int = 1,
        noise_std: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw pictures.

        Args:
            class_labels: number or name of a class, or a list, array or tensor of them, with one picture for each. None
                (default) is no class.
            guidance_scale: 1 (default) is off; larger values follow the class more.
            generator: one random generator for all pictures, or a list with one for each; default torch's global one.
            num_images: number of pictures of a single class, or without class; default 1.
            noise_std: standard deviation of the noise that denoising removes. None (default) is the flow's training noise; 0
                skips denoising.
            output_type: "pil" (default), "np" for (b, h, w, c) in [0, 1], or "pt" for (b, c, h, w) in [0, 1].
            return_dict: False returns a tuple; default True.

        Raises:
            ValueError: labels, scale, numbers or types are not allowed.
            NotFinite: pictures are not finite.
        """
        self._check(guidance_scale, output_type)
        y, num = self._labels(class_labels, num_images)
        with self.flow.computing(), images_from(0, lambda: f"guidance_scale was {guidance_scale}"):
            z = self._noise(num, generator) * self.model.prior_var.sqrt()
            noisy = invert(self.model, z, y, guidance=guidance_scale - 1).x
            x = denoise(self.model, noisy, y, noise_std)
        return self._pictures(x, output_type, return_dict)


class BiFlowPipeline(_ImagesOfClasses):
    """Pipeline of a student: noise, one pass, and for a student of latents the autoencoder."""

    part = "inverse"
    model_cpu_offload_seq = "inverse->vae"

    def __init__(self, inverse: HeldInverse, vae: Any = None, id2label: Names = None):
        super().__init__()
        self.register(inverse, vae, id2label)

    @classmethod
    def from_inverse(
        cls, inverse: BackwardModel | str | Path, vae: Any = None, id2label: Names = None
    ) -> BiFlowPipeline:
        """Make a pipeline of a student. inverse: a student, its name or its folder; else as `TarFlowPipeline.from_flow`."""
        return cls(HeldInverse(_loaded(inverse, BackwardModel)), vae, id2label)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        guidance_scale: float = 1.0,
        generator: Generators = None,
        num_images: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Draw pictures, as `TarFlowPipeline`. Guidance takes one evaluation if it is an input of the student, else two."""
        self._check(guidance_scale, output_type)
        y, num = self._labels(class_labels, num_images)
        with self.inverse.computing(), images_from(0, lambda: f"guidance_scale was {guidance_scale}"):
            x = self.model(self._noise(num, generator), y, guidance_scale - 1).x
        return self._pictures(x, output_type, return_dict)


def _named(id2label: Any, num_classes: int) -> dict[str, str]:
    """Return {number as a string: name of the class}, from a dictionary or a list of all names.

    Raises ValueError for anything else, and for two classes with one name.
    """
    is_list = isinstance(id2label, Sequence) and not isinstance(id2label, str)
    named = dict(enumerate(id2label)) if is_list else id2label
    numbers = {str(number) for number in range(num_classes)}
    if (
        not isinstance(named, Mapping)
        or not {str(number) for number in named} <= numbers
        or not all(isinstance(name, str) for name in named.values())
        or (is_list and len(named) != num_classes)
    ):
        raise ValueError(
            f"id2label was {id2label!r}; give names of classes 0 to {num_classes - 1} in a dictionary, or all of them in a list"
        )
    if len({str(number) for number in named}) < len(named):
        raise ValueError(f"id2label was {id2label!r}, which names a class twice; give each class one name")
    if len(set(named.values())) < len(named):
        raise ValueError(f"id2label gives two classes one name: {sorted(named.values())}; give each a name of its own")
    return {str(number): name for number, name in named.items()}


def _loaded(model: Any, kind: type) -> Any:
    """Return the model itself, or load it by name or folder. ValueError for a model of another kind."""
    if isinstance(model, str | Path):
        model = zoo.load(str(model)) if str(model) in zoo.NAMES else kind.from_pretrained(model)
    if not isinstance(model, kind):
        raise ValueError(f"the model is a {type(model).__name__}; this pipeline takes a {kind.__name__}")
    return model


def _no_variant(variant: str | None) -> None:
    if variant is not None:
        raise ValueError(
            f"variant was {variant!r}; the lab's models have none: leave it out (torch_dtype sets the format)"
        )
