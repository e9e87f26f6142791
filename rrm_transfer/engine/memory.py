"""How much memory a training step takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from rrm_transfer.engine.parallel import own_part

_ALLOCATION = "[memory]"


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Returns the most that ``step`` holds at once, beyond what was there before it.

    Args:
        step: Called once.
        device: Where it works. Only what torch allocates there is counted.
    """
    if device.type == "cpu":
        # The process's own size would include what its allocator keeps for later.
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            step()
        assert profiler.profiler is not None
        assert profiler.profiler.kineto_results is not None
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == _ALLOCATION]
        held = peak = 0
        for event in sorted(events, key=lambda event: event.start_ns()):
            held += event.nbytes()
            peak = max(peak, held)
        return peak
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def resident_bytes(modules: Iterable[nn.Module | None], optimizer: torch.optim.Optimizer) -> int:
    """Returns what weights, buffers and the optimiser's state take between steps."""
    tensors: list[Tensor] = []
    for module in modules:
        if module is not None:
            tensors += [*module.parameters(), *module.buffers()]
    for state in optimizer.state.values():
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    own = {part.data_ptr(): part for part in map(own_part, tensors)}
    return sum(part.nbytes for part in own.values())
