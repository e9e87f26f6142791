"""Labelled images, whole in memory or decoded on access, and the data set that they make up."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from rrm_transfer.core.devices import spare_bytes
from rrm_transfer.core.errors import UserError
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.encoded import EncodedImages


class ImageSet(ABC):
    """One part of a data set.

    Attributes:
        labels: Class indices, ``(N,)`` int64.
        index: Stable ids, ``(N,)`` int64: each image's position in its source's part. ``select`` keeps
            them, so whatever is derived from an id does not change with the selection.
        channels: 1 (grey) or 3 (colour).
        size: Native (height, width), None where images differ.
    """

    def __init__(
        self, *, labels: Tensor, index: Tensor | None, channels: int, size: tuple[int, int] | None
    ) -> None:
        self.labels = labels
        self.index = torch.arange(len(labels)) if index is None else index
        self.channels = channels
        self.size = size

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def select(self, positions: Sequence[int] | Tensor) -> Self:
        """Returns the images at ``positions`` of this set, in that order, with their ids."""

    def balanced(self, count: int | None, *, skip: int = 0) -> Self:
        """Returns ``count`` images, the first ones of each class, in their own order.

        Samples of growing size are nested, so figures can be taken on images that chose nothing: those that
        are left when the sample that chose is skipped.

        Args:
            count: None: all that are left; all of them where nothing is skipped is the set itself.
            skip: Leaves out the sample of this size.

        Raises:
            UserError: Nothing is left.
        """
        if not skip and (count is None or count >= len(self)):
            return self
        if skip >= len(self):
            raise UserError(
                "No image is left.", received=f"{skip} skipped", allowed=f"fewer than there are: {len(self)}"
            )
        # The n-th image of every class comes before the (n+1)-th of any.
        occurrence = torch.zeros_like(self.labels)
        for value in set(self.labels.tolist()):
            members = (self.labels == value).nonzero().flatten()
            occurrence[members] = torch.arange(len(members))
        end = None if count is None else skip + count
        chosen = torch.argsort(occurrence, stable=True)[skip:end]
        return self.select(chosen.sort().values)

    def positions_of(self, chosen: ImageSet) -> list[int] | None:
        """Returns where in this set the images of a selection of it are; None for the set itself."""
        if chosen is self:
            return None
        place = {identity: position for position, identity in enumerate(self.index.tolist())}
        return [place[identity] for identity in chosen.index.tolist()]

    @abstractmethod
    def _hash_content(self, digest: hashlib._Hash) -> None:
        """Feeds what identifies the images, other than labels and ids."""

    @cached_property
    def fingerprint(self) -> str:
        """The identity of content, labels and selection: 64 hexadecimal digits."""
        digest = hashlib.sha256(f"{self.channels} {self.size} {len(self)}".encode())
        self._hash_content(digest)
        digest.update(self.labels.numpy().data)
        digest.update(self.index.numpy().data)
        return digest.hexdigest()

    @property
    def description(self) -> str:
        """Size and colour, such as ``28x28 grey``."""
        size = "mixed sizes," if self.size is None else f"{self.size[0]}x{self.size[1]}"
        return f"{size} {'grey' if self.channels == 1 else 'colour'}"


class MemoryImages(ImageSet):
    """Images of one size, decoded once.

    Args:
        pixels: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64.
        index: ``(N,)`` int64; None where the set is a whole part of its source.
        identity: Changes with the pixels of the whole part; None: the pixels themselves tell.
    """

    def __init__(
        self, *, pixels: Tensor, labels: Tensor, index: Tensor | None = None, identity: str | None = None
    ) -> None:
        _, channels, height, width = pixels.shape
        super().__init__(labels=labels, index=index, channels=channels, size=(height, width))
        self.pixels = pixels
        self._identity = identity
        self._resident: Tensor | None = None

    def select(self, positions: Sequence[int] | Tensor) -> Self:
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        return type(self)(
            pixels=self.pixels[chosen],
            labels=self.labels[chosen],
            index=self.index[chosen],
            identity=self._identity,
        )

    def pixels_for(self, device: torch.device) -> Tensor:
        """Returns all pixels, on ``device`` where there is room for them; they move there once."""
        if self._resident is None or self._resident.device != device:
            if self.pixels.nbytes > spare_bytes(device):
                return self.pixels
            self._resident = self.pixels.to(device)
        return self._resident

    def _hash_content(self, digest: hashlib._Hash) -> None:
        digest.update(self.pixels.numpy().data if self._identity is None else self._identity.encode())


class LazyImages(ImageSet):
    """Images decoded on access, for sets that are large or of many sizes.

    Args:
        encoded: The files of the source's whole part; ``index`` points into it.
        labels: ``(N,)`` int64.
        index: ``(N,)`` int64; None where the set is a whole part of its source.
        channels: 1 or 3.
        size: Native (height, width), None where images differ.
        broken: Counts those that cannot be read.
    """

    def __init__(
        self,
        *,
        encoded: EncodedImages,
        labels: Tensor,
        index: Tensor | None = None,
        channels: int,
        size: tuple[int, int] | None,
        broken: BrokenImages | None = None,
    ) -> None:
        super().__init__(labels=labels, index=index, channels=channels, size=size)
        self.encoded = encoded
        self.broken = BrokenImages() if broken is None else broken

    def select(self, positions: Sequence[int] | Tensor) -> Self:
        chosen = torch.as_tensor(positions, dtype=torch.int64)
        return type(self)(
            encoded=self.encoded,
            labels=self.labels[chosen],
            index=self.index[chosen],
            channels=self.channels,
            size=self.size,
            broken=self.broken,
        )

    def _hash_content(self, digest: hashlib._Hash) -> None:
        digest.update(self.encoded.identity.encode())


@dataclass(frozen=True)
class DataSet:
    """A labelled image data set.

    Attributes:
        name: Short, for file names and tables.
        train: May be empty where a source holds only images to evaluate on.
        held_out: Cut from the source's training part, for selection; None where none was asked for.
        test: Never trained on, never selected on.
        class_names: In the order of the class indices, None where the source does not tell.
        num_classes: One more than the largest class index allowed.
        channels: 1 or 3.
        license: As the source states it.
        source: Where the images came from.
        label_groups: The source's own classes that make up each class, where a label map was applied.
        notes: Every choice that was made for the user, to be printed and recorded.
    """

    name: str
    train: ImageSet
    held_out: ImageSet | None
    test: ImageSet
    class_names: tuple[str, ...] | None
    num_classes: int
    channels: int
    license: str | None
    source: str
    label_groups: tuple[tuple[int, ...], ...] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def identity(self) -> dict[str, str]:
        """What tells the images from others, by which a resumed run knows that they are the same."""
        parts = {"training_images": self.train, "test_images": self.test}
        return {name: f"{len(part):,}, {part.fingerprint[:16]}" for name, part in parts.items()}

    @property
    def description(self) -> str:
        """One line, such as ``mnist: 60,000 training and 10,000 test images, 28x28 grey, 10 classes``."""
        held_out = "" if self.held_out is None else f", {len(self.held_out):,} held-out"
        return (
            f"{self.name}: {len(self.train):,} training{held_out} and {len(self.test):,} test images, "
            f"{self.test.description}, {self.num_classes} classes"
        )
