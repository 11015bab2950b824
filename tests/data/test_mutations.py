"""Files broken in ways nobody has seen cost themselves, and neither a batch nor the run."""

import csv
import json
import os
import time
from collections import Counter, deque
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from snvideo.data import sampling
from snvideo.data.config import ClipConfig, DataConfig, TrainViewConfig
from snvideo.data.dataset import Batch, SampleKey, TrainDataset
from snvideo.data.index import COLUMNS, ClipIndex, IndexRow
from snvideo.data.index_meta import VERSION
from snvideo.data.indexing.probe import probe_all
from snvideo.data.loader import train_loader
from snvideo.data.quarantine import Quarantine
from tests.data import decoders
from tests.data.mutations import MUTATIONS, Mutant, shorten, write_mutants, write_sources

DATA = os.environ.get("SNVIDEO_TEST_DATA")
CLIPS = 4
"""In a batch."""
SEED = 3
BELIEVED = IndexRow(frames=30, fps=25, width=64, height=48, seconds=1.2, seekable=1)
"""What an index says of a file that never was a video."""


class Broken(NamedTuple):
    """Mutants, what they were made of, and what that held."""

    mutants: list[Mutant]
    facts: dict[Path, IndexRow]


def make(folder: Path, count: int, every: int = 1) -> Broken:
    """Mutants of written videos and, where there are any, of every so many-th real one."""
    sources = write_sources(folder / "written")
    if DATA is not None:
        folders = (Path(DATA) / name for name in ("bench_videos", "odd_videos"))
        real = [path for one in folders for path in sorted(one.iterdir())]
        sources += [shorten(path, folder / "real") for path in real[::every]]
    facts = dict(zip(sources, probe_all(sources, "decode", workers=2, timeout=20), strict=True))
    return Broken(write_mutants(sources, folder / "broken", count, seed=0), facts)


def index_before(broken: Broken, folder: Path, decoder: str) -> ClipIndex:
    """An index made before the files broke: of all mutants, and of as many sound files.

    Every row has a label of its own, so that a batch's labels say what it shows.
    """
    rows = []
    for path, source, _ in broken.mutants:
        facts = broken.facts[source]
        facts = facts if facts.status == "ok" else BELIEVED
        if decoder != "pyav":
            facts = facts._replace(decoders=f"pyav {decoder}", seekable=1)
        rows.append((path, facts))
    sound = [item for item in broken.facts.items() if item[1].status == "ok"]
    rows += [sound[i % len(sound)] for i in range(len(rows))]
    labels = [str(number) for number in range(len(rows))]
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, (path, facts) in enumerate(rows):
            what = {"path": path, "label": number, "label_name": labels[number], "split": "train"}
            # Without the size, which would tell at once.
            writer.writerow(facts._replace(**what, bytes=0))
    (folder / "index.json").write_text(
        json.dumps({"root": ".", "labels": labels, "version": VERSION})
    )
    return ClipIndex.load(folder / "index.csv", "train")


def configuration(folder: Path, decoder: str) -> DataConfig:
    return DataConfig(
        index=folder / "index.csv",
        workers=2,
        timeout=5.0,
        start_method="fork",
        decoder=decoder,
        clip=ClipConfig(frames=4, stride=3),
        train=TrainViewConfig(short_side=(32, 40), crop=32),
    )


def passes(index: ClipIndex) -> list[tuple[int, range]]:
    return [(0, range(i, i + CLIPS)) for i in range(0, len(index), CLIPS)]


def epoch(index: ClipIndex, config: DataConfig) -> tuple[list[Batch], Quarantine]:
    quarantine = Quarantine()
    found = train_loader(index, config, SEED, iter(passes(index)), quarantine=quarantine)
    return list(found), quarantine


def assert_nothing_is_lost(index: ClipIndex, config: DataConfig, batches: list[Batch]) -> None:
    """Every key shows its own video, or the first readable one of those that replace it, all
    others being named; and sound videos show what they do where nothing is broken."""
    clips = TrainDataset(index, config, SEED)
    order = sampling.epoch_order(SEED, 0, len(index))
    compared = 0
    for (_, positions), batch in zip(passes(index), batches, strict=True):
        assert batch.clips.shape == (CLIPS, 4, 3, 32, 32)
        named = deque(name for name, _ in batch.unreadable)
        for position, clip, label in zip(positions, batch.clips, batch.labels, strict=True):
            key, attempt = SampleKey(sampling.TRAIN, 0, position, int(order[position])), 0
            while clips.row(key, attempt) != label:
                assert named.popleft() == index[clips.row(key, attempt)].name
                attempt += 1
            if attempt == 0 and label >= len(index) // 2:  # safe to read in this process
                assert torch.equal(clip, clips[key].clip)
                compared += 1
        assert not named
    assert compared == len(index) // 2


def assert_repeated(
    index: ClipIndex, config: DataConfig, found: list[Batch], again: list[Batch]
) -> None:
    """The same batches bit for bit; of others than PyAV only the sound videos, for whether they
    read a broken file, and what they show of it, differs from one time to the next."""
    if config.decoder != "pyav":
        assert_nothing_is_lost(index, config, again)
        return
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one.clips, other.clips)
        assert torch.equal(one.labels, other.labels)
        assert one.augmentation == other.augmentation
        assert [name for name, _ in one.unreadable] == [name for name, _ in other.unreadable]


def fates(broken: Broken, quarantine: Quarantine) -> Counter[str]:
    """How many mutants came to what."""
    counts = Counter[str]()
    for mutant in broken.mutants:
        reason = quarantine.found.get(str(mutant.path))
        if reason is None:
            counts["ok"] += 1
        elif reason.startswith("no answer for"):
            counts["hung"] += 1
        else:
            counts["crashed" if reason.startswith("its reader") else "unreadable"] += 1
    return counts


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Broken:
    return make(tmp_path_factory.mktemp("broken"), 60, every=4)


def test_the_same_seed_breaks_the_same_files_alike(tmp_path: Path, broken: Broken) -> None:
    sources = list(broken.facts)
    again = write_mutants(sources, tmp_path, 60, seed=0)
    assert [m.path.name for m in again] == [m.path.name for m in broken.mutants]
    for one, other in zip(broken.mutants, again, strict=True):
        data = one.path.read_bytes()
        assert data == other.path.read_bytes() != one.source.read_bytes()
    assert write_mutants(sources, tmp_path / "1", 60, seed=1) != again
    assert {m.kind for m in again} == set(MUTATIONS)


@pytest.mark.parametrize("check", ["packets", "decode"])
def test_every_broken_file_gets_a_verdict(broken: Broken, check: str) -> None:
    paths = [mutant.path for mutant in broken.mutants]
    found = list(probe_all(paths, check, workers=2, timeout=5))
    statuses = Counter(one.status for one in found)
    assert len(found) == 60 and statuses.keys() == {"ok", "broken"}
    assert min(statuses.values()) >= 10
    for one in found:
        assert (one.frames > 0) == (one.status == "ok") != (one.status == "broken")
        assert one.reason or one.status == "ok"


@pytest.mark.parametrize("decoder", decoders.ALL)
def test_an_epoch_over_files_that_broke_after_indexing(
    tmp_path: Path, broken: Broken, decoder: str
) -> None:
    index, config = index_before(broken, tmp_path, decoder), configuration(tmp_path, decoder)
    found, quarantine = epoch(index, config)
    assert_nothing_is_lost(index, config, found)
    named = {name for batch in found for name, _ in batch.unreadable}
    assert quarantine.found.keys() == named and quarantine.closed == {}
    assert 10 <= len(named) <= 50 and named <= {str(m.path) for m in broken.mutants}
    # What cannot even be opened is certainly among them; other files may be broken in places.
    verdicts = probe_all([m.path for m in broken.mutants], "packets", workers=2, timeout=5)
    pairs = zip(broken.mutants, verdicts, strict=True)
    hopeless = {str(m.path) for m, one in pairs if one.reason.startswith("no video header")}
    assert len(hopeless) >= 5 and hopeless <= named
    again, quarantine_again = epoch(index, config)
    assert_repeated(index, config, found, again)
    if decoder == "pyav":
        assert quarantine_again.found.keys() == named


@pytest.mark.slow
@pytest.mark.parametrize("decoder", decoders.ALL)
def test_an_epoch_over_a_thousand_broken_files(
    tmp_path: Path, decoder: str, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make(tmp_path, 1000)
    index, config = index_before(broken, tmp_path, decoder), configuration(tmp_path, decoder)
    begun = time.monotonic()
    found, quarantine = epoch(index, config)
    seconds = time.monotonic() - begun
    counts = fates(broken, quarantine)
    with capsys.disabled():
        print(f"\n{decoder}: {dict(counts)}, {len(found)} batches in {seconds:.0f} s")
        for name, reason in quarantine.found.items():
            if reason.startswith(("no answer", "its reader")):
                print(f"  {Path(name).name}: {reason}")
        for record in caplog.records:
            print(f"  warned: {record.getMessage()[-150:]}")
    assert_nothing_is_lost(index, config, found)
    assert counts["ok"] >= 100 and counts["unreadable"] >= 100
    again, _ = epoch(index, config)
    assert_repeated(index, config, found, again)
