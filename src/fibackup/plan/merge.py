"""
Which images of a point are merged: those whose data is not much more than what lies on them.

::

    images, top first    10 <- 12 <- 80 <- 1000 GiB
                         `-----------'                12 <= 4 * 10, 80 <= 4 * 22: one of 102
                                          `--'        1000 > 4 * 102: it stays as it is for now

To merge an increment into an image of a hundred times its size would write or read that image for
each point that is dropped. So an image waits until what lies on it has grown to a quarter of it;
each byte of a dropped point is then written a few times, however large the disk is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fibackup.model.point import History, RestorePoint, StoredImage
from fibackup.model.tree import trees_of
from fibackup.plan.forest import Forest, grounded_images
from fibackup.plan.prune_steps import MergeImages

__all__ = ["MAX_OWN", "PATIENCE", "plan_merges"]

PATIENCE = 4
"""An image is merged with what lies on it when it has at most so many times its size."""

MAX_OWN = 60
"""Images of one point, of one disk, at most; what is more is merged whatever its size."""


def plan_merges(
    history: History,
    points: Sequence[RestorePoint],
    woods: Mapping[str, Forest],
    live: Mapping[str, frozenset[str]],
    *,
    in_use: frozenset[str] = frozenset(),
    wait_seconds: float,
) -> tuple[MergeImages, ...]:
    """
    Return the merges that are due.

    Args:
        history: What the store holds; of its points only what is damaged or wrong counts.
        points: The points as they are after the drops, by sequence.
        woods: The forest of each disk, of *points*.
        live: Names of images, per disk, that the live chain may sit on: they stay as they are, or
            the next point could not be proven to be an increment.
        in_use: ``"vda/20261124T040407Z.qcow2"``: images that a process has open. None of them is
            merged into another; one that others are merged into keeps its content and its name.
        wait_seconds: How long each waits for those who read.
    """
    above = {
        target: forest.above([point.id for point in points]) for target, forest in woods.items()
    }
    wrong = history.distrusted
    merges = tuple(
        MergeImages(
            target=disk.target,
            point=point.id,
            images=run,
            write_bytes=sum(image.size_bytes for image in run),
            read_bytes=2 * sum(image.size_bytes for image in run),
            wait_seconds=wait_seconds,
        )
        for point in points
        for disk in point.disks
        for run in _runs(
            point.id,
            _free(disk.images, live.get(disk.target, frozenset())),
            above[disk.target],
            frozenset(
                image.name for image in disk.images if f"{disk.target}/{image.name}" in in_use
            ),
        )
        if _can_be_merged(disk.target, run, woods[disk.target], wrong)
    )
    grounded = _grounded(history) if merges else frozenset[str]()
    return tuple(each for each in merges if f"{each.target}/{each.images[0].name}" in grounded)


def _grounded(history: History) -> frozenset[str]:
    """Return the images that reach a base through images that are there; no other can be read."""
    return frozenset(
        f"{target}/{name}"
        for target, tree in trees_of(history).items()
        for name in grounded_images(target, tree, history.damaged)
    )


def _free(images: tuple[StoredImage, ...], live: frozenset[str]) -> tuple[StoredImage, ...]:
    """Return the images that may be written anew."""
    return images[1:] if images and images[0].name in live else images


def _runs(
    point: str,
    images: tuple[StoredImage, ...],
    above: Mapping[str, set[str]],
    in_use: frozenset[str],
) -> Iterator[tuple[StoredImage, ...]]:
    """Yield runs of images, top first, that are not too different in size."""
    start = 0
    while start < len(images):
        length, size = 1, images[start].size_bytes
        for image in images[start + 1 :]:
            rest = len(images) - start - length
            if len(above[image.name]) > 1 or image.name in in_use:
                break
            if image.size_bytes > PATIENCE * size and rest < MAX_OWN:
                break
            length += 1
            size += image.size_bytes
        run = images[start : start + length]
        if length > 1 and not all(image.name.startswith(point) for image in run):
            yield run
        start += length


def _can_be_merged(
    target: str, run: tuple[StoredImage, ...], forest: Forest, wrong: frozenset[str]
) -> bool:
    """Tell whether the files are there, and the end of none shows through."""
    under = forest.images.get(run[-1].backing or "")
    sizes = {image.virtual_size_bytes for image in (*run, *((under,) if under else ()))}
    return len(sizes) == 1 and not any(f"{target}/{image.name}" in wrong for image in run)
