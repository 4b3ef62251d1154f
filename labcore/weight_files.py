"""Weight files of pretrained networks: search on this machine, download from the hub, and reading without running their code.

Nothing here uses the network except `download`. On a cluster node a missing file is an error at once, which names the file,
its source, and its destination.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from labcore.files import weights_folder
from labcore.tensors import read_tensors
from labcore.torchfile import check_records


def find_file(
    file: str | Sequence[str], source: str, path: str | Path | None = None, extra_places: Sequence[str | Path] = ()
) -> Path:
    """Return the first that exists of: `path`, the file in `weights_folder`, the file in `extra_places`. No network.

    file: its name, or names that it may have. source: where to get it, in words, for the message. path, extra_places:
    files, or folders that hold one. Raises FileNotFoundError; if `path` is given, no other place is tried.
    """
    names = [file] if isinstance(file, str) else list(file)
    if path is not None:
        found = _among([Path(path).expanduser()], names)
        if found is None:
            raise FileNotFoundError(f"{path} is neither a file nor a folder with {' or '.join(names)}; it is {source}")
        return found
    found = _among([weights_folder(), *map(Path, extra_places)], names)
    if found is None:
        raise not_here(names, source, f"Put it into {weights_folder()}")
    return found


def not_here(names: Sequence[str], source: str, put: str) -> FileNotFoundError:
    """Return the error for weights that this machine does not have under any of their possible names."""
    others = f" (nor is {', '.join(names[1:])})" if names[1:] else ""
    return FileNotFoundError(
        f"{names[0]} is not on this machine{others}. It is {source}. {put} ($LABCORE_WEIGHTS names another folder), or pass "
        "its path"
    )


def in_hub_cache(repo: str | None, names: Sequence[str]) -> Path | None:
    """Return the first of these files of a repository that the Hugging Face cache holds, or None. No network."""
    if repo is None:
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = (try_to_load_from_cache(repo, name) for name in names)
    return next((Path(found) for found in cached if isinstance(found, str)), None)


def download(what: str, repo: str, names: Sequence[str], instead: str, revision: str | None = None) -> Path:
    """Fetch files of a repository from the Hugging Face hub, and return their folder in its cache.

    what: name of the files, for the message. instead: what to do without the hub, for the message. Raises FileNotFoundError if
    the hub does not provide all files.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(names)))
    except Exception as error:
        raise FileNotFoundError(f"the hub did not give {what} ({type(error).__name__}); {instead}") from error
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise FileNotFoundError(f"the hub did not give {what} ({repo} has no {' and no '.join(missing)}); {instead}")
    return folder


def read_weights(path: str | Path, wanted: str = "a file of weights") -> dict[str, Any]:
    """Read the tensors by name of a .safetensors file, or torch.load(weights_only=True) of any other file; on the CPU.

    wanted: the file that was meant, for the message. Raises FileNotFoundError, and ValueError if a file is damaged, contains
    objects that would have to be unpickled, or is not a dictionary.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give {wanted}")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    check_records(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch and pickle raise many kinds for a damaged file
        if "GLOBAL" in str(error) or "TorchScript" in str(error):  # torch's words for classes and functions
            raise ValueError(
                f"{path} holds more than tensors, and reading it would run code from it, which is refused. Save the state "
                "dict alone, best as safetensors, if you trust the file"
            ) from None
        raise ValueError(
            f"{path} is damaged or not a file of weights ({_reason(error)}); copy or download it again"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}; weights are a dictionary of tensors")
    return state


def _reason(error: Exception) -> str:
    """Return the first sentence of torch's own message; messages of pickle and of other libraries do not help a reader."""
    if isinstance(error, RuntimeError) and str(error):
        return str(error).split(". ")[0].splitlines()[0]
    return "torch.load cannot read it"


def _among(places: Sequence[Path], names: Sequence[str]) -> Path | None:
    for place in places:
        for candidate in (place, *(place / name for name in names)):
            if candidate.is_file():
                return candidate
    return None
