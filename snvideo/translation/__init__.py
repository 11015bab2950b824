"""Configs of other libraries, translated into ours, with all that is left out named.

A foreign config is read with `translation.keys.ForeignKeys`, which knows what has been read of it,
so that no key can be dropped without a word. What would make it another network or another task is
an error.
"""

from pathlib import Path

from snvideo.errors import SnvideoError
from snvideo.translation.result import Translation


def translate_config(path: Path) -> Translation:
    """Translate a config of PySlowFast (.yaml) or mmaction2 (.py).

    Raises:
        SnvideoError: if it cannot be read, or asks for a network or a task that is not here.
    """
    if path.suffix in (".yaml", ".yml"):
        from snvideo.translation.pyslowfast import translate_pyslowfast

        return translate_pyslowfast(path)
    if path.suffix == ".py":
        from snvideo.translation.mmaction import translate_mmaction

        return translate_mmaction(path)
    raise SnvideoError(f"{path}: expected a config of PySlowFast (.yaml) or of mmaction2 (.py)")
