"""Removal of absolute paths and host names from values, texts and notebooks that are published."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

WHOLE = re.compile(r"(?:file://)?/(?:[^/\n]+/)*([^/\n]+)/?")
"""A text that consists of an absolute path."""
KEPT = r"(?P<kept>(?!file:)\b[a-zA-Z][a-zA-Z0-9+.-]*://\S*|\bdata:[^\s\"')]*)"
FOLDERS = r"(?:file://)?(?<![\w./~])/(?:[^\s/'\":,;<>]+/)+"
WITHIN = re.compile(f"{KEPT}|{FOLDERS}")
"""A web address or embedded data within a text, which are kept, or the folders of an absolute path within a text."""


def without_folders(value: Any) -> Any:
    """Return JSON values whose texts and keys keep only the last part of each absolute path."""
    if isinstance(value, dict):
        portable = {without_folders(key): without_folders(item) for key, item in value.items()}
        if len(portable) < len(value):
            raise ValueError(f"names {sorted(map(str, value))} are equal without their folders; give them other names")
        return portable
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    if absolute := WHOLE.fullmatch(value):
        return absolute[1]
    return WITHIN.sub(lambda found: found["kept"] or "", value)


def without_hosts(text: str, hosts: Iterable[str]) -> str:
    """Return a text with HOST instead of each of these machines' names."""
    for host in hosts:
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", "HOST", text)
    return text


def without_machine(notebook: Any, hosts: Iterable[str] = ()) -> Any:
    """Return an executed notebook whose printed texts and errors name no folder and no host; pictures are kept."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for key in ("text", "evalue"):
                if key in output:
                    output[key] = _portable(output[key], hosts)
            if "traceback" in output:
                output["traceback"] = [_portable(line, hosts) for line in output["traceback"]]
            data = output.get("data", {})
            for kind in ("text/plain", "text/html", "text/markdown"):
                if kind in data:
                    data[kind] = _portable(data[kind], hosts)
    notebook.metadata.pop("papermill", None)
    return notebook


def _portable(text: str, hosts: Iterable[str]) -> str:
    return without_hosts(WITHIN.sub(lambda found: found["kept"] or "", text), hosts)
