"""The cache folder: versions in keys, checksums, what killed processes left behind, and what `lab cache` deletes."""

import gc
import json
import multiprocessing
import os
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import perturbed
from typer.testing import CliRunner

from labcore import cache, contents, derived, encoders, in_use
from labcore.cli.app import app
from labcore.data import ImageData
from labcore.encoders import cache as encoder_cache
from labcore.evaluate import generate as generating
from labcore.evaluate.generate import Sampling, generate
from labcore.files import cache_folder
from labcore.latents import store as latent_store
from labcore.latents.codec import Pixels
from labcore.locks import locked
from labcore.store import KEY, Rows, Store


def make(root: Path, rows: int = 10, **key) -> Store:
    return Store(root, "things", key, rows, {"a": Rows((3,), "float32"), "b": Rows((), "int64")}, chunk=4)


def values(part: range) -> dict[str, torch.Tensor]:
    index = torch.tensor(list(part))
    return {"a": index[:, None] * torch.tensor([1.0, 2.0, 3.0]), "b": index}


def flip_last_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def images(n: int = 3) -> ImageData:
    pixels = torch.arange(n * 64, dtype=torch.uint8).view(n, 1, 8, 8)
    return ImageData(pixels, torch.zeros(n, dtype=torch.int64), ("thing",), "some", "train")


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds,) * 2)


class TestVersions:
    def test_another_drawing_function_never_gives_old_images(self, tmp_path, monkeypatch):
        flow, two = perturbed(dtype=torch.float32), Sampling(num=2, chunk=2)
        before = generate(flow, two, tmp_path).images.clone()
        monkeypatch.setattr(generating, "to_uint8", lambda x: torch.full(x.shape, 7, dtype=torch.uint8))
        assert torch.equal(generate(flow, two, tmp_path).images, before), "equal versions, equal store"
        monkeypatch.setattr(generating, "SAMPLE_VERSION", 99)
        assert generate(flow, two, tmp_path).images.eq(7).all()

    @pytest.mark.parametrize(
        "module, name, make",
        [
            (latent_store, "LATENT_VERSION", lambda root: latent_store.cached_raw(Pixels(1), images(), 8, root=root)),
            (derived, "INPUT_VERSION", lambda root: latent_store.cached_raw(Pixels(1), images(), 8, root=root)),
        ],
    )
    def test_rows_of_another_version_are_computed_again(self, module, name, make, tmp_path, monkeypatch):
        make(tmp_path)
        make(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
        monkeypatch.setattr(module, name, 99)
        make(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2

    def test_features_have_the_version_of_the_encoders_code(self, monkeypatch):
        encoder = object.__new__(encoders.Encoder)
        encoder.spec, encoder.weights_hash, encoder.device = encoders.SPECS["dinov2-b"], "0", torch.device("cpu")
        monkeypatch.setattr(encoder_cache, "derive", lambda what, *_: torch.tensor(what.version))
        monkeypatch.setattr(encoder_cache, "ENCODER_VERSION", 99)
        assert encoder_cache.cached_pooled(encoder, images()) == 99
        assert encoder_cache.cached_tokens(encoder, images(), 4) == 99

    def test_pictures_of_another_reader_have_another_fingerprint(self, tmp_path, monkeypatch):
        from PIL import Image

        from labcore.data import ImageFolderData, folder

        for split in ("train", "test"):
            (tmp_path / split / "cat").mkdir(parents=True)
            Image.new("L", (8, 8), 9).save(tmp_path / split / "cat" / "0.png")
        data = ImageFolderData(tmp_path, "train", 8)
        before = data.fingerprint()
        monkeypatch.setattr(folder, "PICTURE_VERSION", 99)
        assert data.fingerprint() != before


class TestChecksums:
    @pytest.mark.parametrize("array", ["a", "b"])
    def test_rows_that_changed_are_computed_again_and_only_those(self, array, tmp_path):
        flip_last_bit(make(tmp_path).fill(values).folder / f"{array}.npy")
        with pytest.warns(UserWarning, match=r"things-.*: 1 of 3 chunks, in rows 8 to 9, have changed since .* again"):
            again = make(tmp_path)
        asked = []
        again.fill(lambda part: asked.append(part) or values(part))
        assert asked == [range(8, 10)]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert make(tmp_path)["b"].tolist() == list(range(10))

    def test_a_mark_that_changed_is_as_bad(self, tmp_path):
        store = make(tmp_path).fill(values)
        marks = np.load(store.folder / "done.npy")
        marks[1] ^= 1
        np.save(store.folder / "done.npy", marks)
        with pytest.warns(UserWarning, match="1 of 3 chunks, in rows 4 to 7"):
            assert make(tmp_path).done == 6

    def test_several_pieces_of_a_chunk_have_one_checksum(self, tmp_path, monkeypatch):
        monkeypatch.setattr("labcore.arrayfile.PIECE", 5)
        make(tmp_path).fill(values)
        assert make(tmp_path).complete

    def test_hashes_of_files_in_damaged_lines_are_not_used(self, tmp_path, monkeypatch):
        monkeypatch.setattr(contents, "FRESH", -1)
        monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "cache"))
        (tmp_path / "0.bmp").write_bytes(b"picture")
        digest = contents.digests(tmp_path, ["0.bmp"])[0]
        (kept,) = (cache_folder() / "contents").iterdir()
        wrong = ("f" if digest[0] != "f" else "0") + digest[1:]
        kept.write_text(kept.read_text().replace(digest, wrong))
        assert contents.digests(tmp_path, ["0.bmp"]) == [digest]


def _make_and_die(root: Path) -> None:
    """As a process that is killed while it makes room for a store."""

    def killed(*_):
        os._exit(9)

    os.posix_fallocate = killed
    make(root)


def _hold_a_map(root: Path, ready, end) -> None:
    array = make(root).fill(values)["a"]
    ready.set()
    end.wait(60)
    assert len(array) == 10


class TestLeftovers:
    def test_what_a_killed_maker_left_is_deleted_by_the_next(self, tmp_path):
        child = multiprocessing.get_context("fork").Process(target=_make_and_die, args=(tmp_path,))
        child.start()
        child.join(60)
        (left,) = tmp_path.iterdir()
        assert child.exitcode == 9 and left.name.startswith(".things-")
        store = make(tmp_path)
        assert list(tmp_path.iterdir()) == [store.folder]

    def test_what_a_live_maker_is_making_stays(self, tmp_path):
        new = Path(tempfile.mkdtemp(prefix=f".things-{'0' * 16}-", dir=tmp_path))
        (new / KEY).write_text("{}")
        with in_use.open_shared(new / KEY):
            age(new, 1e6)
            assert in_use.left_behind(tmp_path) == []
            make(tmp_path)
            assert new.is_dir()
        assert in_use.clean(tmp_path) == [new]

    def test_a_maker_that_has_no_lock_yet_has_a_minute(self, tmp_path):
        new = Path(tempfile.mkdtemp(prefix=f".things-{'0' * 16}-", dir=tmp_path))
        assert in_use.clean(tmp_path) == []
        age(new, 61)
        assert in_use.clean(tmp_path) == [new]

    def test_files_of_killed_writers_go_after_an_hour_and_others_never(self, tmp_path):
        names = [".some.json.123.tmp", "other.txt", ".hidden", "notes.tmp"]
        for name in names:
            (tmp_path / name).write_text("")
            age(tmp_path / name, 3590)
        assert in_use.clean(tmp_path) == []
        for name in names:
            age(tmp_path / name, 3610)
        assert in_use.clean(tmp_path) == [tmp_path / names[0]]

    def test_the_rest_of_a_store_without_its_key_is_made_anew(self, tmp_path):
        folder = make(tmp_path).fill(values).folder
        gc.collect()
        (folder / KEY).unlink()
        with pytest.warns(UserWarning, match=r"had no key\.json and was removed; its rows are computed again"):
            assert make(tmp_path).done == 0


class TestUse:
    def test_a_store_is_in_use_while_it_or_its_rows_live(self, tmp_path):
        store = make(tmp_path).fill(values)
        folder, array = store.folder, store["a"]
        assert not in_use.remove(folder)
        del store
        gc.collect()
        assert not in_use.remove(folder) and array[9, 0] == 9
        del array
        gc.collect()
        assert in_use.remove(folder) and list(tmp_path.iterdir()) == []

    def test_another_process_keeps_it(self, tmp_path):
        context = multiprocessing.get_context("fork")
        ready, end = context.Event(), context.Event()
        child = context.Process(target=_hold_a_map, args=(tmp_path, ready, end))
        child.start()
        assert ready.wait(60)
        (folder,) = tmp_path.iterdir()
        assert not in_use.remove(folder)
        end.set()
        child.join(60)
        assert child.exitcode == 0 and in_use.remove(folder)

    def test_a_folder_whose_lock_beside_is_held_has_no_lock_taken_inside(self, tmp_path, monkeypatch):
        """A training takes the lock inside without waiting, so a look at that moment would stop it."""
        folder, beside, opened = tmp_path / "run", tmp_path / "run.lock", []
        folder.mkdir()
        (folder / ".lock").touch()
        noting = lambda path, mode: opened.append(path) or open(path, mode)  # noqa: E731, SIM115
        monkeypatch.setattr(in_use, "open", noting, raising=False)
        with locked(beside):
            assert in_use.is_used(folder) and not in_use.remove(folder)
        assert opened == [beside, beside]
        assert in_use.remove(folder) and not folder.exists()

    def test_a_file_is_removed_at_once(self, tmp_path, monkeypatch):
        """Never under another name, which would stay there after a kill."""
        file = tmp_path / "some.safetensors"
        file.touch()
        monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("the file was renamed"))
        assert in_use.remove(file) and list(tmp_path.iterdir()) == []

    def test_opening_is_use_and_reading_the_list_is_not(self, tmp_path, monkeypatch):
        monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
        folder = make(tmp_path / "samples").fill(values).folder
        for path in [*folder.iterdir(), folder]:
            age(path, 5 * cache.DAY)
        for _ in range(2):
            (entry,) = cache.entries()
            assert time.time() - entry.used > 4 * cache.DAY
        make(tmp_path / "samples")
        (entry,) = cache.entries()
        assert time.time() - entry.used < 60

    def test_a_flow_that_was_asked_for_is_in_use_until_the_process_ends(self, tmp_path, monkeypatch):
        from labcore.runs import teachers

        def train(_, folder, *__):
            (folder / "model").mkdir(parents=True)
            (folder / "model" / "config.json").write_text("{}")

        monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
        monkeypatch.setattr(teachers, "datasets", lambda _: [images()])
        monkeypatch.setattr(teachers, "train_streamed", train)
        folder = teachers.train_if_missing(teachers.teacher_config("fashion-small", 0))
        (entry,) = cache.entries()
        assert entry.path == folder and entry.live and not in_use.remove(folder)
        in_use._FOREVER.pop(folder / "model" / "config.json").close()
        assert cache.prune(cache.choose(cache.entries())).deleted and not folder.exists()


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """Three stores of images, used 1, 10 and 40 days ago, statistics of 20 days, and weights of the user."""
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path))
    for days in (1, 10, 40):
        folder = make(tmp_path / "samples", rows=12, days=days).fill(values).folder
        for path in [*folder.iterdir(), folder]:
            age(path, days * cache.DAY)
    for name in ("statistics", "weights"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some.safetensors").write_bytes(bytes(1000))
        age(tmp_path / name / "some.safetensors", 20 * cache.DAY)
    gc.collect()
    return tmp_path


def lab(*words: str, code: int = 0, **options) -> str:
    done = CliRunner().invoke(app, ["cache", *words], **options)
    assert done.exit_code == code, done.output
    return done.output


def days_left(root: Path) -> list[int]:
    return sorted(json.loads(path.read_text())["days"] for path in root.glob(f"samples/things-*/{KEY}"))


class TestCommand:
    def test_list_says_entries_size_and_last_use(self, filled):
        lines = lab("list").splitlines()
        (samples,) = (line.split() for line in lines if line.startswith("samples"))
        assert samples[1] == "3" and samples[4] == time.strftime("%Y-%m-%d", time.localtime(time.time() - cache.DAY))
        assert not any(line.startswith(("weights", "latents")) for line in lines)
        Path(tempfile.mkdtemp(prefix=f".things-{'0' * 16}-", dir=filled / "samples"))
        age(next(filled.glob("samples/.things-*")), 100)
        assert "killed processes left 1 half-written" in lab("list")
        assert "deleted 1 half-written" in lab("prune") and days_left(filled) == [1, 10, 40]

    def test_prune_by_age_kind_and_size(self, filled):
        assert "freed" in lab("prune", "--older-than", "30", "--yes") and days_left(filled) == [1, 10]
        one = next(entry.size for entry in cache.entries(["samples"]))
        assert "no entries to delete" in lab("prune", "--kind", "samples", "--max-size", "1GB")
        lab("prune", "--kind", "samples", "--max-size", f"{one / 1e3}kB", "--yes")
        assert days_left(filled) == [1] and (filled / "statistics" / "some.safetensors").exists()
        assert "statistics: 1 entries, 1.0 kB" in lab("prune", "--kind", "statistics", "--yes")
        assert not (filled / "statistics" / "some.safetensors").exists()
        lab("prune", "--older-than", "0", "--yes")
        assert days_left(filled) == [] and (filled / "weights" / "some.safetensors").exists(), "weights are the user's"

    def test_it_asks_first(self, filled):
        assert "delete these 3 entries" in lab("prune", "--kind", "samples", input="n\n", code=1)
        assert days_left(filled) == [1, 10, 40]
        lab("prune", "--kind", "samples", input="y\n")
        assert days_left(filled) == []

    def test_what_is_in_use_stays(self, filled):
        held = make(filled / "samples", rows=12, days=40)
        assert "1 entries are in use by running processes and stay" in lab("prune", "--kind", "samples", "--yes")
        assert days_left(filled) == [40] and held.complete

    @pytest.mark.parametrize(
        "words, what",
        [
            (["--kind", "sample"], "--kind was 'sample'; allowed are samples, "),
            (["--max-size", "many"], "--max-size was 'many'; give a number"),
        ],
    )
    def test_wrong_values_are_refused(self, words, what, filled):
        assert what in lab("prune", *words, "--yes", code=2) and days_left(filled) == [1, 10, 40]

    def test_every_folder_of_the_cache_has_a_kind(self):
        """Or is the user's own."""
        import re

        source = "\n".join(p.read_text() for p in Path(cache.__file__).parent.rglob("*.py"))
        assert set(re.findall(r'cache_folder\(\) / "(\w+)"', source)) == {*cache.KINDS, "weights"}
