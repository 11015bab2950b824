"""Video action recognition on Kinetics with Switchable Normalization."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snvideo.models.pretrained import load_model

__all__ = ["__version__", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`snvideo.load_model`, imported when it is asked for: `snvideo.norm` needs torch alone."""
    if name == "load_model":
        from snvideo.models.pretrained import load_model

        return load_model
    raise AttributeError(f"module 'snvideo' has no attribute '{name}'")
