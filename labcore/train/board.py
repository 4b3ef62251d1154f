"""Curves, pictures and settings for tensorboard, in an event file without the machine's name.

torch's SummaryWriter would add that name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labcore.dotted import dotted


class Board:
    """An event file in `folder`. Readers drop what earlier files there have after `step`: a resumed run writes it again.

    Raises ImportError if tensorboard is not installed; nothing is written then.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        seconds, rest = divmod(time.time_ns(), 10**9)
        path = folder / f"events.out.tfevents.{seconds:010d}.labcore.{rest:09d}"
        self._file = RecordWriter(open(path, "ab"))  # noqa: SIM115 (closed in `close`)
        self._write(file_version="brain.Event:2")
        self._write(step=step + 1, session_log=SessionLog(status=SessionLog.START))

    def add_scalar(self, name: str, value: int | float, step: int) -> None:
        """Write one value of a curve, visible to readers at once."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        self._file.flush()

    def add_picture(self, name: str, path: Path, step: int) -> None:
        """Write the picture in a PNG file. One that cannot be read is left out: the file stays where it is."""
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        try:
            with Image.open(path) as picture:
                picture.verify()
                (width, height), channels = picture.size, len(picture.getbands())
        except (OSError, SyntaxError):  # what PIL raises for damaged files
            return
        png = Summary.Image(width=width, height=height, colorspace=channels, encoded_image_string=path.read_bytes())
        self._write(step=step, summary=Summary(value=[Summary.Value(tag=name, image=png)]))
        self._file.flush()

    def add_settings(self, settings: Mapping[str, Any]) -> None:
        """Write nested settings for the tab HPARAMS, under dotted names; None and lists become text."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        plain = {
            key: value if isinstance(value, bool | int | float) else str(value)
            for key, value in dotted(settings).items()
        }
        self._write(step=0, summary=hparams_pb(plain))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
