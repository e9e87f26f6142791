"""The identity of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def weights_hash(tensors: Iterable[tuple[str, Tensor]], *facts: object) -> str:
    """Returns the SHA-256 of named tensors: names, types, shapes and bytes, as 64 hex digits.

    Args:
        tensors: In an order that is always the same.
        facts: What else is part of the identity, by its ``repr``.
    """
    digest = hashlib.sha256("".join(map(repr, facts)).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Viewed as bytes because numpy knows no bfloat16.
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
