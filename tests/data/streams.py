"""Small streams of moving texture, encoded and muxed packet by packet, for tests."""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FRAMES, WIDTH, HEIGHT = 60, 160, 96


def pictures(frames: int = FRAMES) -> Iterator[av.VideoFrame]:
    """A drifting texture, of which every picture differs and hardly one can be guessed."""
    texture = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
    texture = texture.repeat(4, 0).repeat(4, 1)
    for number in range(frames):
        moved = np.ascontiguousarray(np.roll(texture, (3 * number, 5 * number), (0, 1)))
        frame = av.VideoFrame.from_ndarray(moved, format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, 25)
        yield frame


def write(
    path: Path, codec: str, options: dict[str, str], mux: dict[str, str] | None = None
) -> Path:
    """A video of `pictures`, with options of the encoder and of the container."""
    with av.open(str(path), "w", options=mux or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in pictures():
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def encoder(options: dict[str, str], codec: str = "libx264") -> av.VideoCodecContext:
    made = av.CodecContext.create(codec, "w")
    made.width, made.height, made.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    made.time_base, made.framerate, made.options = Fraction(1, 25), Fraction(25), options
    return made


def from_start(path: Path) -> np.ndarray:
    """All frames, decoded one after the other, uint8 (T, H, W, 3)."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def element(name: str, *parts: bytes) -> bytes:
    """An element of Matroska."""
    return bytes.fromhex(name) + (1 << 56 | len(b"".join(parts))).to_bytes(8) + b"".join(parts)


def write_matroska(
    path: Path, codec: Sequence[bytes], blocks: Iterable[tuple[int, bool, bytes]]
) -> Path:
    """A Matroska file of a codec's elements and of blocks: milliseconds, key or not, content."""
    made = [
        element("A3", b"\x81", struct.pack(">hB", time, 128 * key), content)
        for time, key, content in blocks
    ]
    size = element("E0", element("B0", bytes([WIDTH])), element("BA", bytes([HEIGHT])))
    numbers = [element(name, b"\1") for name in ("D7", "73C5", "83")]
    track = element("AE", *numbers, *codec, element("23E383", (40_000_000).to_bytes(4)), size)
    info = element("1549A966", element("2AD7B1", (1_000_000).to_bytes(3)))
    cluster = element("1F43B675", element("E7", b"\0"), *made)
    segment = element("18538067", info, element("1654AE6B", track), cluster)
    path.write_bytes(element("1A45DFA3", element("4282", b"matroska")) + segment)
    return path


def box(name: str, *parts: bytes) -> bytes:
    """A box of MP4."""
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), name.encode()) + content


def write_mp4(path: Path, entries: Sequence[bytes], samples: Sequence[av.Packet]) -> Path:
    """An MP4 file with a description for each of as many equal runs of samples, 25 a second."""
    number, each = len(samples), len(samples) // len(entries)
    head = box("ftyp", b"isom\0\0\2\0isom")
    contents = [bytes(sample) for sample in samples]
    places = np.cumsum([len(head) + 8, *map(len, contents)])[:-1].tolist()

    def full(name: str, *values: int, more: bytes = b"") -> bytes:
        return box(name, struct.pack(f">{1 + len(values)}I", 0, *values), more)

    keys = [k for k, sample in enumerate(samples, 1) if sample.is_keyframe]
    runs = [value for k in range(len(entries)) for value in (1 + k * each, 1, 1 + k)]
    table = box(
        "stbl",
        full("stsd", len(entries), more=b"".join(entries)),
        full("stts", 1, number, 1),
        full("stss", len(keys), *keys),
        full("stsc", len(entries), *runs),
        full("stsz", 0, number, *map(len, contents)),
        full("stco", number, *places),
    )
    unit = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    data = box("dinf", full("dref", 1, more=box("url ", b"\0\0\0\1")))
    media = box(
        "mdia",
        full("mdhd", 0, 0, 25, number, 0x55C40000),
        full("hdlr", 0, int.from_bytes(b"vide"), 0, 0, 0, more=b"\0"),
        box("minf", full("vmhd", 0, 0), data, table),
    )
    size = struct.pack(">2I", WIDTH << 16, HEIGHT << 16)
    track = box("trak", full("tkhd", 0, 0, 1, 0, number, 0, 0, 0, 0, more=unit + size), media)
    movie = full(
        "mvhd", 0, 0, 25, number, 1 << 16, 1 << 24, 0, 0, more=unit + bytes(24) + b"\0\0\0\2"
    )
    path.write_bytes(head + box("mdat", *contents) + box("moov", movie, track))
    return path


def description(path: Path, name: bytes) -> bytes:
    """The first sample entry of this name in an MP4 file."""
    data = path.read_bytes()
    at = data.index(name, data.index(b"stsd")) - 4
    return data[at : at + int.from_bytes(data[at : at + 4])]


def packets(path: Path) -> list[av.Packet]:
    """All packets of a file's video stream."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(video=0) if packet.size]


def remux(source: Path, path: Path, kept: Sequence[av.Packet]) -> Path:
    """A file of some packets of another one's video stream."""
    with av.open(str(source)) as old, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(old.streams.video[0])
        for packet in kept:
            packet.stream = stream
            container.mux(packet)
    return path


def write_fields(path: Path, whole: int, pairs: int) -> Path:
    """H.264 of whole frames first, and then of pairs of fields, each in a packet of its own."""
    units = [unit for k in range(whole + pairs) for unit in _picture(k, k >= whole)]
    raw = path.with_suffix(".h264")
    raw.write_bytes(b"".join(b"\0\0\0\1" + unit for unit in units))
    with av.open(str(raw), options={"framerate": "50"}) as old:
        made = [packet for packet in old.demux(video=0) if packet.size]
        with av.open(str(path), "w") as container:
            stream = container.add_stream_from_template(old.streams.video[0])
            time = 0
            for number, packet in enumerate(made):
                packet.pts = packet.dts = time
                packet.time_base, packet.stream = Fraction(1, 50), stream
                time += 2 if number < whole else 1
                container.mux(packet)
    return path


class _Bits(list[str]):
    """Bits of a NAL unit."""

    def u(self, count: int, value: int) -> "_Bits":
        self.append(f"{value:0{count}b}")
        return self

    def ue(self, *values: int) -> "_Bits":
        for value in values:
            size = (value + 1).bit_length()
            self.u(2 * size - 1, value + 1)
        return self

    def align(self) -> "_Bits":
        self.append("0" * (-sum(map(len, self)) % 8))
        return self

    def unit(self, head: int) -> bytes:
        bits = "".join(self.u(1, 1).align())
        content = int(bits, 2).to_bytes(len(bits) // 8)
        # Three bytes that would look like a start code are kept apart.
        return bytes([head]) + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", content)


def _picture(number: int, fields: bool) -> Iterator[bytes]:
    """NAL units of an intra picture of 64x64 raw macroblocks, with its parameter sets."""
    sps = _Bits().u(8, 77).u(8, 0).u(8, 40).ue(0, 4, 2, 1).u(1, 0).ue(3, 1).u(1, 0).u(1, 0)
    yield sps.u(1, 1).u(1, 0).u(1, 0).unit(0x67)
    pps = _Bits().ue(0, 0).u(1, 0).u(1, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0)
    yield pps.u(1, 1).u(1, 0).u(1, 0).unit(0x68)
    luma = np.full((64, 64), 20 + 3 * number, np.uint8)
    luma[16:48, 2 * number % 48 :][:, :16] = 220
    for bottom in (0, 1) if fields else (None,):
        first = not bottom
        head = _Bits().ue(0, 7, 0).u(8, 0).u(1, int(fields))
        if fields:
            head.u(1, int(bool(bottom)))
        if first:  # an IDR picture; its second field is of another kind
            head.ue(number % 2)
        head.u(2, 0) if first else head.u(1, 0)
        head.ue(0, 1)
        rows = luma[bottom::2] if bottom is not None else luma
        for top in range(0, len(rows), 16):
            for left in range(0, 64, 16):
                head.ue(25).align()
                block = rows[top : top + 16, left : left + 16].tobytes() + bytes([128]) * 128
                head.u(8 * len(block), int.from_bytes(block))
        yield head.unit(0x65 if first else 0x41)
