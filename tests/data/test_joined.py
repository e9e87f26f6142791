from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.extra import Extra
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.framing import Frame
from rrm_transfer.data.images import ImageSet, LazyImages
from rrm_transfer.data.joined import ID_STRIDE, JoinedImages, in_channels
from rrm_transfer.data.loader import Batch, TrainingLoader
from tests.data.fixtures import file_images, memory_images, noise, write_class_folders

CPU = torch.device("cpu")
CROP = Augmentation(random_resized_crop=(0.3, 1.0), flip=True)


@pytest.fixture(scope="module")
def lazy(tmp_path_factory: pytest.TempPathFactory) -> LazyImages:
    folder = write_class_folders(tmp_path_factory.mktemp("images"), count=10, size=(40, 50))
    files = sorted(folder.rglob("*.png"))
    return LazyImages(
        encoded=file_images(folder, files), labels=torch.zeros(20, dtype=torch.int64), channels=3, size=None
    )


def loader(
    extra: ImageSet, *, share: float = 0.5, labelled: bool = False, **changes: object
) -> TrainingLoader:
    settings: dict[str, object] = {
        "fit": Fit("none", 32),
        "augmentation": Augmentation(crop_padding=4, flip=True, jitter=0.2),
        "global_batch_size": 8,
        "seed": 5,
        "device": "cpu",
    }
    return TrainingLoader(
        memory_images(channels=1),
        extra=Extra((extra,), share, labelled),
        **(settings | changes),  # type: ignore[arg-type]
    )


def test_grey_is_pillows_and_colour_is_three_times_grey() -> None:
    colour = torch.from_numpy(noise(2, 3, 9, 9))
    (grey,) = in_channels(colour[:1], 1)
    expected = Image.fromarray(np.ascontiguousarray(colour[0].permute(1, 2, 0).numpy())).convert("L")
    assert torch.equal(grey[0], torch.from_numpy(np.array(expected)))
    assert torch.equal(in_channels(colour[:, :1], 3), colour[:, :1].repeat(1, 3, 1, 1))


def test_sets_of_other_size_colour_and_kind_are_fitted_to_the_first(lazy: LazyImages) -> None:
    small = memory_images(12, channels=3, size=20)
    joined = JoinedImages([memory_images(10, channels=1), lazy, small])
    assert (len(joined), joined.channels, joined.lazy_sets) == (42, 1, 1)
    parts = [torch.tensor([31, 2, 11, 41, 12, 3]), torch.tensor([0, 1]), torch.tensor([30, 40])]
    frame = Frame(Fit("none", 32))
    fitted = list(joined.fitted(parts, frame, readers=joined.readers(device=CPU, workers=0)))
    assert [tuple(pixels.shape) for _, pixels in fitted] == [(6, 1, 32, 32), (2, 1, 32, 32), (2, 1, 32, 32)]
    assert all(torch.equal(positions, part) for (positions, _), part in zip(fitted, parts, strict=True))
    own = joined.sets[0]
    single = JoinedImages([own])
    (alone,) = single.fitted([torch.tensor([2, 3])], frame, readers=single.readers(device=CPU, workers=0))
    assert torch.equal(fitted[0].pixels[[1, 5]], alone.pixels)
    expected = in_channels(Fit("resize", 32).apply(small.pixels[[1, 11]]), 1)
    assert torch.equal(fitted[0].pixels[[0, 3]], expected)


def test_ids_come_after_the_labelled_ones_and_do_not_depend_on_other_sets() -> None:
    joined = JoinedImages([memory_images(10), memory_images(6), memory_images(4)])
    assert joined.index[10:16].tolist() == [ID_STRIDE + i for i in range(6)]
    assert torch.equal(JoinedImages([memory_images(9), memory_images(6)]).index[9:], joined.index[10:16])


def test_the_identity_of_one_set_is_its_own_and_of_several_that_of_all() -> None:
    one, other = memory_images(10), memory_images(6)
    assert JoinedImages([one]).fingerprint == one.fingerprint
    pair = JoinedImages([one, other]).fingerprint
    assert pair not in (one.fingerprint, other.fingerprint, JoinedImages([other, one]).fingerprint)


def _joined(batches: list[list[Batch]]) -> list[Batch]:
    return [Batch(*map(torch.cat, zip(*parts, strict=True))) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("kind", ["memory", "lazy"])
@pytest.mark.parametrize("share", [0.5, 0.3])
def test_any_number_of_processes_sees_the_same_batches(kind: str, share: float, lazy: LazyImages) -> None:
    extra = lazy if kind == "lazy" else memory_images(30, size=20)
    whole = list(loader(extra, share=share).epoch(1))
    assert len(whole) == loader(extra).steps_per_epoch == 5
    for world in (2, 4):
        ranks = [list(loader(extra, share=share, rank=r, world=world).epoch(1)) for r in range(world)]
        for one, other in zip(whole, _joined(ranks), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        if share == 0.5:
            for batch in (batch for rank in ranks for batch in rank):
                assert int((batch.label_weight == 0).sum()) == 4 // world
    for batch in whole:
        assert int((batch.label_weight == 0).sum()) == round(8 * share)
        assert torch.equal(batch.label_weight == 0, batch.index >= ID_STRIDE)
        assert batch.label_weight.mean().item() == pytest.approx(1.0)


def test_starting_later_equals_skipping_and_workers_change_nothing(lazy: LazyImages) -> None:
    whole = list(loader(lazy, augmentation=CROP).epoch(2))
    later = list(loader(lazy, augmentation=CROP).epoch(2, first_step=3))
    worked = list(loader(lazy, augmentation=CROP, workers=2).epoch(2))
    for one, other in [*zip(whole[3:], later, strict=True), *zip(whole, worked, strict=True)]:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_an_extra_image_has_an_augmentation_of_its_own() -> None:
    """Not that of the labelled image at its place: crops are drawn by the id that all else is drawn by."""
    images = memory_images(40, channels=1)
    made = loader(images, augmentation=CROP)
    twice = torch.tensor([3, 43])
    (batch,) = made.batches([twice], view=0)
    assert torch.equal(made.images.sets[0].select([3]).index, made.images.sets[1].select([3]).index)
    assert not torch.equal(batch.x[0], batch.x[1])


def test_labels_that_are_meant_count_and_others_are_not_there() -> None:
    extra = memory_images(30)
    for batch in loader(extra, labelled=True).epoch(0):
        assert torch.equal(batch.label_weight, torch.ones(8))
        positions = batch.index % ID_STRIDE
        assert torch.equal(batch.y, positions % 4)


def test_the_description_tells_the_share() -> None:
    assert "4 of each 8 from 30 extra images" in loader(memory_images(30)).description
