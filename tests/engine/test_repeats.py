"""Repeated augmentation: several clips of a video in a step."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from snvideo.data import sampling
from snvideo.data.dataset import TrainDataset
from snvideo.engine.batch_plan import check_repeats, plan_batch
from snvideo.engine.dry_run import dry_run
from snvideo.engine.trainer import Trainer
from snvideo.errors import SnvideoError
from tests.engine.runs import CPU, run_config


@pytest.mark.parametrize(("repeats", "gpus", "clips"), [(2, 4, 2), (4, 4, 2), (3, 3, 4), (2, 8, 1)])
def test_copies_share_a_step_and_no_group(repeats, gpus, clips):
    batch = gpus * clips
    order = sampling.epoch_order(0, 3, 100)
    rows = sampling.repeat_videos(order, repeats, batch).reshape(-1, gpus, clips)
    for step in rows:
        assert set(Counter(step.ravel().tolist()).values()) == {repeats}
        assert all(len(set(group.tolist())) == clips for group in step)
    videos = Counter(rows.ravel().tolist())
    assert set(videos.values()) == {repeats}  # none comes in two steps of an epoch
    assert np.array_equal(sampling.repeat_videos(order, 1, batch), order[: 100 // batch * batch])


def test_an_epoch_keeps_its_clips_and_balance(toy, tmp_path):
    config = run_config(toy, tmp_path / "run", "data.repeats=2", "data.sampling=balanced")
    trainer = Trainer(config, CPU)
    dataset = TrainDataset(trainer.train_index, config.data, config.seed)
    rows = dataset.order(0, trainer.plan.total_batch)
    assert trainer.steps_per_epoch == 6 and len(rows) == 48
    assert set(Counter(rows.tolist()).values()) == {2}
    labels = Counter(trainer.train_index.first_labels[rows].tolist())
    assert set(labels.values()) == {48 // 8}  # of eight classes
    assert len(dataset.order(0)) == 48  # of statistics, without repeats
    assert set(Counter(dataset.order(0).tolist()).values()) == {1}
    assert not np.array_equal(dataset.order(1, 8), rows)


def test_copies_are_cut_by_themselves_and_depend_on_their_place_alone(toy, tmp_path):
    """On one process or two, and from the middle of an epoch."""
    config = run_config(toy, tmp_path / "run", "data.repeats=2", "data.train.flip=true")
    trainer = Trainer(config, CPU)
    whole = list(islice(trainer.batches(), 8))  # of two steps, a group each
    rows = [batch.rows for batch in whole]
    assert (rows[0], rows[1]) == (rows[2], rows[3]) and rows[0] != rows[1]
    assert not torch.equal(whole[0].clips, whole[2].clips)
    trainer.progress.step = 1
    later = list(islice(trainer.batches(), 4))
    for rank in (0, 1):
        norm = config.model.norm.name
        trainer.plan = plan_batch(config.batch, norm, 2, rank, len(trainer.train_index))
        share = list(islice(trainer.batches(), 2))
        expected = whole[4 + 2 * rank : 6 + 2 * rank]
        for batch, again, one in zip(expected, later[2 * rank :], share, strict=False):
            assert torch.equal(batch.clips, one.clips) and torch.equal(batch.clips, again.clips)
            assert batch.augmentation == one.augmentation == again.augmentation


def test_repeats_that_do_not_fit(toy, tmp_path, caplog):
    config = run_config(toy, tmp_path / "run", "data.repeats=3")
    for refused in (lambda: Trainer(config, CPU), lambda: dry_run(config, timed_steps=0)):
        with pytest.raises(SnvideoError) as error:
            refused()
        assert "data.repeats=3 does not divide the 8 clips of a step" in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        (("model.norm.name=bn", "data.repeats=4"), False),
        (("model.norm.name=bn", "data.repeats=8"), True),
        (("model.norm.name=gn", "data.repeats=8"), False),
        (("model.norm.name=syncbn", "data.repeats=2"), True),
        (("model.norm.name=syncbn",), False),
    ],
)
def test_batch_statistics_of_copies_are_said(toy, tmp_path, caplog, options, warned):
    config = run_config(toy, tmp_path / "run", *options)
    check_repeats(config, plan_batch(config.batch, config.model.norm.name, 1, 0, 48))
    assert any("several clips of the same video" in line for line in caplog.messages) == warned
