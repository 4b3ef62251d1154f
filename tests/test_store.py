"""Stores: what was computed is never lost, never computed twice, and does not depend on who computed it."""

import errno
import multiprocessing
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from labcore.files import cache_folder
from labcore.locks import locked
from labcore.store import DONE, Rows, Store

ARRAYS = {"a": Rows((3,), "float32"), "b": Rows((), "int64")}


def make(root: Path, **key) -> Store:
    return Store(root, "things", {"seed": 0, **key}, rows=25, arrays=ARRAYS, chunk=4)


def rows(part: range) -> dict[str, torch.Tensor]:
    index = torch.tensor(list(part))
    return {"a": index[:, None] * torch.tensor([1.0, 2.0, 3.0]), "b": index}


def check(store: Store) -> None:
    assert store.complete and store.done == 25
    torch.testing.assert_close(store["a"], rows(range(25))["a"])
    assert store["b"].tolist() == list(range(25))


def test_rows_come_back_and_are_not_computed_again(tmp_path):
    seen = []
    check(make(tmp_path).fill(rows, lambda *what: seen.append(what)))
    assert seen[0] == ("things", 0, 25) and seen[-1] == ("things", 25, 25)
    check(make(tmp_path).fill(lambda part: pytest.fail("computed again")))


def test_a_run_that_dies_goes_on_where_it_was(tmp_path):
    asked = []

    def dies(part):
        asked.append(part)
        if part.start >= 12:
            raise KeyboardInterrupt
        return rows(part)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path).fill(dies)
    again = make(tmp_path)
    assert again.done == 12
    check(again.fill(lambda part: asked.append(part) or rows(part)))
    assert [part.start for part in asked] == [0, 4, 8, 12, 12, 16, 20, 24]


def test_another_key_is_another_store(tmp_path):
    make(tmp_path).fill(rows)
    assert make(tmp_path, seed=1).done == 0
    assert make(tmp_path).complete


def test_a_folder_of_another_key_is_refused(tmp_path):
    store = make(tmp_path)
    (store.folder / "key.json").write_text('{"seed": 7}')
    with pytest.raises(ValueError, match="another key; remove the folder"):
        make(tmp_path)


def _work(root: Path, rank: int) -> None:
    check(make(root).fill(rows, rank=rank, world=3))


def test_several_processes_share_the_work(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(tmp_path, rank)) for rank in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    check(make(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1, "no leftovers of creators that came second"


def test_rows_of_the_wrong_shape_are_refused_and_not_marked(tmp_path):
    store = make(tmp_path)
    with pytest.raises(ValueError, match="have shape"):
        store.fill(lambda part: {"a": torch.zeros(len(part), 4), "b": torch.zeros(len(part))})
    assert store.done == 0


def test_a_full_disk_is_an_error_at_once(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_empty_stores_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 1 row"):
        Store(tmp_path, "nothing", {}, rows=0, arrays=ARRAYS, chunk=4)


def test_where_stores_live(monkeypatch, tmp_path):
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("LABCORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "labcore"


def test_files_are_plain_npy(tmp_path):
    store = make(tmp_path).fill(rows)
    assert np.load(store.folder / "b.npy").tolist() == list(range(25))


def test_a_truncated_file_is_computed_again(tmp_path):
    file = make(tmp_path).fill(rows).folder / "a.npy"
    whole = file.stat().st_size
    os.truncate(file, whole - 40)
    with pytest.warns(UserWarning, match=r"things-.*: a\.npy missing or damaged; its rows are computed again"):
        again = make(tmp_path)
    assert again.done == 0 and file.stat().st_size == whole
    check(again.fill(rows))
    check(make(tmp_path))
    assert sorted(p.name for p in again.folder.iterdir()) == ["a.npy", "b.npy", "done.npy", "key.json", "repair.lock"]


@pytest.mark.parametrize("repaired", [False, True])
def test_what_a_killed_repair_left_is_removed_by_the_next(repaired, tmp_path, monkeypatch):
    """Also where another process was first and nothing is left to repair."""
    folder = make(tmp_path).fill(rows).folder
    left = folder / ".a.npy.0123abcd.tmp"
    whole = (folder / "a.npy").read_bytes()
    left.write_bytes(whole)
    os.truncate(folder / "a.npy", 400)
    if repaired:
        repair = lambda path: (folder / "a.npy").write_bytes(whole) and locked(path)  # noqa: E731
        monkeypatch.setattr("labcore.store.locked", repair)
        check(make(tmp_path))
    else:
        with pytest.warns(UserWarning, match=r"a\.npy missing or damaged"):
            make(tmp_path)
    assert not left.exists()


def overwritten(file: Path) -> None:
    file.write_bytes(b"no array")


def of_another_shape(file: Path) -> None:
    np.save(file, np.zeros((24, 3), "float32"))


@pytest.mark.parametrize("name", ["a.npy", DONE])
@pytest.mark.parametrize("harm", [Path.unlink, overwritten, of_another_shape])
def test_a_damaged_or_missing_file_is_computed_again(name, harm, tmp_path):
    harm(make(tmp_path).fill(rows).folder / name)
    with pytest.warns(UserWarning, match=rf"{name} missing or damaged"):
        again = make(tmp_path)
    check(again.fill(rows))


def test_marks_of_a_process_that_writes_to_a_damaged_file_do_not_count(tmp_path):
    """It was filling the store when an array was removed: its rows go nowhere."""
    old = make(tmp_path)

    def removed_on_the_way(part):
        if part.start == 8:
            (old.folder / "a.npy").unlink()
            with pytest.warns(UserWarning, match=r"a\.npy"):
                make(tmp_path)
        return rows(part)

    old.fill(removed_on_the_way)
    again = make(tmp_path)
    assert again.done == 0
    check(again.fill(rows))


def _mark_again_and_again(file: Path) -> None:
    marks = np.load(file, mmap_mode="r+")
    while True:
        marks[:] = 1
        marks[:] = 0


def test_rows_are_counted_while_other_processes_mark_theirs(tmp_path):
    """The marks are shared memory: numpy looks at them twice, and refuses what changed in between."""
    store = Store(tmp_path, "many", {}, rows=50_000, arrays={"b": Rows((), "int64")}, chunk=1)
    other = multiprocessing.Process(target=_mark_again_and_again, args=(store.folder / DONE,), daemon=True)
    other.start()
    try:
        while store.done == 0:  # until the other one is at work
            assert other.is_alive()
        for _ in range(200):
            assert 0 <= store.done <= 50_000
    finally:
        other.kill()
        other.join()


def test_a_process_that_waits_for_long_says_for_what(tmp_path, monkeypatch):
    """As on a machine whose cache the others do not see; it goes on when the rows come."""
    monkeypatch.setattr("labcore.store.PATIENCE", 0.1)
    monkeypatch.setattr("labcore.store.POLL", 0.02)
    said, store = [], make(tmp_path)
    told = threading.Event()
    monkeypatch.setattr("labcore.store.warnings.warn", lambda text, **_: (said.append(text), told.set()))

    def other():
        told.wait(60)
        make(tmp_path).fill(rows, rank=1, world=2)

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    check(store.fill(rows, rank=0, world=2))
    thread.join(60)
    assert len(said) == 1 and re.match(r"waiting for the other processes' rows in .*things-.*, 13 of 25", said[0])


def test_rows_are_written_and_nothing_beside_them(tmp_path, monkeypatch):
    """Two that share the pages of a file, on a disk that keeps them apart: neither writes what it has not computed."""
    written = []

    def pwrite(file, data, offset, put=os.pwrite):
        written.append((os.readlink(f"/proc/self/fd/{file}").rsplit("/")[-1], offset, len(data)))
        return put(file, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    other = threading.Thread(target=make(tmp_path).fill, args=(rows, None, 1, 2), daemon=True)
    other.start()
    check(make(tmp_path).fill(rows, rank=0, world=2))
    other.join(60)
    header = 128
    assert sorted((offset, size) for name, offset, size in written if name == "a.npy") == [
        (header + 48 * i, 48 if i < 6 else 12) for i in range(7)
    ]


def test_a_damaged_key_names_the_file(tmp_path):
    path = make(tmp_path).fill(rows).folder / "key.json"
    for harmed in ("{", ""):
        path.write_text(harmed)
        with pytest.raises(ValueError, match=r"key\.json is damaged .*remove the folder"):
            make(tmp_path)


def test_reading_writes_nothing(tmp_path):
    folder = make(tmp_path).fill(rows).folder
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    store = make(tmp_path).fill(lambda part: pytest.fail("computed again"))
    store["a"].zero_()
    assert before == {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    check(store)


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_cache_that_cannot_be_made_names_the_variable(below, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "file" / below))
    with pytest.raises(OSError, match=r"file.* LABCORE_CACHE is '.*': set LABCORE_CACHE to a folder"):
        make(cache_folder())
    monkeypatch.delenv("LABCORE_CACHE")
    with pytest.raises(OSError, match="give a folder that can be written"):
        make(tmp_path / "file")
