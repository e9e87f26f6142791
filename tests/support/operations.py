"""What a GPU would be given to do: the operations of a block, counted on a CPU."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_FREE = ("view", "select", "slice", "split", "expand", "unsqueeze", "unfold", "detach", "alias", "empty")
"""They move nothing."""


class Operations(TorchDispatchMode):
    """Lists the operations of a block, each of which is a launch or more; views cost nothing.

    Attributes:
        names: In order.
        bytes_moved: From one device to another; ``meta`` stands for a GPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.bytes_moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func._schema.name).removeprefix("aten::")
        if not name.removeprefix("_").startswith(_FREE):
            self.names.append(name)
        result = func(*args, **(kwargs or {}))
        if name == "_to_copy" and result.device != args[0].device:
            self.bytes_moved += args[0].nbytes
        return result
