"""Probe of an image sequence."""

from snvideo.data.image_sequences import list_images, sequence_pictures
from snvideo.data.index import DECODERS, LEAST_FPS, IndexRow
from snvideo.data.source import Source
from snvideo.data.unusable import Unusable

GAPS = "gaps in the numbers of its images"


def probe_sequence(source: Source, every_image: bool) -> IndexRow:
    """Row of an image sequence, but for its size in bytes.

    Args:
        source: the sequence.
        every_image: decode all images, not just the first.

    Raises:
        Unusable: if it has no images, or one that is looked at cannot be decoded.
        OSError: if there is no such folder.
    """
    images, fps = list_images(source.path), source.fps
    if not images:
        raise Unusable("no images of its pattern")
    if not all(image.bytes for image in images):
        raise Unusable("an image is empty")
    try:
        pictures = sequence_pictures(source.path, images if every_image else images[:1])
        sizes = list(dict.fromkeys(picture.shape[:2] for picture in pictures))
    except ValueError:
        raise Unusable("an image cannot be decoded") from None
    height, width = sizes[0]
    first, last = images[0].number, images[-1].number
    remarks = {
        GAPS: last - first + 1 > len(images),
        "images of one number": len({image.number for image in images}) < len(images),
        "frames of different sizes": len(sizes) > 1,
    }
    return IndexRow(
        frames=len(images),
        fps=round(max(fps, LEAST_FPS), 4),
        width=width,
        height=height,
        seconds=round(len(images) / fps, 3),
        seekable=1,
        decoders=" ".join(DECODERS),  # none of which is needed
        reason="; ".join(remark for remark, true in remarks.items() if true),
    )
