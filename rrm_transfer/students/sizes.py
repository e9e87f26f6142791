"""Fitting an architecture to the size of the images, by dry runs that compute no numbers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from timm.data import resolve_input_data_config
from timm.models import get_pretrained_cfg
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError
from rrm_transfer.students.creation import accepted_args, create_timm
from rrm_transfer.students.heads import Head, find_head

_SIDE = 4
"""Least side of the last map of a network with stages; where it is smaller, the network is adapted."""

_GRID = 7
"""The same for a network that keeps one grid of patches throughout: a ViT at 224 px has 14, or 7."""

_STRIDES = (16, 8)


@dataclass(frozen=True)
class InputPlan:
    """How an architecture is built for images of one size.

    Attributes:
        args: For ``timm.create_model``, without classes and channels.
        stem: ``"cifar"`` or None.
        form: The classifier, taken apart.
        width: Of the representation.
        positions: Of the last map or token grid; None where it has no such form.
        model: The network on the meta device: shapes without numbers.
        notes: What was chosen and what to be warned of.
    """

    args: dict[str, object]
    stem: str | None
    form: Head
    width: int
    positions: int | None
    model: nn.Module
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Trial:
    """A network that ran on the meta device."""

    args: dict[str, object]
    model: nn.Module
    form: Head
    width: int
    positions: int | None
    goal: int

    @property
    def enough(self) -> bool:
        return self.positions is None or self.positions >= self.goal


@dataclass(frozen=True)
class _Rehearsal:
    """Builds and runs a network on the meta device, where tensors have shapes but no numbers."""

    name: str
    num_classes: int
    channels: int
    image_size: int
    stem: str | None

    def build(self, args: Mapping[str, object]) -> nn.Module:
        with torch.device("meta"):
            return create_timm(
                self.name, num_classes=self.num_classes, channels=self.channels, args=args, stem=self.stem
            )

    def reference(self, args: Mapping[str, object]) -> nn.Module:
        try:
            return self.build(args)
        except UserError:
            raise
        except Exception as error:
            if not args:
                raise
            raise UserError(
                f"timm cannot build {self.name} with the student's arguments.",
                received=", ".join(f"{key}={value}" for key, value in args.items()),
                allowed=f"timm said: {type(error).__name__}: {error}",
            ) from None

    def image(self) -> Tensor:
        return torch.empty(1, self.channels, self.image_size, self.image_size, device="meta")

    def attempt(self, args: Mapping[str, object]) -> _Trial | str:
        """Returns the network that ran, or why it did not."""
        try:
            model = self.build(args).eval()
            form = find_head(model, self.name)
            with torch.no_grad():
                features = cast(Any, model).forward_features(self.image())
                width = form.pool(model, features).shape[1]
            # some networks run at any size by rescaling the image, yet timm exports them for one size only
            expected = {"input_size": tuple(self.image().shape[1:]), "mean": (0.5,), "std": (0.5,)}
            resolve_input_data_config(model, expected)
        except UserError:
            raise
        except Exception as error:  # timm refuses a size by whatever its layers happen to raise
            return f"{type(error).__name__}: {error}".partition("\n")[0]
        positions = _positions(features, model)
        patch = patch_size(model)
        one_grid = patch is not None and positions == (self.image_size // patch) ** 2
        return _Trial(dict(args), model, form, width, positions, (_GRID if one_grid else _SIDE) ** 2)


def plan_input(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    args: Mapping[str, object],
    keep_shapes: bool = False,
    complete: bool = False,
) -> InputPlan:
    """Chooses the constructor arguments with which an architecture takes images of ``image_size``.

    ``img_size`` is given where the constructor takes it and the size is not the architecture's own. Where
    the last map would then have fewer than 4×4 positions (7×7 for a network that keeps one grid of
    patches), ``output_stride`` or else ``patch_size`` is lowered as little as brings it there.

    Args:
        name: Exact timm name, tags allowed.
        num_classes: Of the data.
        channels: Of the images.
        image_size: Their side in pixels.
        args: The user's; they win.
        keep_shapes: Weights will be loaded: leave the patch size of networks with stages alone.
        complete: The arguments are those of a network whose weights will be loaded: choose none beside them.

    Raises:
        UserError: The network runs with none of the choices, or is not a classifier.
    """
    given = dict(args)
    stem = cast(str | None, given.pop("stem", None))
    rehearsal = _Rehearsal(name, num_classes, channels, image_size, stem)
    reference = rehearsal.reference(given)
    find_head(reference, name)
    accepted = accepted_args(reference)
    own = get_pretrained_cfg(name).input_size[1:] == (image_size, image_size)
    bases: list[dict[str, object]] = (
        [{}] if own or complete or "img_size" not in accepted else [{"img_size": image_size}, {}]
    )
    best: _Trial | None = None
    for base in bases:
        plain = rehearsal.attempt({**base, **given})
        refinements = _refinements(reference, plain, {**base, **given}, image_size, keep_shapes)
        best = _best(rehearsal, plain, iter(()) if complete else refinements)
        if best is not None:
            break
    if best is None:
        raise UserError(
            f"{name} cannot take {image_size} px images with {channels} channels.",
            received=f"image size {image_size}" + "".join(f", {k}={v}" for k, v in given.items()),
            allowed=f"its own size is {get_pretrained_cfg(name).input_size[1]} px; timm said: {plain}",
            hint="resize the images to that size, or choose another architecture or other student arguments",
        )
    # an argument that was free to be chosen has been tried, and does not help
    held = ({"output_stride", "patch_size"} & set(given)) | ({"patch_size"} if keep_shapes else set())
    return InputPlan(
        args=best.args,
        stem=stem,
        form=best.form,
        width=best.width,
        positions=best.positions,
        model=best.model,
        notes=tuple(_notes(best, given, image_size, held)),
    )


def _best(
    rehearsal: _Rehearsal, plain: _Trial | str, refinements: Iterator[dict[str, object]]
) -> _Trial | None:
    """Returns the first trial whose last map is large enough, else the one with the largest."""
    best = None if isinstance(plain, str) else plain
    while best is None or not best.enough:
        candidate = next(refinements, None)
        if candidate is None:
            break
        trial = rehearsal.attempt(candidate)
        if not isinstance(trial, str) and (
            best is None or trial.enough or (trial.positions or 0) > (best.positions or 0)
        ):
            best = trial
    return best


def _refinements(
    reference: nn.Module, plain: _Trial | str, args: dict[str, object], image_size: int, keep_shapes: bool
) -> Iterator[dict[str, object]]:
    """Gives arguments that enlarge the last map, the smallest change first."""
    accepted = accepted_args(reference)
    if "output_stride" in accepted and "output_stride" not in args:
        strides = [stride for stride in _STRIDES if math.ceil(image_size / stride) >= _SIDE]
        yield from ({**args, "output_stride": stride} for stride in strides)
    patch = patch_size(reference)
    one_grid = isinstance(plain, _Trial) and plain.goal == _GRID**2
    if "patch_size" in accepted and "patch_size" not in args and patch and (one_grid or not keep_shapes):
        side = _GRID if one_grid else _SIDE
        smaller = (size for size in range(patch - 1, 0, -1) if image_size % size == 0)
        yield from ({**args, "patch_size": size} for size in smaller if image_size // size >= side)


def _notes(best: _Trial, given: Mapping[str, object], image_size: int, held: set[str]) -> Iterator[str]:
    chosen = {key: value for key, value in best.args.items() if key not in given}
    if chosen:
        listing = ", ".join(f"{key}={value}" for key, value in chosen.items())
        yield f"chosen for {image_size} px images: {listing} (override with --student-arg key=value)"
    if best.positions is not None:
        side = math.isqrt(best.positions)
        size = f"{side}x{side}" if side * side == best.positions else f"{best.positions} positions"
        yield f"the last map is {size}"
    if best.positions == 1:
        ways = [f"a smaller {option}" for option in sorted(held & set(accepted_args(best.model)))]
        if hasattr(best.model, "maxpool") and hasattr(best.model, "bn1"):
            ways.append("stem=cifar")
        remedy = f"--student-arg with {' or '.join(ways)} avoids it" if ways else "larger images avoid it"
        yield f"warning: at {image_size} px the last map collapses to 1x1; {remedy}"


def patch_size(model: nn.Module) -> int | None:
    """Returns the side of the patches that a network cuts the image into, where it has one such number."""
    for holder in (getattr(model, "patch_embed", None), model):
        size = getattr(holder, "patch_size", None)
        if isinstance(size, tuple | list) and len(set(size)) == 1:
            size = size[0]
        if isinstance(size, int):
            return size
    default = inspect.signature(type(model)).parameters.get("patch_size")
    return default.default if default is not None and isinstance(default.default, int) else None


def _positions(features: object, model: nn.Module) -> int | None:
    """Counts the positions of what ``forward_features`` returned, class tokens excluded."""
    if isinstance(features, tuple | list):
        return min((n for n in (_positions(item, model) for item in features) if n is not None), default=None)
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        return None
    width = cast(Any, model).num_features
    first, last = features.shape[1], features.shape[-1]
    if features.dim() == 4:
        return math.prod(features.shape[1:3] if last == width != first else features.shape[2:])
    if last != width:
        return last if first == width else min(first, last)
    if hasattr(model, "num_prefix_tokens"):
        return first - int(cast(Any, model).num_prefix_tokens)
    if getattr(model, "cls_token", None) is None:
        return first
    return first - 1 if first > 2 else None  # one or two tokens may be class tokens alone, without a map
