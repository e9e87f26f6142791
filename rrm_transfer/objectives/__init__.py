"""What is minimised: one class per method."""

from rrm_transfer.core.registry import Registry
from rrm_transfer.objectives.base import Objective

OBJECTIVES: Registry[type[Objective]] = Registry(
    "objective",
    {
        "natural": "rrm_transfer.objectives.natural:Natural",
        "rrm": "rrm_transfer.objectives.rrm:RRM",
        "pgd-at": "rrm_transfer.objectives.adversarial:PGDAT",
    },
)
