"""Model card of a weight file: the network, its results and its use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snvideo.models.pretrained.metadata import WeightsMetadata


def model_card(metadata: WeightsMetadata, file: str, config: str | None = None) -> str:
    """A model card in Markdown of a file of that name; with the config of its run, YAML."""
    views, names, source = metadata.preprocessing, metadata.classes, metadata.started_from
    rate = f" at {views.target_fps:g} frames a second" if views.target_fps else ""
    mean, std = (" ".join(f"{x:g}" for x in values) for values in (views.mean, views.std))
    shown = ", ".join(name.replace("|", "\\|") for name in names[:20])
    more = ", ..." if len(names) > 20 else ""
    facts = {
        "network": f"`{metadata.architecture}`",
        "normalization": _norm(metadata),
        "classes": f"{len(names)}: {shown}{more}",
        "clip": f"{views.frames} frames, {views.stride} apart in the video{rate}",
        "test views": f"short side {views.short_side}, crops {views.crop} x {views.crop} pixels",
        "output": f"logits; {metadata.activation} makes them probabilities",
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
    chosen = ", ".join(f"{k}={v}" for k, v in metadata.norm_options.items())
    options = f" with {chosen}" if chosen else ""
    named = "parts" in metadata.norm_options
    batch_part = "" if metadata.use_batch or named else " without its batch part"
    statistics = f", batch statistics: {metadata.statistics}" if metadata.statistics else ""
    return f"`{metadata.norm}`{batch_part}{options}{statistics}"


def _results(results: Mapping[str, Any] | None) -> str:
    if results is None:
        return "Not tested."
    views = results.get("views") or {}
    tested = f"{results['videos']} videos, {views.get('clips')} clips x {views.get('crops')} crops"
    kinds = ("clip_top1", "clip_top5", "video_top1", "video_top5")
    mean = results.get("mean_average_precision")
    rows = {} if mean is None else {"mean average precision": f"{100 * mean:.1f} %"}
    rows |= {kind.replace("_top", " top-"): f"{100 * results[kind]:.1f} %" for kind in kinds}
    epochs = results.get("epochs")
    length = f"{results.get('steps')} steps" if epochs is None else f"{epochs} epochs"
    rows |= {
        "tested on": f"{tested}; index {str(results.get('index_hash', ''))[:12]}",
        "trained with": f"{results.get('gpus')} gpus x {results.get('clips_per_gpu')} clips, "
        f"{length}, seed {results.get('seed')}",
    }
    return _table(rows)
