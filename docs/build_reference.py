"""Build the API reference: `python docs/build_reference.py docs/reference`."""

import importlib
import sys
import warnings
from pathlib import Path

import pdoc

MODULES = (
    *("snvideo", "snvideo.norm", "snvideo.models", "snvideo.models.pretrained", "snvideo.data"),
    *("snvideo.config", "snvideo.data.config", "snvideo.models.config", "snvideo.engine.config"),
    *("snvideo.study.config", "snvideo.engine.results", "snvideo.errors"),
)
"""The public modules."""


def build_reference(folder: Path, source: bool = True) -> None:
    """Write a page for each of `MODULES`.

    Args:
        folder: to write to.
        source: show the source of everything below its documentation.
    """
    for name in MODULES:
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", ()):  # pdoc does not see those that come lazily
            vars(module).setdefault(member, getattr(module, member))
    pdoc.render.configure(docformat="google", show_source=source)
    with warnings.catch_warnings():
        # Annotations of named tuples are strings without a module; they are shown as they stand.
        warnings.filterwarnings("ignore", "Error parsing type annotation", UserWarning)
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build_reference(Path(sys.argv[1]))
