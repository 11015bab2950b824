"""`snvideo index build` as a program: build_index.py folders VIDEOS --out index.csv"""

import sys

from snvideo.cli import main

if __name__ == "__main__":
    main(["index", "build", *sys.argv[1:]])
