"""Frames of image sequences by number, of which only those that are wanted are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from snvideo.data.image_sequences import list_images, sequence_pictures
from snvideo.data.unusable import Unusable

if TYPE_CHECKING:
    from snvideo.data.index import Video


def decode_images(
    video: Video, wanted: np.ndarray, transform: Callable[[np.ndarray], np.ndarray]
) -> tuple[list[np.ndarray], int]:
    """Read frames of an image sequence; arguments and result as those of `decode_pyav`, but that
    all frames are counted."""
    images = list_images(video.path)
    if len(images) != video.frames:  # another one may be missing or new before any frame
        raise Unusable(f"the folder has {len(images)} images, the index says {video.frames}")
    inside = [images[number] for number in wanted[: np.searchsorted(wanted, len(images))].tolist()]
    pictures = sequence_pictures(video.path, inside)
    try:
        fit = (fitted(picture, video.height, video.width) for picture in pictures)
        return [transform(picture) for picture in fit], len(images)
    except ValueError as error:
        raise Unusable(str(error)) from None


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture in the size of the first one of its sequence."""
    if picture.shape[:2] == (height, width):
        return picture
    import torch
    from torchvision.transforms.v2.functional import resize

    channels_first = torch.from_numpy(picture).permute(2, 0, 1)
    resized = resize(channels_first, [height, width], antialias=True)
    return resized.permute(1, 2, 0).contiguous().numpy()
