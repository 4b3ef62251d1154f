"""Where things lie: no absolute path and no host in what is named, compared or published; no folder of what was refused."""

import json
import socket
import warnings

import pytest

from labcore.train.log import RunLog, read_log


def test_event_files_for_tensorboard_hold_no_host(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "node7")
    for step in (0, 2):  # the second one resumes after step 2
        log = RunLog(tmp_path, step, 10)
        log.write(step + 1, {"loss": 0.5})
        log.write(step + 3, {"loss": 0.25, "note": "text"})
        log.close()
    names = [path.name for path in (tmp_path / "tensorboard").iterdir()]
    assert len(names) == 2 and not any("node7" in name for name in names)

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (3, 0.5), (5, 0.25)]


def test_a_damaged_line_within_a_log_is_said(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1}\n{"step": 2')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r["step"] for r in read_log(tmp_path)] == [1]  # a last line may be cut short by a kill
    file.write_text('{"step": 1}\n' + "[" * 10**5 + '\n{"step": 3}\n')
    with pytest.warns(UserWarning, match="damaged: 1 of 3 lines"):
        assert [r["step"] for r in read_log(tmp_path)] == [1, 3]
    assert json.loads(file.read_text().split("\n")[0]) == {"step": 1}
