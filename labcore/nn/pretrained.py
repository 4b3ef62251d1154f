"""Saving and loading of models: a folder with model.safetensors and config.json, on this machine or on the Hugging Face hub.

Files and names are those of huggingface_hub's PyTorchModelHubMixin, but loading is strict: a missing or extra weight, an
unknown configuration key or a wrong shape is an error. The mixin ignores these errors, and importing it takes 0.6 s.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch

from labcore.config import SCHEMA, Config
from labcore.files import replacing, sync
from labcore.jsonfile import parse_json
from labcore.memory import keep_freed_memory
from labcore.tensors import (
    check_architecture,
    load_strictly,
    read_metadata,
    read_shapes,
    read_tensors,
    stored_tensors,
    write_tensors,
)
from labcore.weight_files import download

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SAVED_WITH = "config"
"""Key in the header of the weights' file; its value is the JSON of the configuration at the time of saving."""
MAY_BE_EDITED = frozenset({"class_names", "codec"})
"""Settings that may be edited in config.json: the names of the classes, and the place of the autoencoder."""
Model = TypeVar("Model", bound="Pretrained")


class Pretrained:
    """Mixin that adds `save_pretrained`, `from_pretrained` and `push_to_hub` to an nn.Module with a `config`."""

    config_class: ClassVar[type[Config]]
    config: Config

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> Path:
        """Write weights and configuration to a folder, and return it.

        Existing files stay until the new ones are complete. The weights' file includes a checksum of its values and a copy of
        the configuration; loading compares both.

        Args:
            folder: the folder, created if missing.
            dtype: number format of the stored floating-point weights; default None, their own.

        Raises:
            OSError: the files cannot be written.
            ValueError: `dtype` cannot represent the weights.
        """
        from safetensors import SafetensorError

        folder, tensors = Path(folder), stored_tensors(self, dtype)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / CONFIG) as config, replacing(folder / WEIGHTS) as weights:
                write_tensors(tensors, weights, {SAVED_WITH: json.dumps(_not_editable(self.config))})
                config.write_text(json.dumps(describe(self), indent=2) + "\n")
                sync(config)  # both files are complete before the first one, the weights, is replaced
        except (OSError, SafetensorError) as error:
            raise OSError(
                f"could not save the model to {folder} ({error}); free space or give another folder"
            ) from error
        return folder

    @classmethod
    @torch.inference_mode(False)  # weights that are made in inference mode can never be trained
    def from_pretrained(cls: type[Model], source: str | Path, revision: str | None = None) -> Model:
        """Load a model from a folder or from the hub: in eval mode, on the CPU, with float32 weights.

        From then on, the process keeps freed memory (`labcore.memory`). In config.json only class_names and codec may be
        edited.

        Args:
            source: a folder that `save_pretrained` wrote, or a hub repository "owner/name".
            revision: branch, tag or commit of the hub repository; default None, the main branch.

        Raises:
            FileNotFoundError: there is no model at `source`.
            ValueError: the files are damaged, edited, of another model class, or of a newer version of labcore.
        """
        folder = Path(source) if Path(source).is_dir() else _download(str(source), revision)
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} has no {' and no '.join(missing)}; give a folder that save_pretrained wrote"
            )
        config = read_config(cls, folder / CONFIG)
        weights = folder / WEIGHTS
        check_architecture(lambda: cls(config), config.least_weights, read_shapes(weights), weights)
        _check_saved_with(cls, config, folder)
        model = cls(config)
        load_strictly(model, read_tensors(weights), weights)
        keep_freed_memory()
        return model.eval()

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | None = None, card: str | None = None
    ) -> str:
        """Upload the model to a hub repository, and return its address.

        Args:
            repo_id: "owner/name"; created if missing.
            private: whether a new repository is private; default False.
            token: access token of the hub; default None, the stored one.
            card: text of README.md. Default None: `card_of` the model, if the repository has no README.md yet.

        Raises:
            ValueError: the model is one of latents whose autoencoder is a folder of this machine.
        """
        import tempfile

        codec = getattr(self.config, "codec", None)
        if codec is not None and Path(codec).is_absolute():
            raise ValueError(
                f"codec is {codec!r}, a folder of this machine that others do not have; publish a model of one of the "
                "autoencoders that labcore.latents knows by name"
            )
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo = api.create_repo(repo_id, private=private, exist_ok=True)
        if card is None and not api.file_exists(repo.repo_id, CARD):
            card = card_of(self, repo.repo_id)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            if card is not None:
                (Path(folder) / CARD).write_text(card)
            api.upload_folder(repo_id=repo.repo_id, folder_path=folder)
        return str(repo)


def card_of(model: Pretrained, repo_id: str) -> str:
    """Write a model card with class, size, settings and loading of a model. You add its training data and its quality."""
    from huggingface_hub import ModelCardData

    kind, values = type(model).__name__, model.config.model_dump(mode="json")
    about = ModelCardData(library_name="labcore", tags=["normalizing-flow", kind.lower()]).to_yaml()
    parameters = sum(p.numel() for p in model.parameters())
    rows = "\n".join(f"| `{name}` | {json.dumps(value)} |" for name, value in values.items() if value is not None)
    return f"""---
{about}
---

# {repo_id.split("/")[-1]}

A {kind} of {parameters:,} parameters, made with labcore.

```python
from labcore import {kind}

model = {kind}.from_pretrained("{repo_id}")
```

| setting | |
|---|---|
{rows}
"""


def describe(model: Pretrained) -> dict[str, Any]:
    """Return the contents of config.json: the class, the schema version, and the configuration's values."""
    return {"model": type(model).__name__, "schema": SCHEMA, **model.config.model_dump(mode="json")}


def saved_class(folder: Path) -> str | None:
    """Return the name of the class in a folder's config.json, or None."""
    try:
        return parse_json((folder / CONFIG).read_text()).get("model")
    except (OSError, ValueError, AttributeError):
        return None


def read_config(cls: type[Pretrained], path: Path) -> Config:
    """Read and validate the configuration in a config.json of the class `cls`. Raises ValueError."""
    try:
        values = parse_json(path.read_text())
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ValueError(f"{path} is damaged: {error}; copy or save the model again") from None
    saved_by, schema = values.pop("model", cls.__name__), values.pop("schema", SCHEMA)
    if saved_by != cls.__name__:
        raise ValueError(
            f"{path.parent} holds a {saved_by}, not a {cls.__name__}; load it with {saved_by}.from_pretrained"
        )
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ValueError(f"{path} has schema {schema}; this labcore reads up to {SCHEMA}. Update labcore")
    try:
        return cls.config_class(**values)
    except ValueError as error:
        raise ValueError(f"{path} does not describe a {cls.__name__}: {error}") from None


def _not_editable(config: Config) -> dict[str, Any]:
    """Return the settings that must be equal in config.json and in the weights' file, as JSON values."""
    return config.model_dump(mode="json", exclude=set(MAY_BE_EDITED))


def _check_saved_with(cls: type[Pretrained], config: Config, folder: Path) -> None:
    """Raise ValueError if config.json differs from the configuration in the header of the weights' file.

    Files of earlier versions have no configuration in their header. Both are read by the same class, so a setting that is newer
    than the files has its default value in both.
    """
    text = read_metadata(folder / WEIGHTS).get(SAVED_WITH)
    if text is None:
        return
    try:
        saved = _not_editable(cls.config_class(**parse_json(text)))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder / WEIGHTS} is damaged: the configuration in its header cannot be read ({error}); copy the model again"
        ) from None
    now = _not_editable(config)
    if changed := [f"{name} was {saved[name]!r}, now {now[name]!r}" for name in now if now[name] != saved[name]]:
        raise ValueError(
            f"{folder / CONFIG} has changed since the weights were saved with it ({'; '.join(changed)}); only "
            f"{' and '.join(sorted(MAY_BE_EDITED))} may be edited. Put the old values back or copy the model again. For a "
            f"model with other values, make {cls.__name__}(config.replace(...)), load these weights into it and save it"
        )


def _download(name: str, revision: str | None) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise FileNotFoundError(
            f"no folder {name!r}; give a folder that save_pretrained wrote, or a hub name 'owner/name'"
        )
    instead = f"download {CONFIG} and {WEIGHTS} by hand into a folder and pass that folder"
    return download(f"{name!r}, which is no folder here", name, [CONFIG, WEIGHTS], instead, revision)
