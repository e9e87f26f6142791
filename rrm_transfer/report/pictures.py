"""The gallery's images as PNG within the page."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image
from torch import Tensor

from rrm_transfer.evaluation.gallery import Gallery

LARGEST_MAGNIFIED = 96
"""Side in pixels up to which images are shown with their pixels as squares."""


@dataclass(frozen=True)
class Answer:
    """What the network said of an image: the class and its softmax probability."""

    name: str
    confidence: float
    correct: bool


@dataclass(frozen=True)
class Exhibit:
    """One image of the gallery; pictures are data URIs.

    Attributes:
        number: Of the image in its split.
        label: The true class.
        image: Without attack.
        perturbation: Magnified around grey.
        attacked: With the perturbation.
        before: The answer without attack.
        after: The answer under attack.
        outcome: ``holds``, ``fooled``, or ``wrong before`` any attack.
    """

    number: int
    label: str
    image: str
    perturbation: str
    attacked: str
    before: Answer
    after: Answer
    outcome: Literal["holds", "fooled", "wrong before"]


@dataclass(frozen=True)
class Exhibition:
    """The gallery, ready to be shown.

    Attributes:
        exhibits: In the gallery's order.
        factor: By which perturbations are magnified.
        side: Of the images in pixels.
    """

    exhibits: list[Exhibit]
    factor: int
    side: int

    @property
    def magnified(self) -> bool:
        return self.side <= LARGEST_MAGNIFIED


def exhibition(gallery: Gallery) -> Exhibition:
    """Makes the pictures of a gallery."""
    delta = gallery.x_adv - gallery.x
    largest = float(delta.abs().max())
    factor = max(1, math.floor(0.5 / largest)) if largest else 1
    exhibits = []
    for number in range(len(gallery.x)):
        label = int(gallery.labels[number])
        before, after = (
            _answer(gallery, logits[number], label) for logits in (gallery.logits, gallery.logits_adv)
        )
        exhibits.append(
            Exhibit(
                number=int(gallery.index[number]),
                label=_class_name(gallery, label),
                image=png(gallery.x[number]),
                perturbation=png(0.5 + factor * delta[number]),
                attacked=png(gallery.x_adv[number]),
                before=before,
                after=after,
                outcome="wrong before" if not before.correct else "holds" if after.correct else "fooled",
            )
        )
    return Exhibition(exhibits, factor, gallery.x.shape[-1])


def png(pixels: Tensor) -> str:
    """Writes pixels in [0, 1], ``(C, H, W)`` with one or three channels, as a data URI."""
    values = (pixels * 255).round().clamp(0, 255).byte()
    array = values[0] if len(values) == 1 else values.permute(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(array.numpy()).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _answer(gallery: Gallery, logits: Tensor, label: int) -> Answer:
    confidence, predicted = logits.softmax(0).max(0)
    return Answer(_class_name(gallery, int(predicted)), float(confidence), int(predicted) == label)


def _class_name(gallery: Gallery, number: int) -> str:
    return f"class {number}" if gallery.class_names is None else gallery.class_names[number]
