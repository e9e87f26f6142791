from __future__ import annotations

import datasets
import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.data.tables import find_columns

IMAGE, INTEGER = datasets.Image(), datasets.Value("int64")
CLASSES = datasets.ClassLabel(names=["cat", "dog"])
RAW = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


@pytest.mark.parametrize(
    ("features", "image", "label", "names"),
    [
        ({"image": IMAGE, "label": CLASSES}, "image", "label", ("cat", "dog")),
        ({"picture": RAW, "kind": INTEGER}, "picture", "kind", None),
        ({"img": datasets.Value("binary"), "y": datasets.Value("uint8")}, "img", "y", None),
        ({"img": IMAGE, "fine_label": CLASSES, "coarse_label": CLASSES}, "img", "fine_label", ("cat", "dog")),
        ({"mask": IMAGE, "image": IMAGE, "id": INTEGER, "label": INTEGER}, "image", "label", None),
        ({"image": IMAGE, "id": INTEGER, "species": CLASSES}, "image", "species", ("cat", "dog")),
    ],
)
def test_columns_are_found_by_type_then_by_name(
    features: dict[str, object], image: str, label: str, names: tuple[str, ...] | None
) -> None:
    assert find_columns(datasets.Features(features), where="x") == (image, label, names)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"text": datasets.Value("string"), "label": CLASSES}, "no column that could hold the image"),
        ({"a": IMAGE, "b": IMAGE, "label": CLASSES}, "several columns that could hold the image"),
        ({"image": IMAGE, "caption": datasets.Value("string")}, "no column that could hold the class label"),
        (
            {"image": IMAGE, "id": INTEGER, "width": INTEGER},
            "several columns that could hold the class label",
        ),
    ],
)
def test_missing_and_ambiguous_columns_list_all_columns(features: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        find_columns(datasets.Features(features), where="x")
    assert all(name in str(caught.value.received) for name in features)
