"""Optional packages, which `pip install 'snvideo[EXTRA]'` adds."""

from importlib.util import find_spec

from snvideo.errors import SnvideoError

PACKAGES = {
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "hub": ("huggingface_hub",),
    "mlflow": ("mlflow",),
    "ray": ("ray",),
    "remote": ("fsspec", "aiohttp"),
    "report": ("matplotlib", "PIL"),
    "tensorboard": ("tensorboard",),
    "timm": ("timm",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""Extra -> what it lets import."""


class MissingExtraError(SnvideoError):
    """An optional package is not installed."""


def require(extra: str, what: str) -> None:
    """Check that the packages of an extra are installed, which `what` (in the plural) need.

    Raises:
        MissingExtraError: naming the packages and how to install them.
    """
    missing = [name for name in PACKAGES[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"{what} need {', '.join(missing)}: pip install 'snvideo[{extra}]'")
