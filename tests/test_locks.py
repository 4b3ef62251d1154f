"""Locks between processes: who waits, who is refused and by whom, and that no end of a process leaves one behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from labcore.jsonfile import alone
from labcore.locks import Held, Holder, hold, holder, locked, sign

HOST = os.uname().nodename


@pytest.fixture
def other(tmp_path):
    """A process that holds tmp_path/lock until it is killed."""
    code = (
        "import sys, time; from labcore.locks import locked\n"
        f"with locked({str(tmp_path / 'lock')!r}): print('held', flush=True); time.sleep(99)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    yield child
    child.kill()
    child.communicate()


def test_another_process_is_named_and_its_end_frees_the_lock(tmp_path, other):
    lock = tmp_path / "lock"
    assert holder(lock) == Holder(other.pid, HOST) and str(holder(lock)) == f"pid {other.pid} on {HOST}"
    start = time.monotonic()
    with pytest.raises(
        Held, match=rf"lock is locked by pid {other.pid} on .*; wait for that process or stop it"
    ) as held:
        hold(lock, wait=0.1)
    assert time.monotonic() - start >= 0.1 and held.value.holder == holder(lock)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert holder(lock) is None
    with locked(lock, wait=0):
        assert holder(lock) == Holder(os.getpid(), HOST)
    assert holder(lock) is None


def test_waiting_ends_with_the_other_process(tmp_path, other):
    threading.Timer(0.2, other.kill).start()
    with locked(tmp_path / "lock"):
        assert other.wait() == -signal.SIGKILL


def test_a_limited_wait_is_long_enough(tmp_path, other):
    threading.Timer(0.2, other.kill).start()
    with locked(tmp_path / "lock", wait=30):
        assert other.wait() == -signal.SIGKILL


def test_an_error_in_the_block_frees_the_lock(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    with locked(tmp_path / "lock", wait=0):
        pass


def test_what_is_refused_stays_refused(tmp_path):
    """A lock belongs to an open file, so a process that asks twice waits for itself."""
    with locked(tmp_path / "lock"):
        for _ in range(2):
            with pytest.raises(Held):
                hold(tmp_path / "lock", wait=0)


@pytest.mark.parametrize("note", ["", "1234", "pid x on y", "\xff"])
def test_a_holder_that_does_not_say_who_it_is(tmp_path, note):
    lock = tmp_path / "lock"
    with locked(lock):
        lock.write_text(note)
        assert holder(lock) == Holder() and str(holder(lock)) == "another process"


def test_nobody_holds_what_is_not_there(tmp_path):
    assert holder(tmp_path / "none") is None
    (tmp_path / "file").write_text("pid 1 on earth")  # an earlier holder's
    assert holder(tmp_path / "file") is None and holder(tmp_path / "file" / "none") is None
    with pytest.raises(OSError, match="none"):
        hold(tmp_path / "none" / "lock")


def test_a_lock_that_is_handed_to_a_child_outlives_its_parent(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys, time; from labcore.locks import sign; sign(int(sys.argv[1])); "
        "print('signed', flush=True); time.sleep(99)"
    )
    with locked(lock) as descriptor:
        words = [sys.executable, "-c", code, str(descriptor)]
        child = subprocess.Popen(words, stdout=subprocess.PIPE, pass_fds=(descriptor,), text=True)
        assert child.stdout.readline() == "signed\n"
    assert holder(lock) == Holder(child.pid, HOST)
    child.kill()
    child.communicate()
    assert holder(lock) is None


def test_a_full_disk_does_not_keep_a_lock_from_being_taken(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with locked(tmp_path / "lock"):
        assert holder(tmp_path / "lock") == Holder()


def test_a_folder_is_locked_without_a_file_in_it(tmp_path):
    with alone(tmp_path / "record.json"):
        assert list(tmp_path.iterdir()) == [] and holder(tmp_path) == Holder()
    assert holder(tmp_path) is None


def test_a_disk_without_locks(tmp_path, monkeypatch):
    """Small records are written all the same; who asks for a lock hears of it."""
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path / "record.json"):
        pass
    with pytest.raises(OSError, match="not supported"):
        hold(tmp_path / "lock")
    assert holder(tmp_path / "lock") is None


def test_the_newest_signature_counts(tmp_path):
    (tmp_path / "lock").write_text("pid 1 on a host with a much longer name than ours has, so that all of it must go")
    with locked(tmp_path / "lock") as descriptor:
        sign(descriptor)
        assert (tmp_path / "lock").read_text() == f"pid {os.getpid()} on {HOST}"
