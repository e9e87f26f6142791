"""A handful of test images with the perturbations that PGD finds for them, for people to look at."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rrm_transfer.attacks.ascent import frozen
from rrm_transfer.attacks.attack import Attack, Victims
from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import replacing_file
from rrm_transfer.core.threat import ThreatModel
from rrm_transfer.data.fit import choose_fit
from rrm_transfer.data.images import ImageSet
from rrm_transfer.data.loader import evaluation_batches
from rrm_transfer.evaluation.evaluator import Measurement, strict_float32

EXHIBITS = 10
_TENSORS = ("index", "labels", "x", "x_adv", "logits", "logits_adv")


@dataclass(frozen=True)
class Gallery:
    """Images, what the attack made of them, and what the model answered.

    Attributes:
        threat: Of the attack.
        steps: Of the attack.
        restarts: Of the attack.
        class_names: In the order of the logits, None where they are not known.
        index: Ids of the images in their split, ``(N,)`` int64.
        labels: True classes, ``(N,)`` int64.
        x: Pixels in [0, 1], ``(N, C, H, W)``.
        x_adv: The same under attack; equal to ``x`` where the model is wrong without any.
        logits: Of ``x``, ``(N, K)``.
        logits_adv: Of ``x_adv``, ``(N, K)``.
    """

    threat: ThreatModel
    steps: int
    restarts: int
    class_names: tuple[str, ...] | None
    index: Tensor
    labels: Tensor
    x: Tensor
    x_adv: Tensor
    logits: Tensor
    logits_adv: Tensor

    def write(self, path: Path) -> None:
        """Writes a safetensors file."""
        facts = {
            "threat": asdict(self.threat),
            "steps": self.steps,
            "restarts": self.restarts,
            "class_names": self.class_names,
        }
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        with replacing_file(path) as temporary:
            save_file(tensors, temporary, metadata={"gallery": json.dumps(facts)})


def read_gallery(path: Path) -> Gallery:
    """Reads what `Gallery.write` wrote.

    Raises:
        UserError: It is something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json(file.metadata()["gallery"])
            tensors = {name: file.get_tensor(name) for name in _TENSORS}
        threat, names = ThreatModel(**facts.pop("threat")), facts.pop("class_names")
        gallery = Gallery(threat=threat, class_names=names and tuple(names), **facts, **tensors)
        _require_consistent(gallery)
    except (AttributeError, LookupError, OSError, SafetensorError, TypeError, ValueError) as problem:
        raise UserError(f"Not the gallery of a run: {problem!r}", received=path) from None
    return gallery


def _require_consistent(gallery: Gallery) -> None:
    count, classes = gallery.logits.shape
    alike = gallery.x.shape == gallery.x_adv.shape and gallery.logits.shape == gallery.logits_adv.shape
    vectors = gallery.index.shape == gallery.labels.shape == (count,)
    if not (alike and vectors and len(gallery.x) == count and gallery.x.ndim == 4):
        raise ValueError("its tensors do not belong together")
    named = classes if gallery.class_names is None else len(gallery.class_names)
    if named != classes or not all(0 <= label < classes for label in gallery.labels.tolist()):
        raise ValueError("its labels are none of its classes")


def make_gallery(
    network: nn.Module,
    images: ImageSet,
    attack: Attack,
    measurement: Measurement,
    *,
    class_names: tuple[str, ...] | None,
) -> Gallery:
    """Attacks the first images of each class, ``EXHIBITS`` in all.

    Args:
        network: Maps pixels in [0, 1] to ``Outputs``; moved to the device.
        images: To choose from.
        attack: Of one stage, within a ball; its random starts are those of the measured one.
        measurement: How it is measured.
        class_names: In the order of the logits.

    Returns:
        The images in the order of their classes, on the CPU.
    """
    device = measurement.context.runtime.device
    network = network.to(device).eval()

    def logits(x: Tensor) -> Tensor:
        result: Tensor = network(x).logits
        return result

    few = images.balanced(EXHIBITS)
    few = few.select(few.labels.argsort(stable=True))
    fit = choose_fit(few.size, measurement.image_size)
    batch = next(iter(evaluation_batches(few, fit=fit, batch_size=EXHIBITS, device=device)))
    victims = Victims(batch.index, batch.x, batch.y)
    [stage] = attack.stages
    with strict_float32(device), frozen(network):
        x_adv = stage.perturb(logits, victims)
        with torch.no_grad():
            tensors = (victims.index, victims.y, victims.x, x_adv, logits(victims.x), logits(x_adv))
    on_cpu = {name: tensor.cpu() for name, tensor in zip(_TENSORS, tensors, strict=True)}
    return Gallery(
        threat=cast(ThreatModel, attack.threat),
        steps=cast(int, attack.steps),
        restarts=cast(int, attack.restarts),
        class_names=class_names,
        **on_cpu,
    )
