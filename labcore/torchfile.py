"""Checksums in files that torch.save wrote.

torch.load compares no checksums, although the zip format of torch.save has a CRC-32 of each record. So a flipped bit in a
tensor would silently change a weight. Files of the format before torch 1.6 have no checksums.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

PART = 2**20
"""Number of bytes that are read at a time."""


def check_records(path: Path) -> None:
    """Raise ValueError if a record of a zip file differs from its CRC-32. Other files have no checksum to compare.

    A CRC of 0 means no checksum: torch.save writes it after `torch.serialization.set_crc32_options(False)`.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.CRC == 0:
                    continue
                with archive.open(record) as file:
                    while file.read(PART):  # compares the CRC at the end
                        pass
    except OSError:
        raise
    except Exception as error:  # zipfile raises many kinds for a damaged file
        raise ValueError(f"{path} is damaged ({error}); copy or download it again") from None
