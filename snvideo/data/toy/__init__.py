"""Toy Kinetics: a small synthetic action data set, whose classes differ by motion alone.

It is laid out, named and annotated as Kinetics is, in H.264 files of varying size, length and rate.
"""

from snvideo.data.toy.files import make_toy_kinetics
from snvideo.data.toy.rendering import CLASSES, DIFFICULTIES, render_clip, toy_entry

__all__ = ["CLASSES", "DIFFICULTIES", "make_toy_kinetics", "render_clip", "toy_entry"]
