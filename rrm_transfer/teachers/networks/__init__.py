"""Networks that give logits and the representation; those of robust checkpoints that timm lacks."""

from __future__ import annotations

from rrm_transfer.teachers.networks.adapters import adapt
from rrm_transfer.teachers.networks.building import Blueprint, build_model

__all__ = ["Blueprint", "adapt", "build_model"]
