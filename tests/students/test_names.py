"""Short names."""

from __future__ import annotations

import pytest

from rrm_transfer.core.errors import UserError
from rrm_transfer.students.names import near_classifier, resolve_student_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet50", "resnet50"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("vit_small", "vit_small_patch16_224"),
        ("ViT-Small", "vit_small_patch16_224"),
        ("swin_base", "swin_base_patch4_window7_224"),
        ("mixer_b16", "mixer_b16_224"),
        ("xcit_small_12", "xcit_small_12_p16_224"),
        ("deit_small", "deit_small_patch16_224"),
        ("convit_tiny", "convit_tiny"),
        ("eca_botnext26ts", "eca_botnext26ts_256"),
    ],
)
def test_a_short_name_resolves(text: str, name: str) -> None:
    assert resolve_student_name(text) == name


def test_an_ambiguous_name_lists_what_it_could_be() -> None:
    with pytest.raises(UserError, match="ambiguous") as caught:
        resolve_student_name("efficientnet")
    assert "efficientnet_b0" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "near"), [("resnet5", "resnet50"), ("vit_smal", "vit_small"), ("qwen", "qwen3_vit")]
)
def test_an_unknown_name_lists_the_nearest(text: str, near: str) -> None:
    with pytest.raises(UserError, match="Unknown student") as caught:
        resolve_student_name(text)
    assert near in str(caught.value.hint)


def test_an_unknown_tag_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match="no weights 'robust'") as caught:
        resolve_student_name("resnet50.robust")
    assert "a1_in1k" in str(caught.value)


def test_the_alternative_to_an_encoder_is_what_its_name_is_made_from() -> None:
    assert near_classifier("gemma4_vit_167m_enc") == "gemma4_vit_167m"


def test_a_short_name_is_offered_where_it_is_nearest() -> None:
    with pytest.raises(UserError) as caught:
        resolve_student_name("vit_smal")
    assert "the nearest are vit_small," in str(caught.value.hint)
