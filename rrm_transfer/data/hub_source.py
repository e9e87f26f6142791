"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub import hub_answers, plain_answers
from rrm_transfer.core.patience import patient
from rrm_transfer.data.broken import BrokenImages
from rrm_transfer.data.disk import require_space
from rrm_transfer.data.parts import PART_NAMES, SourceParts
from rrm_transfer.data.tables import find_columns, table_image_sets

if TYPE_CHECKING:
    import datasets

LOCAL_FORMS = (
    "fashion-mnist-mini, or a local folder of images by class, parquet file or folder, or idx folder; "
    "HF_HUB_OFFLINE=1 uses a copy that was downloaded before"
)
_NAME = re.compile(r"(?P<repo>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?(@(?P<revision>[\w./-]+))?")


class HubName(NamedTuple):
    """``user/name``, optionally with ``:config`` and ``@revision``."""

    repo: str
    config: str | None
    revision: str | None

    @property
    def short(self) -> str:
        """The repository's own name."""
        return self.repo.rpartition("/")[2]


def parse_hub_name(text: str) -> HubName | None:
    """Returns the name's parts, None where it cannot be one."""
    match = _NAME.fullmatch(text)
    return HubName(match["repo"], match["config"], match["revision"]) if match else None


def load_hub(
    name: HubName, broken: BrokenImages, *, hint: str | None = None, labelled: bool = True
) -> SourceParts:
    """Loads a data set of the hub, after checking access, columns and room on the disk.

    In offline mode (``HF_HUB_OFFLINE=1``) only a copy downloaded before can be used.

    Args:
        name: Of the data set.
        broken: Counts the images that cannot be read.
        hint: What else the user may have meant, for messages.
        labelled: Whether classes are read; without, all images are of class 0.

    Raises:
        UserError: It cannot be reached, does not exist, is gated, is a script, has several
            configurations, lacks columns, does not fit on the disk, or has too many broken images.
    """
    import datasets
    from huggingface_hub import constants

    hint = f"{hint} or use {LOCAL_FORMS}" if hint else f"use {LOCAL_FORMS}"
    stored_size = 0
    if not constants.is_offline_mode():
        if not hub_answers():
            raise _not_here(name, "and the hub cannot be reached", hint)
        stored_size = _check_access(name, hint)
    with _explaining(name, hint), plain_answers():
        builder = datasets.load_dataset_builder(name.repo, name.config, revision=name.revision)
        if builder.info.features is not None:
            find_columns(builder.info.features, where=name.repo, labelled=labelled)
        if not Path(builder.cache_dir).is_dir():
            downloaded = builder.info.download_size or stored_size
            prepared = builder.info.dataset_size or downloaded
            require_space(downloaded + prepared, Path(builder.cache_dir), what=name.repo)
        builder.download_and_prepare()
        splits: dict[str, datasets.Dataset] = builder.as_dataset()
    return _from_splits(name, splits, broken, builder.info.license or None, labelled=labelled)


def _from_splits(
    name: HubName,
    splits: dict[str, datasets.Dataset],
    broken: BrokenImages,
    license: str | None,
    *,
    labelled: bool,
) -> SourceParts:
    import datasets
    from huggingface_hub import constants

    known = {PART_NAMES[split]: data for split, data in splits.items() if split in PART_NAMES}
    left_out = [split for split in splits if split not in PART_NAMES]
    if not known:
        raise UserError(
            "The data set has no part that can be trained or tested on.",
            received=f"{name.repo}: {', '.join(splits)}",
            allowed=sorted(PART_NAMES),
        )
    columns = find_columns(next(iter(known.values())).features, where=name.repo, labelled=labelled)
    tables = {part: (data.data.table, data._fingerprint) for part, data in known.items()}
    caches = [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    images, notes = table_image_sets(tables, columns, broken, where=name.repo, roots=caches)
    if left_out:
        notes = (*notes, f"parts left out: {', '.join(left_out)}")
    revision = f"@{name.revision}" if name.revision else ""
    config = f":{name.config}" if name.config else ""
    return SourceParts(
        name.short,
        f"hub: {name.repo}{config}{revision}",
        images,
        class_names=columns.class_names,
        license=license,
        notes=notes,
    )


def _check_access(name: HubName, hint: str) -> int:
    """Returns the bytes of the repository's files."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    api, page = HfApi(), f"{constants.ENDPOINT}/datasets/{name.repo}"
    try:
        with patient():
            api.auth_check(name.repo, repo_type="dataset")
            info = api.dataset_info(name.repo, revision=name.revision, files_metadata=True)
        return sum(_whole(file.size) for file in info.siblings or ())
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(
            "The hub gives this data set only to users who accepted its terms.",
            received=name.repo,
            hint=f"accept them on {page}, then: hf auth login, or set HF_TOKEN",
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            "The data set has no such revision.", received=f"{name.repo}@{name.revision}"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            "Unknown data set: neither here nor on the hub.", received=name.repo, hint=hint
        ) from None
    except Exception as error:  # whatever the client makes of an answer that is none
        raise _out_of_reach(name, hint, error) from error


def _whole(size: object) -> int:
    return size if isinstance(size, int) and size > 0 else 0


@contextmanager
def _explaining(name: HubName, hint: str) -> Iterator[None]:
    """Turns the failures of ``datasets`` that a user can mend into messages."""
    import datasets
    from huggingface_hub import constants

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the library makes of files that are none
        if isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error):
            raise UserError(
                "The data set is a script, which the datasets library no longer runs.",
                received=name.repo,
                hint=f"try its parquet form: {name.repo}@refs/convert/parquet; or use {LOCAL_FORMS}",
            ) from error
        if isinstance(error, ValueError) and "onfig name" in str(error):
            raise UserError(
                f"The data set has several configurations. {error}",
                received=name.repo,
                hint=f"name one: {name.repo}:CONFIG",
            ) from error
        if isinstance(error, ConnectionError) and constants.is_offline_mode():
            raise _not_here(name, "nor a downloaded copy, and the hub is not asked offline", hint) from error
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            raise UserError(f"The data set cannot be read: {error}", received=name.repo, hint=hint) from error
        raise _out_of_reach(name, hint, error) from error


def _not_here(name: HubName, hub: str, hint: str) -> UserError:
    return UserError(
        f"Unknown data set: no file or folder of that name is here, {hub}.", received=name.repo, hint=hint
    )


def _out_of_reach(name: HubName, hint: str, error: Exception) -> UserError:
    if isinstance(error, OSError) and error.errno is not None:
        raise error  # of this machine's storage, not of the hub
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UserError(
        f"The data set cannot be had from the hub or its local copy: {reason}", received=name.repo, hint=hint
    )
