"""`snvideo prepare` as a program: prepare_videos.py INDEX.csv OUT"""

import sys

from snvideo.cli import main

if __name__ == "__main__":
    main(["prepare", *sys.argv[1:]])
