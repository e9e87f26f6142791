"""Robust checkpoints by name: the table in zoo.yaml, and the hashes that it enforces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from rrm_transfer.core.documents import parse_json
from rrm_transfer.core.errors import UserError
from rrm_transfer.core.files import cache_folder, sha256_of, write_text
from rrm_transfer.core.hub import hub_file
from rrm_transfer.core.pixels import parse_statistics
from rrm_transfer.core.quantities import format_eps, parse_count, parse_fraction
from rrm_transfer.core.threat import Norm
from rrm_transfer.core.web import web_file
from rrm_transfer.teachers.origins import Origin, folder_origin

EMBEDDED = Path(__file__).parent / "embedded"
_HUB, _WEB = "hf-hub:", "https://"


@dataclass(frozen=True)
class ZooEntry:
    """What the source of a robust checkpoint states about it; None where it does not.

    Attributes:
        name: After ``--teacher``.
        source: ``embedded``, ``hf-hub:USER/REPOSITORY``, ``https://FOLDER/``, or the page where people find
            the file.
        parameters: Of the network; three digits of their number.
        dataset: That it was trained on, as ``--dataset`` takes it.
        norm: Of the threat model it was trained for.
        eps: Of that threat model, in pixel units.
        citation: Whose work it is.
        file: Its name at the source; None: what it is called there is not known.
        sha256: That the file must have.
        architecture: As ``--teacher-arch`` takes it; None: the embedded folder says it.
        args: For the architecture's constructor.
        image_size: Side in pixels of the images that it was trained on.
        normalization: As ``--teacher-normalization`` takes it; None: it stands in the file.
        clean: Published clean accuracy in percent.
        robust: Published accuracy under ``attack`` in percent.
        attack: By what ``robust`` was measured.
        license: Of the weights.
    """

    name: str
    source: str
    parameters: int
    dataset: str
    norm: Norm
    eps: float
    citation: str
    file: str | None = None
    sha256: str | None = None
    architecture: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    image_size: int | None = None
    normalization: str | None = None
    clean: float | None = None
    robust: float | None = None
    attack: str | None = None
    license: str | None = None

    @property
    def got(self) -> Literal["embedded", "hub", "web", "by hand"]:
        """How the weights are got: with the package, downloaded, or by the user."""
        if self.source == "embedded":
            return "embedded"
        if self.source.startswith(_HUB):
            return "hub"
        return "web" if self.source.startswith(_WEB) and self.source.endswith("/") else "by hand"

    @property
    def published(self) -> str | None:
        """The published figures in words, or None."""
        if self.clean is None:
            return None
        threat = f"{self.norm} {format_eps(self.eps)}"
        return f"clean {self.clean:g} %, {self.robust:g} % under {self.attack} at {threat}"

    def facts(self) -> dict[str, object]:
        """Returns what belongs into a teacher's provenance."""
        return {
            "dataset": self.dataset,
            "norm": self.norm,
            "eps": self.eps,
            "published": self.published,
            "license": self.license,
            "citation": self.citation,
        }


@cache
def _table() -> dict[str, ZooEntry]:
    content = yaml.safe_load(files("rrm_transfer.teachers").joinpath("zoo.yaml").read_text(encoding="utf-8"))
    return {
        name: ZooEntry(
            name=name,
            **{
                **entry,
                "eps": parse_fraction(entry["eps"]),
                "parameters": parse_count(entry["parameters"]),
            },
        )
        for name, entry in content.items()
    }


def zoo() -> list[ZooEntry]:
    """Returns every entry, in the table's order."""
    return list(_table().values())


def zoo_entry(name: str) -> ZooEntry | None:
    """Returns the entry called ``name``, or None."""
    return _table().get(name)


def zoo_origin(entry: ZooEntry, weights: Path | None = None) -> Origin:
    """Finds an entry's weights, downloading them where their source is a hub.

    Args:
        entry: Of the table.
        weights: A file that the user has; it stands for the download.

    Raises:
        UserError: The weights cannot be downloaded, or are not those that were recorded.
    """
    if entry.source == "embedded":
        return _embedded(entry)
    sha256 = entry.sha256
    if weights is None:
        weights = _download(entry)
        sha256 = sha256 or _recorded_sha256(entry.name, weights)
    return Origin(
        name=entry.name,
        file=weights,
        architecture=entry.architecture,
        args=entry.args,
        statistics=None if entry.normalization is None else parse_statistics(entry.normalization),
        image_size=entry.image_size,
        class_names=_class_names(entry.dataset),
        sha256=sha256,
        facts=entry.facts(),
    )


def _embedded(entry: ZooEntry) -> Origin:
    folder = EMBEDDED / str(entry.file)
    origin = folder_origin(folder, name=entry.name)
    pairs = (line.split(maxsplit=1) for line in (folder / "SHA256").read_text(encoding="utf-8").splitlines())
    hashes = {file: sha256 for sha256, file in pairs}
    return replace(
        origin,
        sha256=hashes[origin.file.name],
        facts=entry.facts(),
    )


def _download(entry: ZooEntry) -> Path:
    mend = f"{entry.name} --teacher-weights {entry.file or 'FILE'}"
    elsewhere = f"on a machine with network access fetch {entry.file} from there, then: {mend}"
    if entry.got == "hub" and entry.file is not None:
        return hub_file(entry.source.removeprefix(_HUB), entry.file, hint=elsewhere)
    if entry.got == "web" and entry.file is not None:
        return web_file(entry.source + entry.file, hint=elsewhere)
    raise UserError(
        "This model's weights cannot be fetched automatically.",
        received=entry.name,
        allowed=f"{entry.file or 'the file'} from {entry.source}",
        hint=f"fetch it with a browser, then: {mend}",
    )


def _recorded_sha256(name: str, file: Path) -> str:
    """Returns the hash that the entry's first download had; this one is the first where none is known."""
    record = cache_folder() / "zoo-sha256.json"
    try:
        known: dict[str, str] = parse_json(record.read_text(encoding="utf-8")) if record.exists() else {}
    except ValueError:
        raise UserError(
            "The record of the teachers' hashes is damaged.",
            received=record,
            hint="remove it if you trust the files that were downloaded; their hashes are recorded anew",
        ) from None
    if name not in known:
        known[name] = sha256_of(file)
        write_text(record, json.dumps(known, indent=2, sort_keys=True) + "\n")
    return known[name]


def _class_names(dataset: str) -> tuple[str, ...] | None:
    if dataset == "ILSVRC/imagenet-1k":
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return tuple(info.index_to_description(index) for index in range(info.num_classes()))
    if dataset == "uoft-cs/cifar10":
        return _CIFAR10
    return None


_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
