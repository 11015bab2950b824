"""`python -m snvideo` with a decoder that comes to grief, for runs under torchrun.

Whatever imports this as its main module, workers that are spawned included, is sabotaged.
"""

import json
import os
from pathlib import Path

from tests.data.faults import sabotage

sabotage(json.loads(os.environ["SABOTAGE"]), Path(os.environ["SABOTAGE_FOLDER"]))

if __name__ == "__main__":
    from snvideo.cli import main

    main()
