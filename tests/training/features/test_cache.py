"""The teacher's outputs on disk: the same as live, built once, never used when they are not whole."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from rrm_transfer.core.errors import Interrupted, UserError
from rrm_transfer.core.locks import FileLock
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import parse_statistics
from rrm_transfer.data.augment import Augmentation
from rrm_transfer.data.fit import Fit
from rrm_transfer.data.loader import TrainingLoader
from rrm_transfer.objectives import build_objective
from rrm_transfer.runtime.context import Context
from rrm_transfer.runtime.progress import Narrator
from rrm_transfer.teachers.teacher import Teacher
from rrm_transfer.teachers.view import View
from rrm_transfer.training.features import building as feature_building
from rrm_transfer.training.features import cache as feature_cache_module
from rrm_transfer.training.features import shards as feature_shards
from rrm_transfer.training.features.building import FeatureBuilder
from rrm_transfer.training.features.cache import FeatureCache, feature_cache
from rrm_transfer.training.updating import TrainingPlan
from tests.support.operations import Operations
from tests.training.small import PLAN, SIZE, Network, Run, equal, small_images, small_loader

IMAGES = 45
ROWS = 16  # so that there are three shards, the last one shorter


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RRM_TRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(feature_shards, "ROWS", ROWS)


class Probe(Network):
    """Remembers what it is shown, and may break off."""

    def __init__(self, *, breaks_at: int | None = None, scale: float = 1.0, **network: Any) -> None:
        super().__init__(**network)
        self.breaks_at = breaks_at
        self.scale = scale
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Outputs:
        if len(self.seen) == self.breaks_at:
            raise Interrupted("stopped")
        self.seen.append(x.clone())
        outputs = super().forward(x)
        return outputs._replace(features=self.scale * outputs.features)


def a_teacher(*, name: str = "small", statistics: str = "none", **probe: Any) -> Teacher:
    teacher = Teacher(
        Probe(**{"seed": 1, **probe}),
        name=name,
        architecture="small",
        statistics=parse_statistics(statistics),
        view=View((1, 1), (SIZE, None)),
    )
    teacher.network.seen.clear()  # type: ignore[operator,union-attr]
    return teacher


def shown(teacher: Teacher) -> Tensor:
    seen = teacher.network.seen
    assert isinstance(seen, list)
    return torch.cat(seen) if seen else torch.empty(0, 1, SIZE, SIZE)


@dataclass
class Setup:
    """A cache and how it is filled."""

    teacher: Teacher = field(default_factory=a_teacher)
    objective: str = "rrm"
    arguments: dict[str, Any] = field(default_factory=dict)
    views: int = 2
    dtype: feature_shards.Dtype = "float16"
    images: int = IMAGES
    loader: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.said = StringIO()
        self.batches: TrainingLoader = small_loader(
            small_images(self.images), views=self.views, **self.loader
        )

    @property
    def cache(self) -> FeatureCache:
        objective = build_objective(self.objective, **self.arguments)
        return feature_cache(self.teacher, self.batches, objective, dtype=self.dtype)

    def fill(self) -> dict[str, Any]:
        return FeatureBuilder(
            self.cache,
            self.teacher,
            self.batches,
            batch_size=10,
            context=Context.begin(Narrator(Console(file=self.said, width=500))),
        ).complete()

    def contents(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.cache.shards.folder.glob("*.safetensors")}


def test_student_and_teacher_see_the_same_pixels(tmp_path: Path) -> None:
    setup = Setup()
    setup.fill()
    taught = shown(setup.teacher).view(2, IMAGES, 1, SIZE, SIZE)
    batches = [(epoch, batch) for epoch in range(4) for batch in setup.batches.epoch(epoch)]
    assert len(batches) == 20
    for epoch, batch in batches:
        assert torch.equal(batch.x, taught[epoch % 2][batch.index])
    assert not torch.equal(taught[0], taught[1])


def test_the_images_of_a_view_are_one_stream_so_that_the_next_shard_is_decoded_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    setup, streams = Setup(), []
    batches = setup.batches.batches

    def counted(parts: Sequence[Tensor], *, view: int) -> Any:
        streams.append((view, sum(map(len, parts))))
        return batches(parts, view=view)

    monkeypatch.setattr(setup.batches, "batches", counted)
    setup.fill()
    assert streams == [(0, IMAGES), (1, IMAGES)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 5e-4), ("bf16", 4e-3)])
def test_what_is_read_is_what_the_teacher_said(dtype: feature_shards.Dtype, tolerance: float) -> None:
    setup = Setup(objective="rrm", arguments={"kd_weight": 1.0}, dtype=dtype)
    setup.fill()
    positions = torch.randperm(IMAGES)[:20]
    (batch,) = setup.batches.batches([positions], view=1)
    live, read = setup.teacher(batch.x), setup.cache.read(1, positions)
    assert read.logits.dtype == read.features.dtype == torch.float32
    for stored, said in zip(read, live, strict=True):
        torch.testing.assert_close(stored, said, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bf16"])
def test_a_cache_moves_to_an_accelerator_with_room_for_it(
    dtype: feature_shards.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a batch is one gather of each part on the device, and the disk is read once for each view."""
    setup = Setup(objective="rrm", arguments={"kd_weight": 1.0}, dtype=dtype)
    setup.fill()
    on_disk, moved = setup.cache, setup.cache
    room = moved.nbytes
    monkeypatch.setattr(feature_cache_module, "spare_bytes", lambda device: room)
    parts = [(view, torch.randperm(IMAGES)[:20]) for view in (0, 1, 0)]
    read = [moved.read(view, positions) for view, positions in parts]
    room = 0
    moved.__dict__["_maps"] = {}
    read += [moved.read(view, positions) for view, positions in parts]
    for (view, positions), found in zip(parts * 2, read, strict=True):
        expected = on_disk.read(view, positions)
        assert torch.equal(expected.logits, found.logits)
        assert torch.equal(expected.features, found.features)
    assert on_disk._residence is None


@pytest.mark.parametrize("resident", [True, False])
def test_of_a_resident_cache_only_positions_cross_the_bus(
    resident: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup()
    setup.fill()
    cache = replace(setup.cache, device=torch.device("meta"))
    monkeypatch.setattr(feature_cache_module, "spare_bytes", lambda device: cache.nbytes * resident)
    cache.read(0, torch.arange(20))
    with Operations() as operations:
        features = cache.read(0, torch.arange(20)).features
    assert features.shape == (20, 5)
    assert operations.bytes_moved == 20 * (8 if resident else 5 * 2)


@pytest.mark.parametrize("dtype", ["float16", "bf16"])
@pytest.mark.parametrize(
    ("objective", "arguments"),
    [
        ("rrm", {}),
        ("rrm", {"noise": 1.0, "kd_weight": 1.0}),
        ("kd", {}),
        ("rrm-adv", {"clean_feature_weight": 1.0}),
        ("rslad", {"steps": 2, "igdm_weight": 1.0}),
        ("iad", {"steps": 2, "begin": 0.0}),
        ("adaad", {"steps": 2, "adversarial_share": 0.5}),
    ],
)
def test_a_cached_run_has_the_losses_of_a_live_one(
    objective: str, arguments: dict[str, Any], dtype: feature_shards.Dtype, tmp_path: Path
) -> None:
    """As many views as epochs, parts of unequal size; small steps, as signs of gradients amplify rounding."""
    plan = replace(PLAN, accumulation=2, optimization=replace(PLAN.optimization, lr=1e-6))
    setup = Setup(objective=objective, arguments=arguments, dtype=dtype)
    setup.fill()
    options: dict[str, Any] = {"objective": objective, "arguments": arguments, "plan": plan}
    live = Run(tmp_path / "live", **options)
    cached = Run(tmp_path / "cached", **options, taught_by=setup.teacher, views=2, features=setup.cache)
    live(), cached()
    for a, b in zip(live.losses, cached.losses, strict=True):
        assert b == pytest.approx(a, rel={"float16": 2e-3, "bf16": 2e-2}[dtype], abs=1e-5)


def test_a_cached_run_never_runs_the_teacher(tmp_path: Path) -> None:
    setup = Setup()
    setup.fill()
    before = len(shown(setup.teacher))
    run = Run(tmp_path, taught_by=setup.teacher, views=2, features=setup.cache)
    run()
    assert len(shown(setup.teacher)) == before
    assert run.trainer._updater.teacher is None
    for made_before in ("rdt", "natural"):
        assert Run(tmp_path, objective=made_before, taught_by=setup.teacher).trainer._updater.teacher is None
    needed = Run(tmp_path, objective="iad", taught_by=setup.teacher, views=2, features=setup.cache)
    assert needed.trainer._updater.teacher is setup.teacher


@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, accumulation=2, epochs=5)])
def test_a_stopped_cached_run_goes_on_bit_for_bit(plan: TrainingPlan, tmp_path: Path) -> None:
    setup = Setup()
    setup.fill()
    options: dict[str, Any] = {"plan": plan, "taught_by": setup.teacher, "views": 2, "features": setup.cache}
    whole = Run(tmp_path / "whole", **options)
    whole()
    stopped = Run(tmp_path / "parts", **options, stop_after=7)
    with pytest.raises(Interrupted):
        stopped()
    resumed = Run(tmp_path / "parts", **options)
    resumed(resume=True)
    assert equal(resumed.weights, whole.weights)
    assert stopped.losses + resumed.losses == whole.losses


def test_a_second_run_finds_everything_and_asks_about_a_few_images_only() -> None:
    first = Setup()
    facts = first.fill()
    assert (facts["cache"], facts["shards"], facts["shards_built"]) == ("built", 6, 6)
    assert facts["bytes"] == 2 * IMAGES * 5 * 2
    assert facts["build_seconds"] > 0
    second = Setup()
    again = second.fill()
    assert (again["cache"], again["shards_built"], again["build_seconds"]) == (
        "hit",
        0,
        facts["build_seconds"],
    )
    assert len(shown(second.teacher)) == feature_building._PROBES


def test_one_pass_makes_all_parts_and_each_costs_all_of_it() -> None:
    both = Setup(arguments={"kd_weight": 0.5}).fill()
    logits = Setup(objective="kd").fill()
    assert (both["shards"], logits["cache"], logits["shards"]) == (12, "hit", 6)
    assert logits["build_seconds"] == both["build_seconds"] > 0


def test_an_interrupted_building_goes_on_at_the_next_shard() -> None:
    whole = Setup()
    whole.fill()
    expected = whole.contents()
    for path in whole.cache.shards.folder.iterdir():
        path.unlink()
    stopped = Setup(teacher=a_teacher(breaks_at=5))  # two passes a shard: in the third shard
    with pytest.raises(Interrupted):
        stopped.fill()
    assert len(stopped.contents()) == 2
    assert not list(stopped.cache.shards.folder.glob(".*"))
    resumed = Setup()
    facts = resumed.fill()
    assert (facts["shards_built"], facts["cache"]) == (4, "built")
    assert {name: _values(content) for name, content in resumed.contents().items()} == {
        name: _values(content) for name, content in expected.items()
    }


def _values(content: bytes) -> bytes:
    """Without the header, which holds seconds."""
    return content[8 + int.from_bytes(content[:8], "little") :]


def _flip(place: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return flip


def _header(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        assert content.count(old) == 1
        path.write_bytes(content.replace(old, new))

    return change


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped value": (_flip(-3), "its checksum differs"),
    "a flipped header": (_flip(12), ""),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-7]), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "other seconds": (_header(b'"seconds":"0', b'"seconds":"9'), "its checksum differs"),
    "another dtype": (_header(b'"dtype":"F16"', b'"dtype":"I16"'), "it has"),
    "another shard": (
        lambda path: path.write_bytes((path.parent / "features-view001-000001.safetensors").read_bytes()),
        "belongs to another cache",
    ),
    "removed": (Path.unlink, ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_and_rebuilt_alone(damage: str) -> None:
    setup = Setup()
    setup.fill()
    expected = {name: _values(content) for name, content in setup.contents().items()}
    victim = setup.cache.shards.folder / "features-view000-000001.safetensors"
    change, reason = DAMAGES[damage]
    change(victim)
    mended = Setup()
    assert mended.fill()["shards_built"] == 1
    assert {name: _values(content) for name, content in mended.contents().items()} == expected
    said = mended.said.getvalue()
    assert (victim.name in said and reason in said) == (damage != "removed")


def test_shards_of_another_key_are_rebuilt() -> None:
    other = Setup(teacher=a_teacher(seed=7))
    other.fill()
    setup = Setup()
    assert setup.cache.shards.key != other.cache.shards.key
    setup.cache.shards.folder.mkdir(parents=True)
    for name, content in other.contents().items():
        (setup.cache.shards.folder / name).write_bytes(content)
    assert setup.fill()["shards_built"] == 6
    assert setup.said.getvalue().count("belongs to another cache") == 6


def test_a_teacher_that_computes_otherwise_has_everything_rebuilt() -> None:
    """The same weights in code that changed: no key tells."""
    Setup().fill()
    changed = Setup(teacher=a_teacher(scale=1.5))
    assert changed.cache.shards.folder == Setup().cache.shards.folder
    assert changed.fill()["shards_built"] == 6
    assert "now answers otherwise" in changed.said.getvalue()
    assert Setup(teacher=a_teacher(scale=1.5)).fill()["cache"] == "hit"


CHANGES: dict[str, Callable[[], Setup]] = {
    "weights": lambda: Setup(teacher=a_teacher(seed=2)),
    "normalization": lambda: Setup(teacher=a_teacher(statistics="0.5/0.5")),
    "images": lambda: Setup(images=IMAGES - 1),
    "augmentation": lambda: Setup(loader={"augmentation": Augmentation(crop_padding=2, flip=True)}),
    "seed": lambda: Setup(loader={"seed": 1}),
    "view seed": lambda: Setup(loader={"view_seed": 1}),
    "fit": lambda: Setup(loader={"fit": Fit("resize", SIZE)}),
    "dtype": lambda: Setup(dtype="bf16"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_values_changes_the_key(change: str) -> None:
    assert CHANGES[change]().cache.shards.key != Setup().cache.shards.key


def test_the_key_does_not_ask_for_names_order_or_number_of_views() -> None:
    same = [
        Setup(teacher=a_teacher(name="/home/somebody/teacher.pt")),
        Setup(loader={"batch": 5}),
        Setup(loader={"seed": 1, "view_seed": 0}),
        Setup(views=5),
        Setup(objective="kd"),
    ]
    assert {setup.cache.shards.key for setup in same} == {Setup().cache.shards.key}
    same[0].fill()
    written = (same[0].cache.shards.folder / "cache.json").read_text()
    assert "somebody" not in written
    assert "teacher.pt" in written


def test_grouped_classes_are_another_teacher() -> None:
    teacher = a_teacher()
    before = teacher.fingerprint()
    teacher.group_classes([[0, 1], [2, 3]], None)
    assert teacher.fingerprint() != before


def test_more_views_and_another_part_add_to_what_is_there() -> None:
    Setup().fill()
    assert Setup(views=3).fill()["shards_built"] == 3
    logits = Setup(views=3, objective="kd").fill()
    assert (logits["shards"], logits["shards_built"], logits["bytes"]) == (9, 9, 3 * IMAGES * 4 * 2)
    both = Setup(views=3, arguments={"kd_weight": 1.0})
    assert both.fill()["cache"] == "hit"
    assert both.cache.read(2, torch.tensor([44, 0])).logits.shape == (2, 4)
    assert Setup().cache.read(0, torch.tensor([1])).logits.shape == (1, 0)


def test_intermediate_layers_are_cached_too(tmp_path: Path) -> None:
    arguments = {"student_layers": ["convolution", "norm"], "teacher_layers": ["norm", "norm"]}
    setup = Setup(arguments=arguments)
    facts = setup.fill()
    assert (facts["shards"], facts["bytes"]) == (12, 2 * IMAGES * (5 + 6) * 2)
    (batch,) = setup.batches.batches([torch.arange(4)], view=0)
    live, read = setup.teacher(batch.x), setup.cache.read(0, torch.arange(4))
    assert len(read.intermediates) == len(live.intermediates) == 2
    for stored, said in zip(read.intermediates, live.intermediates, strict=True):
        torch.testing.assert_close(stored, said, rtol=5e-4, atol=1e-6)
    assert Setup().fill()["cache"] == "hit"


def test_too_little_space_is_told_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    usage = SimpleNamespace(free=2 * IMAGES * 5 * 2 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="does not fit on the disk") as caught:
        setup.cache.require_space()
    assert "RRM_TRANSFER_CACHE" in str(caught.value)
    assert not setup.cache.shards.folder.exists()


@pytest.mark.parametrize("scale", [1e7, 1e-9, float("nan")])
def test_values_that_the_dtype_cannot_hold_are_refused(scale: float) -> None:
    with pytest.raises(UserError, match="do not fit the dtype"):
        Setup(teacher=a_teacher(scale=scale)).fill()
    if math.isfinite(scale):
        Setup(teacher=a_teacher(scale=scale), dtype="bf16").fill()


def test_a_second_builder_waits_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_building, "_WAIT_SECONDS", 0.01)
    setup = Setup()
    setup.cache.shards.folder.mkdir(parents=True)
    lock = FileLock(setup.cache.shards.folder / ".lock")
    assert lock.take()
    done: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: done.append(setup.fill()))
    thread.start()
    time.sleep(0.2)
    assert not done
    assert not setup.contents()
    lock.release()
    thread.join(10)
    assert done
    assert len(setup.contents()) == 6
    assert "waiting for it" in setup.said.getvalue()


@pytest.mark.parametrize(
    ("count", "positions"),
    [(1, [0]), (ROWS, [5, 5, 0, 15]), (3 * ROWS + 2, [49, 0, 16, 31, 32, 48, 15, 16])],
)
def test_rows_are_gathered_from_their_shards(count: int, positions: list[int]) -> None:
    table = torch.randn(count, 3).to(torch.bfloat16)
    shards = [part.view(torch.int16).numpy() for part in torch.split(table, ROWS)]
    out = torch.empty(len(positions), 3, dtype=torch.bfloat16)
    assert torch.equal(
        feature_shards.gather_rows(shards, torch.tensor(positions), out), table[torch.tensor(positions)]
    )
