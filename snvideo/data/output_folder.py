"""Folders that a program fills, and goes on filling when it is called again."""

import json
from pathlib import Path
from typing import Any

from snvideo.atomic import write_atomic
from snvideo.errors import SnvideoError


def claim_folder(out: Path, record: str, settings: dict[str, Any]) -> None:
    """Write settings into a new folder, or compare them with those that it was filled with.

    They are `settings` in the JSON file `record` in it. It is a `SnvideoError` if they differ, or
    the folder holds something else or cannot be written to.
    """
    path = out / record
    try:
        if not path.exists():
            if out.exists() and any(out.iterdir()):
                raise SnvideoError(f"{out}: holds other files: give a new or an empty folder")
            write_atomic(path, json.dumps({"settings": settings}, indent=1) + "\n")
        remove_unfinished(out)
        facts = json.loads(path.read_text(encoding="utf-8"))
        found = facts.get("settings", facts)  # older toy sets hold nothing else
    except (ValueError, AttributeError):
        message = f"{path}: not written by this program: choose another folder"
        raise SnvideoError(message) from None
    except OSError as error:
        raise SnvideoError(f"{out}: cannot be written: {error.strerror}") from None
    for name, value in settings.items():
        if found.get(name) != value:
            raise SnvideoError(
                f"{out}: was made with {name} {found.get(name)}, asked for {value}: "
                "choose another folder, or delete this one"
            )


def remove_unfinished(out: Path) -> None:
    """Remove what processes that were killed had begun to write with `snvideo.atomic`."""
    for left in out.rglob(".*.mp4"):
        left.unlink(missing_ok=True)
