"""What of a run folder is published."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from rrm_transfer.core.errors import UserError
from rrm_transfer.core.hub_repository import HubRepository
from rrm_transfer.core.stems import weights_name
from rrm_transfer.report.card import render_card
from rrm_transfer.report.page import render
from rrm_transfer.runs.finished import read_handed_over


def publication(path: Path, repository: HubRepository) -> dict[str, bytes | Path]:
    """Collects the files of a repository: stock timm folder, model card, report and recipe.

    All but the weights are written anew, with what was measured since, and without local folders. Weights are
    safetensors; checkpoints, logs and anything else that lies in the run folder stay there.

    Args:
        path: A finished run, or its ``student-best``.
        repository: That the model card is for.

    Returns:
        Contents by path in the repository, or the local file that holds them.

    Raises:
        UserError: There is no finished run, or its student is incomplete.
    """
    run = read_handed_over(path)
    config = run.student.model_dump(mode="json", exclude_unset=True)
    weights = run.network / weights_name(config)
    if not weights.is_file():
        raise UserError("The run has no student's weights.", received=weights)
    texts = {
        "README.md": render_card(run, repository.name),
        "config.json": json.dumps(config, indent=2),
        "recipe.yaml": yaml.safe_dump(run.written_recipe, sort_keys=False, allow_unicode=True),
        "report.html": render(run),
    }
    return {**{name: text.encode() for name, text in texts.items()}, weights.name: weights}
