"""Batch plan: an experiment's (gpus, clips per gpu) on any number of processes."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

from snvideo.engine.config import BatchConfig, RunConfig
from snvideo.errors import SnvideoError
from snvideo.models.config import NormConfig

log = logging.getLogger(__name__)

SYNCHRONISED = frozenset({"syncsn", "syncbn"})  # norms whose batch statistics span the whole batch


def depends_on_split(norm: NormConfig, mixes: bool) -> bool:
    """True if it matters to training how a total batch is split into gpus x clips_per_gpu.

    Order, augmentation, dropout masks, learning rate and number of steps depend on the total batch
    alone. So only batch statistics that are taken over the clips of one GPU see the split, and
    mixing, whose partners are clips of one GPU. All else comes to the same up to rounding, and to
    the bit where as many clips share a pass.
    """
    groups_matter = norm.name not in SYNCHRONISED and norm.uses_batch_statistics(2)
    return groups_matter or mixes


@dataclass(frozen=True)
class BatchPlan:
    """Assignment of clips to groups, and of groups to the passes of processes.

    An experiment (gpus, clips_per_gpu) averages gradients over gpus x clips_per_gpu clips and takes
    batch statistics over groups of clips_per_gpu. Each of W processes takes gpus / W groups, in one
    pass, as ghost groups of one batch, or in several, accumulating gradients. The clips of a group
    depend on the experiment alone.
    """

    gpus: int
    clips_per_gpu: int
    processes: int = 1
    rank: int = 0
    groups_per_pass: int = 1
    joint: bool = False
    """True if the passes of all processes are one group, of a synchronised norm."""

    @property
    def total_batch(self) -> int:
        """Clips in one optimizer step, over all processes."""
        return self.gpus * self.clips_per_gpu

    @property
    def passes(self) -> int:
        """Forward and backward passes of this process in one optimizer step."""
        return self.gpus // self.processes // self.groups_per_pass

    def steps(self, videos: int) -> int:
        """Optimizer steps in an epoch; the remainder of the order is left out."""
        return videos // self.total_batch

    def groups(self) -> range:
        """The first group of each pass of this process in one optimizer step."""
        share = self.gpus // self.processes
        return range(self.rank * share, (self.rank + 1) * share, self.groups_per_pass)

    def positions(self, step: int, group: int) -> range:
        """Positions in the epoch's order of the clips of the pass that begins with a group."""
        first = step * self.total_batch + group * self.clips_per_gpu
        return range(first, first + self.groups_per_pass * self.clips_per_gpu)

    def run(self, videos: int, steps: int, done: int = 0) -> Iterator[tuple[int, range]]:
        """Epoch and positions of every pass of this process in a run of so many optimizer steps,
        from step `done` on."""
        per_epoch = self.steps(videos)
        for step in range(done, steps):
            epoch, step_in_epoch = divmod(step, per_epoch)
            for group in self.groups():
                yield epoch, self.positions(step_in_epoch, group)

    def statistics(self, videos: int, groups: int) -> list[range]:
        """This process's passes over the first `groups` groups of an epoch, at most all of them."""
        # A joint group has a part for every process.
        parts = self.processes if self.joint else 1
        groups = parts * min(groups, videos // self.clips_per_gpu // parts)
        size, clips = self.groups_per_pass, self.clips_per_gpu
        return [
            range(group * clips, min(group + size, groups) * clips)
            for group in range(self.rank * size, groups, self.processes * size)
        ]


def plan_batch(batch: BatchConfig, norm: str, processes: int, rank: int, videos: int) -> BatchPlan:
    """Plan the batches of a run on so many training videos.

    A synchronised norm takes the whole batch as one group. Raises SnvideoError if the processes do
    not divide the groups or clips, or if an epoch has no full batch.
    """
    gpus, clips = batch.gpus, batch.clips_per_gpu
    if norm in SYNCHRONISED:
        # All processes together see the batch in one pass: as many groups as processes.
        if (gpus * clips) % processes:
            raise SnvideoError(
                f"batch {gpus} x {clips} does not divide among {processes} processes: "
                "start as many as divide the number of clips"
            )
        gpus, clips = processes, gpus * clips // processes
    if gpus % processes:
        divisors = ", ".join(str(n) for n in range(1, gpus + 1) if gpus % n == 0)
        raise SnvideoError(
            f"batch.gpus {gpus} does not divide among {processes} processes: start {divisors}"
        )
    share = gpus // processes
    packed = gcd(share, min(share, batch.gpus_per_pass))
    plan = BatchPlan(gpus, clips, processes, rank, packed, norm in SYNCHRONISED)
    if not plan.steps(videos):
        raise SnvideoError(
            f"the training split has {videos} videos, less than one batch of "
            f"{batch.gpus} x {batch.clips_per_gpu} = {plan.total_batch}: "
            "make batch.gpus or batch.clips_per_gpu smaller"
        )
    return plan


def check_mixing(config: RunConfig, plan: BatchPlan) -> None:
    """Raise SnvideoError if mixup and CutMix find no partners within the experiment's groups."""
    view, group = config.data.train, config.batch.clips_per_gpu
    if not view.mixes:
        return
    if group == 1:
        raise SnvideoError(
            "data.train.mixup and cutmix mix clips of one GPU, and batch.clips_per_gpu is 1: "
            "set both to 0, or give each GPU more clips"
        )
    if plan.clips_per_gpu % group:
        raise SnvideoError(
            f"data.train.mixup and cutmix mix {group} clips (batch.clips_per_gpu), and each of "
            f"{plan.processes} processes has {plan.clips_per_gpu}: start fewer processes"
        )


def check_repeats(config: RunConfig, plan: BatchPlan) -> None:
    """Raise SnvideoError if a step does not hold whole sets of clips of a video; warn where copies
    share batch statistics."""
    repeats, batch = config.data.repeats, config.batch
    if plan.total_batch % repeats:
        raise SnvideoError(
            f"data.repeats={repeats} does not divide the {plan.total_batch} clips of a step "
            "(batch.gpus x batch.clips_per_gpu): choose a divisor"
        )
    norm, clips = config.model.norm, batch.clips_per_gpu
    together = repeats > 1 and norm.name in SYNCHRONISED
    if together or (repeats > batch.gpus and norm.uses_batch_statistics(clips)):
        log.warning(
            f"data.repeats={repeats}: batch statistics of {norm.name} are taken over several clips "
            "of the same video; repeats of at most batch.gpus, and no synchronised norm, avoid that"
        )
