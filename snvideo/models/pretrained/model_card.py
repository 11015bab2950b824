"""The card that goes with a weight file: what it is, how good it was, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snvideo.models.pretrained.metadata import About

_CLASSES = 20
"""Most classes that are listed by name."""


def model_card(about: About, file: str, config: str | None = None) -> str:
    """A model card, in Markdown.

    Args:
        about: what the file says of itself.
        file: its name.
        config: of the run, YAML.
    """
    seen = about.preprocessing
    rate = f" at {seen.target_fps:g} frames a second" if seen.target_fps else ""
    facts = {
        "network": f"`{about.architecture}`",
        "normalization": _norm(about),
        "classes": _classes(about),
        "clip": f"{seen.frames} frames, every {_nth(seen.stride)} of the video{rate}",
        "test views": f"short side {seen.short_side}, crops {seen.crop} x {seen.crop} pixels",
        "input": f"RGB, (x / 255 - mean) / std; mean {_rgb(seen.mean)}, std {_rgb(seen.std)}",
        "started from": _started(about.started_from),
    }
    parts = [
        f"# {about.architecture} with {about.norm}",
        "A network that recognises actions in videos, trained with snvideo.",
        _table(facts),
        "## Results",
        _results(about.results),
        "## Use",
        _USE.format(file=file, classes=f"(N, {len(about.classes)})"),
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


def _norm(about: About) -> str:
    if about.norm in ("sn", "syncsn") and not about.use_batch:
        return f"`{about.norm}` without its batch part"
    if about.statistics is None:
        return f"`{about.norm}`"
    how = {
        "average": "averaged over training batches",
        "population": "of the population, estimated from training batches",
        "moving": "moving averages of training",
    }
    return f"`{about.norm}`, batch statistics {how.get(about.statistics, about.statistics)}"


def _classes(about: About) -> str:
    shown = ", ".join(name.replace("|", "\\|") for name in about.classes[:_CLASSES])
    more = f", and {len(about.classes) - _CLASSES} more" if len(about.classes) > _CLASSES else ""
    return f"{len(about.classes)}: {shown}{more}"


def _nth(stride: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    end = "th" if stride % 100 in (11, 12, 13) else ends.get(stride % 10, "th")
    return "one" if stride == 1 else f"{stride}{end}"


def _rgb(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _started(source: Mapping[str, Any] | None) -> str:
    if source is None:
        return "random weights"
    return f"`{source['origin']}` ({source['format']})"


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
