"""Toy Kinetics: a small action data set, drawn, whose classes differ by motion alone."""

from snvideo.data.toy.drawing import CLASSES, DIFFICULTIES, ToyClip, ToyEntry, draw_clip, toy_entry
from snvideo.data.toy.files import make_toy_kinetics, write_mp4

__all__ = [
    "CLASSES",
    "DIFFICULTIES",
    "ToyClip",
    "ToyEntry",
    "draw_clip",
    "make_toy_kinetics",
    "toy_entry",
    "write_mp4",
]
