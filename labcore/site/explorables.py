"""The explorables: pages in docs/explore that compute in the browser, with onnxruntime-web and exported models.

Text, scripts and still pictures are committed. `add` puts the files that the scripts load next to them:

    runtime/                onnxruntime-web, from npm
    models/student.onnx     one pass of the student
    models/forward.onnx     the forward pass of its flow, and block-1.onnx ... the parameters of each block
    models/about.json       sizes, names of classes, training noise
    models/pictures.bin     one test picture per class, uint8 in raster order
    models/spiral.onnx      the density of the flow of two pixels, with guidance; models/spiral.json, the exact density

Where npm, or a package of the extra `onnx`, is missing, the pages are built without, and say so when they are opened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from labcore import data, zoo
from labcore.files import making_folder, sha256, sha256_of, write_atomic
from labcore.site import npm, spiral

PLACE = Path("docs") / "explore"
VERSION = 2
"""Version of the models' files; raise it when `write_models` writes other files for the same models."""
STUDENT, FLOW = "fashion-biflow", "fashion-itarflow"
NPM = "onnxruntime-web@1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package, in base64."""
RUNTIME = ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm")


def add(mirror: Path, kept: Path, checkout: Path, report: Callable[[str], object] = print) -> None:
    """Add the explorables to the mirror of the pages; nothing if the checkout has none.

    mirror: folder that MkDocs reads, which has the pages already. kept: folder where runtime and models stay for the next
    build. report: called with one sentence for each part that cannot be made.
    """
    if not (checkout / PLACE).is_dir():
        return
    shutil.copytree(
        checkout / PLACE, mirror / PLACE, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md", spiral.FOLDER.name)
    )
    models = [*(zoo.path(name) for name in (STUDENT, FLOW)), spiral.FOLDER]
    weights = [sha256(model / "model.safetensors") for model in models]
    parts = {
        "runtime": (NPM.replace("@", "-"), fetch_runtime),
        "models": (f"models-{sha256_of([VERSION, weights])[:16]}", write_models),
    }
    for name, (key, make) in parts.items():
        try:
            if not (kept / key).is_dir():
                with making_folder(kept / key) as new:
                    make(new)
            shutil.copytree(kept / key, mirror / PLACE / name)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            report(f"the pages in {PLACE} are built without {name}: {error}")


def fetch_runtime(folder: Path) -> None:
    """Put the runtime's files into `folder`; raises as `npm.fetch`."""
    npm.fetch(NPM, INTEGRITY, RUNTIME, folder)


def write_models(folder: Path) -> None:
    """Export the models to `folder`, with facts and pictures. Raises ValueError without the packages of the extra `onnx`."""
    from labcore.hub import onnx

    student, flow = zoo.load(STUDENT), zoo.load(FLOW)
    onnx.export_student(student, folder / "student.onnx")
    onnx.export_forward(flow, folder / "forward.onnx")
    for number in range(1, flow.config.num_blocks + 1):
        onnx.export_block(flow, number, folder / f"block-{number}.onnx")
    test, c = data.load("fashion-mnist-12k", "test"), flow.config
    first = [int((test.labels == label).nonzero()[0]) for label in range(c.num_classes)]
    (folder / "pictures.bin").write_bytes(test.images[first].numpy().tobytes())
    about = {
        "classes": c.class_names,
        "size": c.image_size,
        "patch": c.patch_size,
        "tokens": c.tokens,
        "token_dim": c.token_dim,
        "blocks": c.num_blocks,
        "noise_std": c.noise_std,
    }
    write_atomic(folder / "about.json", json.dumps(about))
    spiral.write_models(folder)
