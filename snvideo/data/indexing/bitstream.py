"""Packets of H.264, HEVC and VP9 in MP4 and Matroska files, looked into without decoding."""

from collections.abc import Iterator

from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

_PARAMETERS = {"h264": (7, 8), "hevc": (32, 33, 34)}  # types of NAL units
_PICTURES = {"h264": range(1, 6), "hevc": range(32)}
_ALONE = {"h264": (5,), "hevc": range(16, 24)}
"""Pictures that let later ones refer to nothing before them: IDR; in HEVC CRA and BLA, too."""


def _units(data: memoryview, codec: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of a packet's NAL units, up to the first one of a picture."""
    at = 0
    while at + 4 < len(data):
        size = int.from_bytes(data[at : at + 4])
        kind = data[at + 4] >> 1 & 63 if codec == "hevc" else data[at + 4] & 31
        yield kind, data[at + 4 : at + 4 + size]
        if kind in _PICTURES[codec]:
            return
        at += 4 + size


def parameters(packet: Packet, codec: str) -> bytes:
    """Parameter sets that precede the picture in a key packet; of VP9, what fixes the size."""
    data = memoryview(packet)
    if codec == "vp9":
        return bytes(data[1:8]) + bytes([data[8] & 0xF0]) if len(data) > 8 else b""
    if codec not in _PARAMETERS:
        return b""
    return b"".join(unit for kind, unit in _units(data, codec) if kind in _PARAMETERS[codec])


def stands_alone(packet: Packet, codec: str) -> bool:
    """True if a key packet's picture makes those after it independent of those before it."""
    data = memoryview(packet)
    if codec == "vp9":  # frame marker, then neither an existing frame is shown nor one predicted
        return len(data) > 8 and data[0] & 0xCC == 0x80
    return codec in _ALONE and any(kind in _ALONE[codec] for kind, _ in _units(data, codec))


def shows_nothing(packet: Packet, codec: str) -> bool:
    """True for a packet of VP9 with a hidden frame alone, which others put before a shown one."""
    if codec != "vp9" or not packet.size:
        return False
    data = memoryview(packet)
    joined = data[-1] & 0xE0 == 0xC0  # several frames, the last of which is shown
    return not joined and not data[0] & 0x0A  # neither an existing frame nor this one


def may_have_fields(decoder: VideoCodecContext, sets: bytes = b"") -> bool:
    """True if parameter sets of H.264 allow pictures that are coded as two fields, in two packets.

    Args:
        decoder: of the stream; its header's sets are looked into.
        sets: what `parameters` found in packets.
    """
    if decoder.name != "h264":
        return False
    header = decoder.extradata or b""
    found = [sets] if sets else []
    if header[:1] == b"\1":  # an AVCDecoderConfigurationRecord
        at = 6
        for _ in range(header[5] & 31):
            size = int.from_bytes(header[at : at + 2])
            found.append(header[at + 2 : at + 2 + size])
            at += 2 + size
    return not found or not all(map(_frames_only, found))


def _frames_only(unit: bytes) -> bool:
    """The flag frame_mbs_only of a sequence parameter set (ITU-T H.264, 7.3.2.1.1); false where
    scaling lists, which are rare, lie before it."""
    content = unit[1:65].replace(b"\0\0\3", b"\0\0")
    bits = iter(f"{int.from_bytes(content):0{8 * len(content)}b}")

    def read(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)) or "0", 2)

    def number() -> int:  # unsigned Exp-Golomb code
        zeros = 0
        while not read(1):
            zeros += 1
        return (1 << zeros) - 1 + read(zeros)

    try:
        profile = read(8)
        read(16)
        number()
        if profile in (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135):
            if number() == 3:
                read(1)
            number(), number(), read(1)
            if read(1):
                return False
        number()
        order = number()
        if order == 0:
            number()
        elif order == 1:
            read(1), number(), number()
            for _ in range(number()):
                number()
        number(), read(1), number(), number()
        return bool(read(1))
    except (StopIteration, RuntimeError):  # it is cut off
        return False
