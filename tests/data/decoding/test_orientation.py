"""Pictures upright by their display matrix, as the ffmpeg program shows them."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest

from snvideo.data.decoding import decode_frames
from snvideo.data.index import DECODERS, Video
from snvideo.data.indexing.probe import probe
from snvideo.data.preparing.reencode import EncodeJob, EncoderSettings, reencode
from tests.data.decoding.reference import ffmpeg_frames, needs_ffmpeg
from tests.data.videos import write_video

SIZE = 96, 64

# Matrix a b c d -> number in the index, and how the stored pictures (T, H, W, 3) come out.
MATRICES = {
    (1, 0, 0, 1): (1, lambda x: x),
    (-1, 0, 0, 1): (2, lambda x: x[:, :, ::-1]),
    (-1, 0, 0, -1): (3, lambda x: x[:, ::-1, ::-1]),
    (1, 0, 0, -1): (4, lambda x: x[:, ::-1]),
    (0, 1, 1, 0): (5, lambda x: x.swapaxes(1, 2)),
    (0, 1, -1, 0): (6, lambda x: np.rot90(x, -1, (1, 2))),
    (0, -1, -1, 0): (7, lambda x: x.swapaxes(1, 2)[:, ::-1, ::-1]),
    (0, -1, 1, 0): (8, lambda x: np.rot90(x, 1, (1, 2))),
}
# Others, and the number of the nearest.
ODD = {
    (2, 0, 0, 1): 1,
    (-1, 0, 0, 2): 2,
    (1, 0.5, 0, 1): 1,
    (0.98, 0.17, -0.17, 0.98): 1,
    (-0.17, 0.98, -0.98, -0.17): 6,
    (0, 1, 1, 0.4): 5,
    (0, 0, 0, 0): 1,
}


def with_matrix(path: Path, out: Path, matrix: tuple[float, ...]) -> Path:
    """A copy of an MP4 file whose header asks for another display matrix."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    a, b, c, d = (round(65536 * value) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    out.write_bytes(data)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "a.mp4"
    return write_video(path, 12, size=SIZE, corner=True, gop=5, b_frames=2)


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_come_out_upright(plain: Path, tmp_path: Path, matrix) -> None:
    path = with_matrix(plain, tmp_path / "a.mp4", matrix)
    number, turn = MATRICES[matrix]
    expected = turn(decode_frames(plain, range(12)))
    found = probe(path, "decode")
    assert (found.orientation, found.reason) == (number, "")
    assert (found.height, found.width) == expected.shape[1:3]
    for check in ("header", "packets", "decode"):
        indexed = probe(path, check)
        assert indexed._replace(decoders="") == found._replace(decoders="")
        for decoder in DECODERS:
            for seekable in (0, 1):
                video = Video.of(indexed._replace(seekable=seekable), path)
                np.testing.assert_array_equal(
                    decode_frames(video, [11, 4, 6], decoder), expected[[11, 4, 6]]
                )


@needs_ffmpeg
@pytest.mark.parametrize("matrix", MATRICES)
def test_ffmpeg_shows_the_same(plain: Path, tmp_path: Path, matrix) -> None:
    path = with_matrix(plain, tmp_path / "a.mp4", matrix)
    np.testing.assert_array_equal(decode_frames(path, range(12)), ffmpeg_frames(path))


@pytest.mark.parametrize("matrix", ODD)
def test_other_matrices_are_remarked_and_the_nearest_is_taken(
    plain: Path, tmp_path: Path, matrix
) -> None:
    path = with_matrix(plain, tmp_path / "a.mp4", matrix)
    found = probe(path, "packets")
    assert (found.status, found.orientation) == ("ok", ODD[matrix])
    assert found.reason.startswith("display matrix")
    turn = next(turn for number, turn in MATRICES.values() if number == ODD[matrix])
    expected = turn(decode_frames(plain, [3]))
    np.testing.assert_array_equal(decode_frames(path, [3]), expected)


@pytest.mark.parametrize("scale", [0.5, 3])
def test_a_matrix_that_scales_both_sides_alike_is_nothing_odd(
    plain: Path, tmp_path: Path, scale: float
) -> None:
    found = probe(with_matrix(plain, tmp_path / "a.mp4", (0, scale, scale, 0)), "packets")
    assert (found.orientation, found.reason) == (5, "")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_orientation_inside_the_stream(plain: Path, tmp_path: Path, name: str) -> None:
    """H.264 tells it itself, whatever the container: mirrored, then turned to the left."""
    path = tmp_path / name
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        read = source.streams.video[0]
        stream = container.add_stream_from_template(read)
        told = av.BitStreamFilterContext(
            "h264_metadata=display_orientation=insert:rotate=90:flip=horizontal", read
        )
        packets = [packet for packet in source.demux(read) if packet.size]
        for packet in [new for old in (*packets, None) for new in told.filter(old)]:
            packet.stream = stream
            container.mux(packet)
    found = probe(path, "decode")
    assert (found.frames, found.orientation, found.reason) == (12, 5, "")
    expected = MATRICES[0, 1, 1, 0][1](decode_frames(plain, range(12)))
    np.testing.assert_array_equal(decode_frames(path, range(12)), expected)


@pytest.mark.parametrize("matrix", MATRICES)
def test_prepared_videos_are_upright(plain: Path, tmp_path: Path, matrix) -> None:
    path, out = with_matrix(plain, tmp_path / "a.mp4", matrix), tmp_path / "out.mp4"
    *_, last = reencode(
        EncodeJob(path, out, probe(path, "packets").orientation, 25.0),
        EncoderSettings(preset="ultrafast"),
    )
    assert last.state == "done" and probe(out, "decode").orientation == 1
    before, after = decode_frames(path, range(12)), decode_frames(out, range(12))
    assert np.abs(before - after.astype(int)).mean() < 1


def test_prepared_videos_of_odd_matrices_are_as_decoded(plain: Path, tmp_path: Path) -> None:
    path = with_matrix(plain, tmp_path / "a.mp4", (0.98, 0.17, -0.17, 0.98))
    out = tmp_path / "out.mp4"
    *_, last = reencode(
        EncodeJob(path, out, probe(path, "packets").orientation, 25.0),
        EncoderSettings(preset="ultrafast"),
    )
    found = probe(out, "decode")
    assert (last.state, found.orientation, found.reason) == ("done", 1, "")
