"""A timm classifier whose logits are computed from a representation that can be matched to a teacher's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from rrm_transfer.core.kinds import Kind
from rrm_transfer.core.layers import Layer, LayerReader
from rrm_transfer.core.outputs import Outputs
from rrm_transfer.core.pixels import Normalize, PixelStatistics
from rrm_transfer.students.creation import create_timm
from rrm_transfer.students.heads import Head
from rrm_transfer.students.names import resolve_student_name
from rrm_transfer.students.pretrained import StartingWeights, require_hub_weights, starting_weights
from rrm_transfer.students.sizes import InputPlan, plan_input


class MatchedHead(nn.Module):
    """A projection to the teacher's width and, reading its output, the classifier.

    The projection stands in the path of the logits, as in Vaishnavi et al., "Transferring adversarial
    robustness through robust representation matching", USENIX Security 2022: the robustness of the matched
    representation then reaches the decision. Both maps are affine, so they fold into one.

    Args:
        width: Of the student's representation.
        feature_width: Of the matched representation; equal to ``width`` for no projection.
        num_classes: Of the classifier.
        always: Project even where the widths are equal.
    """

    projection: nn.Linear | nn.Identity
    classifier: nn.Linear

    def __init__(self, width: int, feature_width: int, num_classes: int, *, always: bool = False) -> None:
        super().__init__()
        needed = always or feature_width != width
        self.projection = nn.Linear(width, feature_width) if needed else nn.Identity()
        self.classifier = nn.Linear(feature_width, num_classes)

    def forward(self, z: Tensor) -> Outputs:
        """Returns logits and projected features of a representation ``(B, width)``."""
        features = self.projection(z)
        return Outputs(logits=self.classifier(features), features=features)

    @torch.no_grad()
    def set_classifier(self, weight: Tensor, bias: Tensor) -> None:
        """Copies a weight ``(classes, feature width)`` and a bias ``(classes,)`` into the classifier."""
        self.classifier.weight.copy_(weight)
        self.classifier.bias.copy_(bias)

    @torch.no_grad()
    def set_projection(self, weight: Tensor, bias: Tensor) -> None:
        """Copies a weight ``(feature width, width)`` and a bias into the projection, which there must be."""
        projection = cast(nn.Linear, self.projection)
        projection.weight.copy_(weight)
        projection.bias.copy_(bias)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, Tensor]:
        """Returns the one affine map that both make: ``W_c P`` and ``W_c b_P + b_c``, computed in float64."""
        weight, bias = self.classifier.weight, self.classifier.bias
        if isinstance(self.projection, nn.Identity):
            return weight.clone(), bias.clone()
        product = weight.double() @ self.projection.weight.double()
        shift = weight.double() @ self.projection.bias.double() + bias.double()
        return product.to(weight.dtype), shift.to(bias.dtype)


class Student(nn.Module):
    """A timm network in training: pixels in, logits and matched features out.

    timm's own classifier is kept, without gradient and out of the path, as the place to fold into. Build
    one with :func:`build_student`.

    Attributes:
        architecture: Exact timm name, without a tag.
        model_args: What was given to ``timm.create_model``, chosen or asked for.
        normalize: Pixels in [0, 1] to what the network expects.
        model: The timm network.
        head: Projection and classifier.
        layer_projections: Of intermediate layers, for training alone; see :meth:`read_layers`.
        image_size: Side of the images that it was built for, in pixels.
        stem: ``"cifar"`` where the stem was replaced, else None.
        kind: See :func:`kind_of`.
        notes: Automatic choices and warnings, to print.
    """

    def __init__(
        self,
        model: nn.Module,
        head: MatchedHead,
        *,
        architecture: str,
        form: Head,
        statistics: PixelStatistics,
        image_size: int,
        model_args: Mapping[str, object],
        stem: str | None,
        notes: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.model_args = dict(model_args)
        self.image_size = image_size
        self.stem = stem
        self.notes = notes
        self.kind: Kind = kind_of(model)
        self.form = form
        self.normalize = Normalize(statistics)
        self.model = model
        self.head = head
        self.layer_projections = nn.ModuleList()
        self._reader = LayerReader(model, (), owner=architecture)
        for parameter in form.idle_parameters(model):
            parameter.requires_grad_(False)

    @property
    def stock(self) -> bool:
        """Whether stock timm rebuilds the network from its name and arguments."""
        return self.stem is None

    def no_weight_decay(self) -> set[str]:
        """Names the parameters that timm's optimizer factory must not decay: those that the network names."""
        own = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in own()}

    def forward(self, x: Tensor) -> Outputs:
        """Computes logits, matched features and the intermediate layers that are read.

        Args:
            x: Pixels in [0, 1], ``(B, C, H, W)``.
        """
        maps, layers = self._run(x)
        outputs = cast(Outputs, self.head(self.form.pool(self.model, maps)))
        projected = zip(self.layer_projections, layers, strict=True)
        return outputs._replace(intermediates=tuple(projection(layer) for projection, layer in projected))

    @torch.no_grad()
    def represent(self, x: Tensor) -> Tensor:
        """Returns the representation before the projection, ``(B, width)``, of pixels in [0, 1]."""
        return self.form.pool(self.model, self._run(x)[0])

    def _run(self, x: Tensor) -> tuple[object, tuple[Tensor, ...]]:
        trunk = cast(Callable[[Tensor], object], self.model.forward_features)
        return self._reader.run(self.model, trunk, self.normalize(x))

    def adopt_classifier(self, weight: Tensor, bias: Tensor, *, frozen: bool) -> None:
        """Takes over a teacher's classifier.

        Args:
            weight: ``(classes, feature width)``.
            bias: ``(classes,)``.
            frozen: Whether it stays as it is, else it is where training starts.
        """
        self.head.set_classifier(weight, bias)
        self.head.classifier.requires_grad_(not frozen)

    def read_layers(self, layers: Sequence[Layer], widths: Sequence[int], *, seed: int) -> None:
        """Has ``forward`` return intermediate layers, each through a linear layer of its own.

        The maps are averaged over positions before they are projected. Positions of one network have no
        counterpart in another with a different grid or tokens (Hao et al., "One-for-All: Bridge the Gap
        Between Heterogeneous Architectures in Knowledge Distillation", NeurIPS 2023), and an average is also
        what the penultimate representation is. The projections are those of FitNets (Romero et al., ICLR
        2015), there called regressors: trained with the student, saved in checkpoints, never exported.

        Args:
            layers: Names or indices; see :class:`LayerReader`.
            widths: To which each is projected.
            seed: Of the projections' initial weights; the global random state is left as it was.

        Raises:
            UserError: The network has no such layer.
        """
        self._reader = LayerReader(self.model, layers, owner=self.architecture)
        channels = len(self.normalize.statistics.mean)
        weight = next(self.model.parameters())
        was_training = self.training
        self.eval()
        with torch.no_grad():
            _, read = self._run(weight.new_zeros(1, channels, self.image_size, self.image_size))
        self.train(was_training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer_projections = nn.ModuleList(
                nn.Linear(layer.shape[1], width) for layer, width in zip(read, widths, strict=True)
            )

    def fold(self) -> nn.Module:
        """Returns a new timm network, in eval mode and contiguous, whose classifier is the whole head."""
        folded = copy.deepcopy(self.model)
        self.form.write(folded, *self.head.folded())
        for parameter in folded.parameters():
            parameter.requires_grad_(True)
            parameter.data = parameter.data.contiguous()
        return folded.eval()


def kind_of(model: nn.Module) -> Kind:
    """Tells how a network is usually trained, from its modules.

    ``"transformer"`` (AdamW with warm-up) where normalizations over a sample's own features (LayerNorm,
    RMSNorm, GroupNorm with one group) outnumber batch normalizations; so ConvNeXt counts as one. A network
    with neither is one where it has more linear layers than convolutions. All else is
    ``"convolutional"`` (SGD).
    """
    layer = batch = linear = convolution = 0
    for module in model.modules():
        kind = type(module).__name__.lower()
        layer += "layernorm" in kind or "rmsnorm" in kind
        layer += isinstance(module, nn.GroupNorm) and module.num_groups == 1
        batch += isinstance(module, nn.modules.batchnorm._BatchNorm)
        linear += isinstance(module, nn.Linear)
        convolution += isinstance(module, nn.Conv2d)
    by_sample = layer > batch if layer or batch else linear > convolution
    return "transformer" if by_sample else "convolutional"


@dataclass(frozen=True)
class StudentPlan:
    """A student before it has weights: all that can be told of one without making any.

    Attributes:
        name: Exact timm name, tags allowed.
        input: How the architecture is built for the images.
        num_classes: Of the data.
        channels: Of the data's images.
        image_size: Their side in pixels.
        pretrained: Whether it starts from the weights that timm names.
        weights: Those that it starts from instead.
        projection: Where matched features are projected; see :func:`build_student`.
        seed: Of the initial weights.
    """

    name: str
    input: InputPlan
    num_classes: int
    channels: int
    image_size: int
    pretrained: bool
    weights: StartingWeights | None
    projection: Literal["auto", "always"]
    seed: int

    @property
    def stock(self) -> bool:
        """Whether stock timm rebuilds the network from its name and arguments."""
        return self.input.stem is None

    def build(self, feature_width: int | None = None) -> Student:
        """Builds the student; equal plans build equal students, whatever was drawn before.

        Args:
            feature_width: The teacher's; None to match nothing (no projection).

        Raises:
            UserError: Weights cannot be had or do not fit.
        """
        plan, weights = self.input, self.weights
        if self.pretrained and weights is None:
            require_hub_weights(self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = create_timm(
                self.name,
                num_classes=self.num_classes,
                channels=self.channels,
                args=plan.args,
                stem=plan.stem,
                pretrained=self.pretrained or weights is not None,
                state=None if weights is None else weights.state_for(plan.model, plan.form),
                exact=weights is not None and weights.exact,
            )
            head = self._head(feature_width)
        own = plan.form.read(model)
        if own is not None and isinstance(head.projection, nn.Identity):
            head.set_classifier(*own)
        return self._put_together(model, head)

    def outline(self, feature_width: int | None = None) -> Student:
        """Returns the student on the meta device: shapes without numbers."""
        with torch.device("meta"):
            return self._put_together(copy.deepcopy(self.input.model), self._head(feature_width))

    def _head(self, feature_width: int | None) -> MatchedHead:
        width = self.input.width
        return MatchedHead(
            width,
            width if feature_width is None else feature_width,
            self.num_classes,
            always=self.projection == "always" and feature_width is not None,
        )

    def _put_together(self, model: nn.Module, head: MatchedHead) -> Student:
        config = cast(Mapping[str, tuple[float, ...]], model.pretrained_cfg)
        own = PixelStatistics(tuple(config["mean"]), tuple(config["std"]))
        taken = None if self.weights is None else self.weights.statistics
        return Student(
            model,
            head,
            architecture=self.name.partition(".")[0],
            form=self.input.form,
            statistics=(taken or own).for_channels(self.channels),
            image_size=self.image_size,
            model_args=self.input.args,
            stem=self.input.stem,
            notes=self.input.notes,
        )


def plan_student(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    pretrained: bool = False,
    weights: StartingWeights | None = None,
    args: Mapping[str, object] | None = None,
    projection: Literal["auto", "always"] = "auto",
    seed: int = 0,
) -> StudentPlan:
    """Plans a student on the meta device, without weights.

    Args:
        name: As for :func:`build_student`, and so are the others.
        num_classes: Of the data.
        channels: Of the data's images.
        image_size: Their side in pixels.
        pretrained: Start from the weights that timm names for the architecture.
        weights: Start from another network's instead.
        args: For ``timm.create_model``; they win over those that the weights come with.
        projection: Where the matched features are projected.
        seed: Of the initial weights.

    Raises:
        UserError: Unknown name or argument, not a classifier, or an image size that the architecture cannot
            take.
    """
    exact = resolve_student_name(name)
    known = {} if weights is None else weights.args
    plan = plan_input(
        exact,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        args={**known, **(args or {})},
        keep_shapes=pretrained or weights is not None,
        complete=bool(known),
    )
    return StudentPlan(
        exact, plan, num_classes, channels, image_size, pretrained, weights, projection, seed
    )  # fmt: skip


def build_student(
    name: str,
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    feature_width: int | None = None,
    pretrained: bool = False,
    weights: Path | None = None,
    args: Mapping[str, object] | None = None,
    projection: Literal["auto", "always"] = "auto",
    seed: int = 0,
) -> Student:
    """Builds any timm classifier as a student.

    Args:
        name: A timm architecture, short names and tags allowed.
        num_classes: Of the data.
        channels: Of the data's images.
        image_size: Their side in pixels.
        feature_width: The teacher's; None to match nothing (no projection).
        pretrained: Start from the weights that timm names for the architecture.
        weights: Start from a network of the same architecture instead: a file, safetensors or one that
            ``weights_only=True`` reads, or a folder as this package or timm save it.
        args: For ``timm.create_model``; they override what the image size would choose. ``stem="cifar"``
            replaces a ResNet's stem by a 3×3 convolution of stride 1 without max-pool.
        projection: ``"auto"`` projects where the widths differ, ``"always"`` also where they are equal.
        seed: Of the initial weights; the global random state is left as it was.

    Raises:
        UserError: Unknown name or argument, not a classifier, an image size that the architecture cannot
            take, or weights that cannot be had or do not fit.
    """
    plan = plan_student(
        name,
        num_classes=num_classes,
        channels=channels,
        image_size=image_size,
        pretrained=pretrained,
        weights=None if weights is None else starting_weights(weights, resolve_student_name(name)),
        args=args,
        projection=projection,
        seed=seed,
    )
    return plan.build(feature_width)
