"""Model card of a weight file: the network, its results and its use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snvideo.models.pretrained.metadata import WeightsMetadata

_CLASSES = 20
"""Most classes that are listed by name."""


def model_card(metadata: WeightsMetadata, file: str, config: str | None = None) -> str:
    """A model card, in Markdown.

    Args:
        metadata: of the file.
        file: its name.
        config: of the run, YAML.
    """
    views, names, source = metadata.preprocessing, metadata.classes, metadata.started_from
    rate = f" at {views.target_fps:g} frames a second" if views.target_fps else ""
    mean, std = (" ".join(f"{x:g}" for x in values) for values in (views.mean, views.std))
    shown = ", ".join(name.replace("|", "\\|") for name in names[:_CLASSES])
    more = ", ..." if len(names) > _CLASSES else ""
    facts = {
        "network": f"`{metadata.architecture}`",
        "normalization": _norm(metadata),
        "classes": f"{len(names)}: {shown}{more}",
        "clip": f"{views.frames} frames, {views.stride} apart in the video{rate}",
        "test views": f"short side {views.short_side}, crops {views.crop} x {views.crop} pixels",
        "input": f"RGB, (x / 255 - mean) / std; mean {mean}, std {std}",
        "started from": (
            "random weights" if source is None else f"`{source['origin']}` ({source['format']})"
        ),
    }
    parts = [
        f"# {metadata.architecture} with {metadata.norm}",
        "A network that recognises actions in videos, trained with snvideo.",
        _table(facts),
        "## Results",
        _results(metadata.results),
        "## Use",
        _USE.format(file=file, classes=f"(N, {len(names)})"),
    ]
    if config is not None:
        parts += ["## Config of the run", f"```yaml\n{config.strip()}\n```"]
    return "\n\n".join(parts) + "\n"


_USE = """```python
import snvideo

model = snvideo.load_model("{file}")
clip = model.preprocess(frames)    # uint8 (T, H, W, 3) -> (1, 3, T, crop, crop)
logits = model.model(clip)         # {classes}
print(model.classes[logits[0].argmax()])
```

```
snvideo predict VIDEO... --weights {file}
snvideo export {file} model.onnx
```"""


def _table(facts: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in facts.items())])


def _norm(metadata: WeightsMetadata) -> str:
    if metadata.norm_options:
        chosen = ", ".join(f"{k}={v}" for k, v in metadata.norm_options.items())
        return f"`{metadata.norm}` with {chosen}"
    if not metadata.use_batch:
        return f"`{metadata.norm}` without its batch part"
    if metadata.statistics is None:
        return f"`{metadata.norm}`"
    how = {
        "average": "averaged over training batches",
        "population": "of the population, estimated from training batches",
        "moving": "moving averages of training",
    }
    statistics = how.get(metadata.statistics, metadata.statistics)
    return f"`{metadata.norm}`, batch statistics {statistics}"


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "Not tested."
    views = results.get("views") or {}
    tested = f"{results['videos']} videos, {views.get('clips')} clips x {views.get('crops')} crops"
    rows = {
        f"{unit} top-{k}": f"{100 * results[f'{unit}_top{k}']:.1f} %"
        for unit in ("clip", "video")
        for k in (1, 5)
    }
    rows |= {
        "tested on": f"{tested}; index {str(results.get('index_hash', ''))[:12]}",
        "trained with": f"{results.get('gpus')} gpus x {results.get('clips_per_gpu')} clips, "
        f"{results.get('epochs')} epochs, seed {results.get('seed')}",
    }
    return _table(rows)
