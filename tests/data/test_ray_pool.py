"""Work on the nodes of a Ray cluster of two nodes on this machine, one of which is lost."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from snvideo.cli import run
from snvideo.data import ray_pool
from snvideo.data.indexing.build import build_index
from snvideo.data.indexing.listing import Listing
from snvideo.data.indexing.merge import merge_parts
from snvideo.data.indexing.parts import Part
from snvideo.data.indexing.sources import read_class_folders
from snvideo.data.preparing.prepare import prepare_videos
from snvideo.data.preparing.reencode import EncoderSettings
from snvideo.data.ray_pool import RayPool
from snvideo.data.workers import Outcome
from snvideo.errors import SnvideoError
from tests.data.videos import write_video

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = pytest.mark.process
ROOT = Path(__file__).parents[2]
QUICK = EncoderSettings(preset="ultrafast")


class TwoNodes:
    """A cluster whose head does no work, and whose second node may be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}
        self._cluster.add_node(num_cpus=0, include_dashboard=False, _system_config=quick)
        self._cluster.add_node(num_cpus=1)
        self._second: Any = None
        self.address = self._cluster.address
        self.restore()
        ray.init(self.address, log_to_driver=False)  # once, as it takes Ray seconds

    def restore(self) -> None:
        self._second = self._second or self._cluster.add_node(num_cpus=1)

    def lose(self) -> None:
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None
        # Until it has missed two checks, it is counted, and its processes may still answer.
        self._cluster.wait_for_nodes()

    def shutdown(self) -> None:
        ray.shutdown()
        self._cluster.shutdown()

    def run(
        self, function: Callable[[Any], Iterator[Any]], tasks: Iterable[Any], timeout: float
    ) -> list[Outcome]:
        """Outcomes of tasks in chunks of one process."""
        with closing(RayPool(self.address, function, 1, timeout)) as pool:
            return list(pool.run(tasks))


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # for the nodes' processes
        nodes = TwoNodes()
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "videos"
    for number in range(52):
        write_video(root / ("hug", "kick")[number % 2] / f"{number:02}.mp4", 5 + number % 3)
    (root / "kick" / "51.mp4").write_bytes(b"no video")
    return root


@pytest.fixture(scope="module")
def listing(videos: Path) -> Listing:
    return read_class_folders(videos)


@pytest.fixture(scope="module")
def whole(videos: Path, listing: Listing) -> Path:
    """The index of one build by processes of this machine."""
    out = videos.parent / "whole.csv"
    build_index(listing, videos, out, workers=2)
    return out


def digests(out: Path) -> dict[str, str]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "prepare.json")
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def square(task: tuple[Path, int]) -> Iterator[int]:
    """The square of a number, once the folder says so; every attempt leaves a line there."""
    folder, number = task
    with (folder / str(number)).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not (folder / "go").exists():
        time.sleep(0.02)
    yield number**2


def hang_or_die(task: str) -> Iterator[str]:
    """A task as of a decoder in native code."""
    if task == "dies":
        os._exit(1)
    while task == "hangs":
        time.sleep(0.02)
    yield task


def refuse(task: int) -> Iterator[int]:
    raise AssertionError("is not to be called")
    yield task


def test_a_lost_node_costs_nothing(cluster: TwoNodes, tmp_path: Path) -> None:
    def lose() -> None:
        while len(list(tmp_path.iterdir())) < 2:  # both nodes have begun
            time.sleep(0.02)
        cluster.lose()
        (tmp_path / "go").touch()

    cluster.restore()
    thread = threading.Thread(target=lose)
    thread.start()
    # A task waits until the loss is known, which may take Ray a while.
    outcomes = cluster.run(square, ((tmp_path, number) for number in range(70)), 120.0)
    thread.join()
    assert outcomes == [Outcome(number**2) for number in range(70)]
    attempts = [len((tmp_path / str(n)).read_text().split()) for n in range(70)]
    assert max(attempts) == 2  # of what the lost node had begun
    cluster.restore()


def test_videos_that_hang_and_die_cost_themselves(cluster: TwoNodes) -> None:
    tasks = ["a", "hangs", "b", "dies", *"cdefghijklmnopqrstuvw"]
    outcomes = cluster.run(hang_or_die, tasks, 3.0)
    expected = [Outcome(task) for task in tasks]
    expected[1], expected[3] = Outcome(None, "hangs"), Outcome(None, "crashed")
    assert outcomes == expected


@pytest.mark.parametrize("change", ["software", "folder", "lost"])
def test_what_a_node_lacks_is_one_line(cluster, tmp_path, monkeypatch, change: str) -> None:
    folders, message = [], ""
    if change == "software":
        monkeypatch.setattr(ray_pool, "software", lambda: {"av": "0.1"})
        message = r"ray node .*: av is \d.*, where the command was called it is 0\.1: install"
    elif change == "folder":
        folders = [tmp_path / "elsewhere"]
        message = "ray node .*: no folder .*elsewhere: let all nodes see it"
    else:
        monkeypatch.setattr(ray_pool, "_do_chunk", lambda work, tasks: os._exit(1))
        message = "ray: the 3 videos from 1 to 3 failed again after 3 retries: WorkerCrashedError"
    with (
        closing(RayPool(cluster.address, refuse, 1, 60, folders=folders)) as pool,
        pytest.raises(SnvideoError, match=message) as caught,
    ):
        list(pool.run([1, 2, 3]))
    assert "\n" not in str(caught.value)


def test_an_index_is_that_of_one_build(cluster, videos, listing, whole, tmp_path) -> None:
    def lose(done: int) -> None:
        if done == 1:
            cluster.lose()

    cluster.restore()
    out = videos.parent / "ray.csv"
    summary = build_index(listing, videos, out, ray=cluster.address, progress=lose)
    assert summary.total("ok") == 51 and summary.reasons["broken"]
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()
    cluster.restore()


def test_a_build_goes_on_with_or_without_a_cluster(cluster, videos, listing, whole) -> None:
    out = videos.parent / "again.csv"

    def stop_at(number: int) -> Callable[[int], None]:
        def stop(done: int) -> None:
            if done == number:
                raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        build_index(listing, videos, out, ray=cluster.address, progress=stop_at(20))
    with pytest.raises(KeyboardInterrupt):
        build_index(listing, videos, out, progress=stop_at(30))
    seen: list[int] = []
    build_index(listing, videos, out, ray=cluster.address, progress=seen.append)
    assert seen == list(range(30, 53))
    assert out.read_bytes() == whole.read_bytes()


def test_parts_of_an_index_with_and_without_a_cluster(cluster, videos, listing, whole) -> None:
    out = videos.parent / "parts.csv"
    build_index(listing, videos, out, part=Part(1, 2), ray=cluster.address)
    build_index(listing, videos, out, part=Part(2, 2))
    merge_parts(listing, videos, out)
    assert out.read_bytes() == whole.read_bytes()


def test_videos_are_prepared_as_by_one_call(cluster, videos, whole, tmp_path) -> None:
    expected, out = tmp_path / "expected", tmp_path / "out"
    prepare_videos(whole, expected, QUICK, workers=2)
    prepared = prepare_videos(whole, out, QUICK, ray=cluster.address)
    assert digests(out) == digests(expected)
    assert (prepared.videos, prepared.kept, prepared.failures) == (51, 0, {})


def test_without_ray_the_extra_is_named(videos, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("snvideo.extras.find_spec", lambda name: None)
    arguments = ["folders", str(videos), "--out", str(tmp_path / "i.csv"), "--ray", "auto"]
    assert run(["index", "build", *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "snvideo: Ray clusters need ray: pip install 'snvideo[ray]'"


def test_a_pool_joins_a_cluster_and_leaves_it(cluster: TwoNodes, tmp_path: Path) -> None:
    taken = 0

    def tasks() -> Iterator[tuple[Path, int]]:
        nonlocal taken
        for taken in range(1, 1001):
            yield tmp_path, taken

    cluster.restore()
    ray.shutdown()
    (tmp_path / "go").touch()
    with closing(RayPool(cluster.address, square, 1, 60)) as pool:
        assert next(pool.run(tasks())) == Outcome(1)
        assert ray.is_initialized()
    assert taken == 4 * 2 * 16  # what the driver holds: four chunks for each of two at once
    assert not ray.is_initialized()


def test_no_cluster_is_one_line() -> None:
    ray.shutdown()
    for address, reason in (
        ("127.0.0.1:9", "Connection refused: begin one with 'ray start'"),
        ("ray://127.0.0.1:9", "Connection refused: begin one with 'ray start'"),
        ("nonsense", "Invalid address format: nonsense: begin one"),
    ):
        with pytest.raises(SnvideoError) as caught:
            RayPool(address, refuse, 1, 60)
        assert str(caught.value).startswith(f"ray {address}: no cluster answers: ")
        assert reason in str(caught.value)
