"""What runs of the Kinetics-400 recipes cost: GPU hours, and the cores that decode for one GPU.

    python benchmarks/kinetics_cost.py [LOADER_JSON]

Counted arithmetic at 30 % of a GPU's peak, and snvideo's clips a core-second as `loader.py` has
measured them; nothing is measured here. The table is that of configs/kinetics400/README.md.
"""

import json
import sys
from pathlib import Path

from videos import ORIGINALS, PREPARED

from snvideo import create_model, load_config
from snvideo.models.cost import multiply_adds

ROOT = Path(__file__).parents[1]
CLIPS = 240_000  # an epoch
UTILIZATION = 0.3
PEAKS = {"A100": 312e12, "H100": 989e12}  # dense bf16
FEEDS = "A100"  # of which one is fed


def clip_rates(path: Path) -> dict[tuple[str, str], float]:
    """Clips a core-second of snvideo, by clip and encoding."""
    rows = json.loads(path.read_text(encoding="utf-8"))["times"]
    return {
        (row["clip"], row["encoding"]): row.get("per_core_second") or 1e3 / row["ms"]
        for row in rows
        if row["rival"] == "snvideo"
    }


def main(path: Path) -> None:
    """Print the table as Markdown."""
    rates = clip_rates(path)
    for file in sorted((ROOT / "configs/kinetics400").glob("*/bn_8x4.yaml")):
        config = load_config(file)
        clip, network = config.data.clip, create_model(config.model.name, 400, "bn")
        macs = multiply_adds(network, clip.frames, config.data.train.crop)
        operations = macs * 2 * 3
        run = operations * CLIPS * config.optim.epochs
        hours = [f"{run / (UTILIZATION * peak) / 3600:.0f}" for peak in PEAKS.values()]
        fed = UTILIZATION * PEAKS[FEEDS] / operations
        found = [rates.get((f"{clip.frames}x{clip.stride}", e)) for e in (ORIGINALS, PREPARED)]
        cores = [f"{fed / rate:.0f}" if rate else "not measured" for rate in found]
        counted = [f"{macs / 1e9:.1f}", f"{run / 1e18:.1f}", *hours, f"{fed:.0f}", *cores]
        print(f"| `{file.parent.name}` | {' | '.join(counted)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "benchmarks/results/loader_cpu.json")
