"""Files and folders that are whole or absent, whatever happens while they are written, and who may write where."""

import contextlib
import os
import resource
import signal
import subprocess
import sys

import pytest

from labcore import files
from labcore.files import check_file, check_writable, making_folder, replacing, write_atomic
from labcore.jsonfile import read_json, write_json


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_child(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def with_umask(mask, call):
    before = os.umask(mask)
    try:
        return call()
    finally:
        os.umask(before)


@pytest.fixture
def old(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")
    return path


@contextlib.contextmanager
def full_disk(room: int = 10):
    """Files of this process take so many bytes within. No fixture: pytest may write its own output to a file between tests."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("contents", "found"), [("größer\r\n", "größer\r\n".encode()), (b"\0\xff", b"\0\xff")])
def test_text_and_bytes(old, contents, found):
    write_atomic(old, contents)
    assert old.read_bytes() == found and names(old.parent) == ["record.json"]


def test_a_full_disk_leaves_the_old_file(old):
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_atomic(old, "x" * 11)
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_json(old, {"name": "long enough"})
    assert old.read_text() == "old" and names(old.parent) == ["record.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
def test_a_failure_at_any_step_leaves_the_old_file(old, broken, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    old.chmod(0o604)  # so that permissions are set, whatever the umask
    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(old, "new")
    assert old.read_text() == "old" and names(old.parent) == ["record.json"]


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_a_writer_that_fails_leaves_the_old_file(old, problem):
    with pytest.raises(problem), replacing(old) as new:
        new.write_text("half")
        raise problem
    assert old.read_text() == "old" and names(old.parent) == ["record.json"]


def test_a_kill_between_writing_and_replacing_leaves_the_old_file(old):
    code = (
        "import os, signal; from pathlib import Path; from labcore import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"files.write_atomic(Path({str(old)!r}), 'new')"
    )
    assert in_child(code).returncode == -signal.SIGKILL
    assert old.read_text() == "old"
    (left,) = set(names(old.parent)) - {"record.json"}
    assert left.startswith(".record.json.") and left.endswith(".tmp")
    write_atomic(old, "new")
    assert old.read_text() == "new"


def test_contents_are_on_the_disk_before_the_name_is(old, monkeypatch):
    calls, real = [], {name: getattr(os, name) for name in ("fsync", "replace")}
    kind = lambda descriptor: "folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda d: calls.append(kind(d)) or real["fsync"](d))
    monkeypatch.setattr(os, "replace", lambda *a: calls.append("replace") or real["replace"](*a))
    write_atomic(old, "new")
    assert calls == ["file", "replace", "folder"]


def test_a_disk_that_cannot_sync_folders_is_no_error(old, monkeypatch):
    real = os.fsync

    def sync(descriptor):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    write_atomic(old, "new")
    assert old.read_text() == "new"


def test_permissions(old, tmp_path):
    """Those of the file that is replaced, else the umask's, whatever the writer gave."""
    old.chmod(0o640)
    write_atomic(old, "new")
    assert old.stat().st_mode & 0o777 == 0o640

    def private():
        with replacing(tmp_path / "new") as new:
            new.unlink()
            os.close(os.open(new, os.O_CREAT, 0o600))  # as safetensors does

    with_umask(0o027, private)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640
    with_umask(0o002, lambda: write_atomic(tmp_path / "group", "x"))
    assert (tmp_path / "group").stat().st_mode & 0o777 == 0o664


def test_a_link_is_replaced_and_its_target_left_alone(old, tmp_path):
    (tmp_path / "target").write_text("somebody's")
    old.unlink()
    old.symlink_to(tmp_path / "target")
    write_atomic(old, "new")
    assert not old.is_symlink() and old.read_text() == "new"
    assert (tmp_path / "target").read_text() == "somebody's"


def test_folders_and_devices_are_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (check_file, lambda path: write_atomic(path, "x")):
        with pytest.raises(IsADirectoryError, match=r"is a folder; give the name of a file, as .*record.json"):
            write(tmp_path)
        with pytest.raises(OSError, match="is a device or a pipe; give the name of a file"):
            write(tmp_path / "pipe")
    assert names(tmp_path) == ["pipe"]


def test_writers_of_one_file_do_not_meet(old):
    """Two at once, as two threads or two containers with equal process numbers: the last one's file is there, whole."""
    with replacing(old) as first, replacing(old) as second:
        first.write_text("first")
        second.write_text("second")
    assert old.read_text() == "first" and names(old.parent) == ["record.json"]


def test_a_json_file_that_cannot_be_made_stays(old):
    write_json(old, {"a": 1})
    with pytest.raises(ValueError, match="was not written: a number is NaN or infinity"):
        write_json(old, {"a": float("nan")})
    assert read_json(old) == {"a": 1} and names(old.parent) == ["record.json"]


# folders


def test_a_folder_appears_whole(tmp_path):
    with making_folder(tmp_path / "made") as new:
        (new / "deep").mkdir()
        (new / "deep" / "file").write_text("x")
        assert not (tmp_path / "made").exists()
    assert names(tmp_path) == ["made"] and (tmp_path / "made" / "deep" / "file").read_text() == "x"


def test_a_folder_that_fails_is_not_there(tmp_path):
    with full_disk(), pytest.raises(OSError, match="File too large"), making_folder(tmp_path / "made") as new:
        (new / "file").write_text("x" * 11)
    assert names(tmp_path) == []


def test_a_folder_that_is_there_is_not_replaced(tmp_path):
    (tmp_path / "made").mkdir()
    with making_folder(tmp_path / "made") as new:  # an empty one holds nothing that could be lost
        (new / "file").write_text("first")
    with pytest.raises(OSError, match="not empty"), making_folder(tmp_path / "made") as new:
        (new / "file").write_text("second")
    assert names(tmp_path) == ["made"] and (tmp_path / "made" / "file").read_text() == "first"


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / "made.tmp").mkdir()
    (tmp_path / "made.tmp" / "half").write_text("x")
    with making_folder(tmp_path / "made", tmp_path / "made.tmp") as new:
        assert new == tmp_path / "made.tmp" and names(new) == []
    assert names(tmp_path) == ["made"]


# places that can be written


def test_a_place_that_can_be_written(tmp_path):
    check_file(tmp_path / "a" / "b" / "record.json")
    assert names(tmp_path / "a" / "b") == []


def read_only(folder):
    """A folder that not even root may write to, or None: /proc takes no files."""
    if os.geteuid():
        folder.mkdir(mode=0o555)
        return folder
    return files.Path("/proc/self")


@pytest.mark.parametrize("check", [check_writable, lambda folder: check_file(folder / "record.json")])
def test_a_read_only_folder_is_refused(tmp_path, check):
    folder = read_only(tmp_path / "locked")
    with pytest.raises(OSError, match=rf"cannot write to {folder} \(.+\); give a folder that can be written"):
        check(folder)


def test_a_full_disk_is_refused(tmp_path):
    with full_disk(room=0), pytest.raises(OSError, match=r"cannot write to .*File too large"):
        check_writable(tmp_path)


def test_a_folder_of_the_cache_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LABCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"LABCORE_CACHE is '.*file': set LABCORE_CACHE to a folder that can be written"):
        check_writable(files.cache_folder() / "statistics")
