from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.threat import Norm, ThreatModel
from rrm_transfer.data.images import MemoryImages
from rrm_transfer.evaluation.evaluator import Measurement
from rrm_transfer.evaluation.gallery import EXHIBITS, Gallery, make_gallery, read_gallery
from rrm_transfer.runtime.context import Context
from tests.data.fixtures import noise

CLASSES = 4


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 * 8 * 8, CLASSES)
        generator = torch.Generator().manual_seed(0)
        self.layer.weight.data.normal_(generator=generator)
        self.layer.bias.data.zero_()

    def forward(self, x: Tensor) -> Outputs:
        features = x.flatten(1) - 0.5
        return Outputs(self.layer(features), features)


def gallery_of(images: MemoryImages, norm: Norm = "Linf", eps: float = 0.1, steps: int = 5) -> Gallery:
    how = Measurement(8, batch_size=20, seed=3, context=Context.begin())
    attack = how.pgd(ThreatModel(norm, eps), steps=steps)
    return make_gallery(Linear(), images, attack, how, class_names=("ant", "bee", "cat", "dog"))


def some_images(count: int = 60) -> MemoryImages:
    pixels = torch.from_numpy(noise(count, 3, 8, 8))
    labels = Linear()(pixels / 255).logits.argmax(1)
    return MemoryImages(pixels=pixels, labels=labels)


@pytest.mark.parametrize(("norm", "eps"), [("Linf", 0.1), ("L2", 2.0)])
def test_attacked_images_stay_in_the_ball_and_fool_the_model(norm: Norm, eps: float) -> None:
    gallery = gallery_of(some_images(), norm, eps)
    assert len(gallery.x) == EXHIBITS
    assert float(gallery.threat.size(gallery.x_adv - gallery.x).max()) <= eps * (1 + 1e-5)
    assert 0 <= float(gallery.x_adv.min()) <= float(gallery.x_adv.max()) <= 1
    assert (gallery.logits.argmax(1) == gallery.labels).all()
    assert (gallery.logits_adv.argmax(1) != gallery.labels).all()


def test_images_are_the_first_of_each_class_in_the_order_of_classes() -> None:
    images = some_images()
    gallery = gallery_of(images)
    assert gallery.labels.tolist() == sorted(gallery.labels.tolist())
    counts = gallery.labels.bincount(minlength=CLASSES)
    assert int(counts.max() - counts.min()) <= 1
    for label in range(CLASSES):
        first = (images.labels == label).nonzero().flatten().tolist()
        shown = gallery.index[gallery.labels == label].tolist()
        assert shown == first[: len(shown)]
    assert torch.equal(gallery.x, images.pixels[gallery.index] / 255)


def test_an_image_that_is_wrong_without_attack_is_left_as_it_is() -> None:
    images = some_images(8)
    wrong = MemoryImages(pixels=images.pixels, labels=(images.labels + 1) % CLASSES)
    gallery = gallery_of(wrong)
    assert len(gallery.x) == 8
    assert torch.equal(gallery.x_adv, gallery.x)


def test_a_gallery_survives_its_file(tmp_path: Path) -> None:
    before = gallery_of(some_images(12))
    before.write(tmp_path / "gallery.safetensors")
    after = read_gallery(tmp_path / "gallery.safetensors")
    assert (after.threat, after.steps, after.restarts) == (before.threat, 5, 1)
    assert after.class_names == before.class_names
    for name in ("index", "labels", "x", "x_adv", "logits", "logits_adv"):
        assert torch.equal(getattr(after, name), getattr(before, name))
