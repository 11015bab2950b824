"""`snvideo toy` as a program: make_toy_kinetics.py data/toy --train 1200"""

import sys

from snvideo.cli import main

if __name__ == "__main__":
    main(["toy", *sys.argv[1:]])
