"""Batches for training and evaluation: which images, in which order, on which process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rrm_transfer.core.devices import indexed, send
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.randomness import Randomness
from rrm_transfer.data.augment import Augmentation, Draws
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.framing import Frame, Reader
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.joined import JoinedImages
from rrm_transfer.data.mixing import Mixing, shuffled


class Batch(NamedTuple):
    """Some images.

    Attributes:
        index: Stable ids, ``(B,)`` int64; see ``ImageSet.index``.
        x: Pixels in [0, 1], ``(B, C, H, W)`` float32.
        y: Class indices, ``(B,)`` int64; they mean nothing where ``label_weight`` is 0.
        label_weight: How much each label counts, ``(B,)`` float32: 0 for an image that has none, and for the
            others such that the mean over the global batch is that over its labelled images.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    x: Tensor
    y: Tensor
    label_weight: Tensor


AHEAD = 64
"""Batches whose random numbers are drawn, and whose labels are sent, together: a launch costs what it costs,
and these are small."""


class _Facts(NamedTuple):
    """Of a batch: all but its pixels, and the numbers that its augmentation takes."""

    index: Tensor  # type: ignore[assignment]  # as in Batch
    y: Tensor
    label_weight: Tensor
    draws: Draws


class TrainingLoader:
    """Shuffled, augmented global batches, of which each process gets its part.

    The order depends on (seed, epoch) only, an image's augmentation on (seed, view, its id) only. Any
    number of processes therefore trains on the same global batches, and an epoch that starts at a later
    step continues as if it had never been interrupted.

    Args:
        images: What to train on.
        fit: Brings them to the network's input size.
        augmentation: Random changes.
        global_batch_size: Images per step over all processes.
        seed: Of order and augmentation.
        rank: This process's number.
        world: How many processes there are.
        device: Where batches are made or moved to.
        workers: Processes that decode, for images not in memory.
        extra: Images that take a fixed share of each batch beside ``images``.
        views: How many augmented versions of each image there are: the epochs take them in turn. None: every
            epoch has its own.
        view_seed: Of the augmentation, where it is not ``seed``.

    Attributes:
        images: All that is trained on, the labelled ones first.
        device: Where batches are made or moved to.
        global_batch_size: Images per step over all processes.
        steps_per_epoch: Whole global batches of labelled images, whether or not there are others beside them;
            what is left over is dropped.

    Raises:
        UserError: The set is smaller than one batch, the batch cannot be shared out evenly, or fit or
            augmentation do not suit the images.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        fit: Fit,
        augmentation: Augmentation,
        global_batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str,
        workers: int = 0,
        extra: Extra | None = None,
        views: int | None = None,
        view_seed: int | None = None,
    ) -> None:
        if global_batch_size < 1 or global_batch_size % world:
            raise UserError(
                "The global batch size must be positive and a multiple of the number of processes.",
                received=f"{global_batch_size} for {world} process(es)",
            )
        if len(images) < global_batch_size:
            raise UserError(
                "There are fewer training images than one global batch holds.",
                received=f"{len(images):,} images, batches of {global_batch_size:,}",
                hint=f"lower train.global_batch_size to {len(images)} or less" if len(images) else None,
            )
        if augmentation.lighting and images.channels != 3:
            raise UserError("Augmentation: lighting needs colour images.", received=images.description)
        if images.size is not None and not augmentation.random_resized_crop:
            fit.box(*images.size)
        self.images = JoinedImages([images] if extra is None else [images, *extra.sets])
        self._mixing = None
        self._label_weights = torch.ones(len(self.images))
        if extra is not None:
            self._mixing = Mixing(
                len(images),
                len(self.images) - len(images),
                batch_size=global_batch_size,
                share=extra.share,
                seed=seed,
            )
            if not extra.labelled:
                self._label_weights[: len(images)] = self._mixing.label_weight
                self._label_weights[len(images) :] = 0.0
        self.fit = fit
        self.augmentation = augmentation
        self.seed = seed
        self.views = views
        self.view_seed = seed if view_seed is None else view_seed
        self.steps_per_epoch = len(images) // global_batch_size
        self.global_batch_size = global_batch_size
        share = global_batch_size // world
        self._part = slice(rank * share, (rank + 1) * share)
        self.device = indexed(device)
        self._workers = workers
        self._readers = self.images.readers(device=self.device, workers=workers)

    @property
    def prefetched(self) -> int:
        """Batches that other processes decode ahead; 0 where batches are made when they are asked for."""
        return self.images.prefetched(self._workers)

    @property
    def overlaps(self) -> bool:
        """Whether other processes decode while this one works."""
        return self.prefetched > 0

    @property
    def description(self) -> str:
        """One line to print: ``10,000 training images, 28x28 grey, padded to 32x32, crop 4 + flip``."""
        own, *others = self.images.sets
        words = [f"{len(own):,} training images", own.description]
        if not self.augmentation.random_resized_crop:
            words += [str(self.fit)] * (self.fit.rule != "none")
        else:
            words.append(f"to {self.fit.size}x{self.fit.size}")
        if self._mixing is not None:
            shared = f"{self._mixing.extra_per_batch:,} of each {self.global_batch_size:,}"
            words.append(f"{shared} from {sum(map(len, others)):,} extra images")
        return ", ".join([*words, str(self.augmentation)])

    def epoch(self, epoch: int, *, first_step: int = 0, view: int | None = None) -> Iterator[Batch]:
        """Yields this process's part of each global batch.

        Args:
            epoch: Keys the order.
            first_step: Where to start, for a run that was interrupted within the epoch.
            view: Keys the augmentation; the epoch's own if None.
        """
        return self.batches(self.parts(epoch, first_step), view=self.view(epoch) if view is None else view)

    def view(self, epoch: int) -> int:
        """Returns which augmented version of the images an epoch takes."""
        return epoch if self.views is None else epoch % self.views

    def parts(self, epoch: int, first_step: int = 0) -> list[Tensor]:
        """Returns the positions in the set of this process's part of each global batch, on the CPU."""
        steps, size = range(first_step, self.steps_per_epoch), self.global_batch_size
        if self._mixing is not None:
            begun = epoch * self.steps_per_epoch
            return [self._mixing.batch(begun + step)[self._part] for step in steps]
        order = shuffled(len(self.images), self.seed, epoch)
        return [order[step * size : (step + 1) * size][self._part] for step in steps]

    def batches(self, parts: Sequence[Tensor], *, view: int) -> Iterator[Batch]:
        """Yields the images at given positions, augmented; an image's pixels do not depend on its batch.

        Args:
            parts: Positions in the set, one tensor ``(B,)`` for each batch.
            view: Keys the augmentation.
        """
        frame = Frame(self.fit, self.augmentation.random_resized_crop, self.view_seed, view)
        fitted = self.images.fitted(parts, frame, readers=self._readers)
        for part, facts, (positions, pixels) in zip(parts, self._ahead(parts, view), fitted, strict=True):
            if not torch.equal(part, positions):  # an image could not be read, another took its place
                [facts] = self._facts([positions], view)  # noqa: PLW2901
            x = self.augmentation.apply(pixels, facts.draws)
            yield Batch(facts.index, x, facts.y, facts.label_weight)

    def _ahead(self, parts: Sequence[Tensor], view: int) -> Iterator[_Facts]:
        for start in range(0, len(parts), AHEAD):
            yield from self._facts(parts[start : start + AHEAD], view)

    def _facts(self, parts: Sequence[Tensor], view: int) -> list[_Facts]:
        """Returns what there is to know of several batches beside their pixels, all at once."""
        positions, sizes = torch.cat(list(parts)), [len(part) for part in parts]
        known = (self.images.index, self.images.labels, self._label_weights)
        index, y, label_weight = (send(values[positions], self.device) for values in known)
        drawn = self.augmentation.draw(Randomness(self.view_seed, view, index))
        columns = [torch.split(values, sizes) for values in (index, y, label_weight, *drawn.values())]
        return [
            _Facts(index, y, label_weight, dict(zip(drawn, draws, strict=True)))
            for index, y, label_weight, *draws in zip(*columns, strict=True)
        ]


class EvaluationLoader:
    """Batches to evaluate on: fitted, not augmented.

    Args:
        images: What to evaluate on.
        fit: Brings them to the network's input size.
        device: Where batches are made or moved to.
        workers: Processes that decode, for images not in memory.
        substitute: Whether the next image takes the place of one that cannot be read, as in training.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        fit: Fit,
        device: torch.device | str,
        workers: int = 0,
        substitute: bool = False,
    ) -> None:
        self._images = images
        self._frame = Frame(fit)
        self._device = indexed(device)
        self._reader = Reader(images, device=self._device, workers=workers, substitute=substitute)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Yields the images at given positions, one tensor ``(B,)`` for each batch.

        Raises:
            UserError: An image is broken or does not suit the rule.
        """
        for positions, pixels in self._reader.batches(parts, self._frame):
            known = (self._images.index, self._images.labels)
            index, y = (values[positions].to(self._device) for values in known)
            yield Batch(index, pixels.float().div_(255), y, torch.ones(len(y), device=self._device))


def evaluation_batches(
    images: ImageSet,
    *,
    fit: Fit,
    batch_size: int,
    device: torch.device | str,
    workers: int = 0,
    substitute: bool = False,
) -> Iterator[Batch]:
    """Yields all images in order; the last batch may be smaller. See ``EvaluationLoader``."""
    loader = EvaluationLoader(images, fit=fit, device=device, workers=workers, substitute=substitute)
    return loader.batches(torch.split(torch.arange(len(images)), batch_size) if len(images) else [])
