"""Video action recognition on Kinetics with Switchable Normalization.

What most users need is here and is imported when it is first used, so that `import snvideo.norm`
needs torch alone:

>>> import snvideo
>>> "i3d_tiny" in snvideo.list_models()
True
>>> model = snvideo.create_model("i3d_tiny", num_classes=8, norm="sn")
>>> config = snvideo.load_config("toy/i3d_tiny", ["data.index=toy/index.csv", "output=run"])
>>> config.model.norm.name
'sn'

A config is trained with `train(config)` and a run evaluated with `evaluate(config, run)`; both
return `Results`. `load_model(run)` gives the trained network with its classes and preprocessing,
`predict(videos, run)` the most probable classes of any video files, and
`write_features(FeatureExtractor(run), videos, folder)` what a layer gives for them. `snvideo.data`
has the index, decoding and datasets, `snvideo.norm` the normalization layers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snvideo.config import load_config
    from snvideo.engine.evaluate import evaluate
    from snvideo.engine.feature_files import load_features, write_features
    from snvideo.engine.features import FeatureExtractor
    from snvideo.engine.predict import predict
    from snvideo.engine.train import train
    from snvideo.models import create_model, list_models
    from snvideo.models.pretrained import load_model

__all__ = ["FeatureExtractor", "__version__", "create_model", "evaluate", "list_models"]
__all__ += ["load_config", "load_features", "load_model", "predict", "train", "write_features"]
__version__ = "0.1.0"

_MODULES = {
    **dict.fromkeys(("create_model", "list_models"), "models"),
    **{"load_config": "config", "load_model": "models.pretrained"},
    **{"FeatureExtractor": "engine.features"},
    **dict.fromkeys(("load_features", "write_features"), "engine.feature_files"),
    **{name: f"engine.{name}" for name in ("evaluate", "predict", "train")},
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'snvideo' has no attribute '{name}'")
    return getattr(import_module(f"snvideo.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
