"""The batch geometry: who passes which clips, and what cannot be honoured."""

import pytest

from snvideo.engine.batch_plan import BatchPlan, plan_batch
from snvideo.engine.config import BatchConfig
from snvideo.errors import SnvideoError


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_groups_depend_on_the_experiment_alone(processes):
    """However many processes play it, each step has the same groups of the same clips."""
    alone = [list(p) for _, p in BatchPlan(8, 3).run(videos=100, steps=8)]
    shared = {rank: list(BatchPlan(8, 3, processes, rank).run(100, 8)) for rank in range(processes)}
    passes = 8 // processes
    together = []
    for step in range(2 * (100 // 24)):
        for rank in range(processes):
            together += [list(p) for _, p in shared[rank][step * passes : (step + 1) * passes]]
    assert together == alone
    first_epoch = [position for group in alone[:32] for position in group]
    assert first_epoch == list(range(96))


def test_a_run_goes_on_where_it_was_left():
    plan = BatchPlan(4, 2, 2, 1)
    whole = list(plan.run(videos=41, steps=15))
    assert list(plan.run(41, 15, done=7)) == whole[7 * plan.passes :]
    assert len(whole) == 3 * (41 // 8) * 2
    assert {epoch for epoch, _ in whole} == {0, 1, 2}
    assert list(plan.run(41, 12)) == whole[: 12 * plan.passes]  # ends inside an epoch
    assert list(plan.run(41, 3)) == whole[: 3 * plan.passes]


def test_synchronised_norms_take_the_whole_batch():
    plan = plan_batch(BatchConfig(gpus=8, clips_per_gpu=4), "syncbn", 1, 0, videos=100)
    assert plan.passes == 1 and len(plan.positions(0, 0)) == 32
    pair = plan_batch(BatchConfig(gpus=8, clips_per_gpu=4), "syncbn", 2, 1, videos=100)
    assert pair.passes == 1 and list(pair.positions(0, 1)) == list(range(16, 32))


@pytest.mark.parametrize(
    ("norm", "processes", "videos", "message"),
    [
        ("bn", 3, 100, "batch.gpus 8 does not divide among 3 processes: start 1, 2, 4, 8"),
        ("syncbn", 5, 100, "batch 8 x 4 does not divide among 5 processes"),
        ("sn", 1, 31, "31 videos, less than one batch of 8 x 4 = 32"),
    ],
)
def test_what_cannot_be_honoured_is_refused(norm, processes, videos, message):
    with pytest.raises(SnvideoError) as error:
        plan_batch(BatchConfig(gpus=8, clips_per_gpu=4), norm, processes, 0, videos)
    assert message in str(error.value)


@pytest.mark.parametrize("norm", ["gn", "sn", "bn"])
def test_groups_share_passes(norm):
    """Same clips in the same order, in as few passes as divide the groups evenly."""
    batch = BatchConfig(gpus=8, clips_per_gpu=1, gpus_per_pass=6)
    one_by_one = [p for _, positions in BatchPlan(8, 1).run(20, 4) for p in positions]
    plan = plan_batch(batch, norm, 1, 0, videos=20)
    assert plan.passes == len(plan.groups()) == 4
    assert [p for _, positions in plan.run(20, 4) for p in positions] == one_by_one
    pair = BatchConfig(gpus=4, clips_per_gpu=2, gpus_per_pass=4)
    second = plan_batch(pair, norm, 2, 1, videos=20)
    assert list(second.run(20, 2)) == [(0, range(4, 8)), (0, range(12, 16))]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("packed", [1, 2])
def test_passes_for_statistics_hold_whole_groups_once_each(processes, packed):
    shares = [BatchPlan(6, 4, processes, rank, packed) for rank in range(processes)]
    for wanted, groups in ((5, 5), (11, 11), (200, 12)):
        passes = [positions for share in shares for positions in share.statistics(50, wanted)]
        assert all(len(positions) % 4 == 0 for positions in passes)
        assert sorted(p for positions in passes for p in positions) == list(range(4 * groups))


def test_statistics_of_a_joint_group_have_a_part_for_every_process():
    joint = [BatchPlan(3, 4, 3, rank, joint=True).statistics(50, 11) for rank in range(3)]
    assert [len(share) for share in joint] == [4, 4, 4]  # 12 parts are 4 joint groups of 48 clips
