"""ONNX files: a network's graph in float32, or quantized to integers of 8 bits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from rrm_transfer.core.errors import UserError

_INPUT, _OUTPUT = "input", "logits"


def require_onnx() -> None:
    """Checks that what writes and runs ONNX files is installed.

    Raises:
        UserError: It is not.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as missing:
        raise UserError(
            "ONNX needs packages that are not installed.",
            received=missing.name,
            hint='pip install "rrm-transfer[onnx]"',
        ) from None


def write_onnx(network: nn.Module, images: Tensor, file: Path) -> Callable[[Tensor], Tensor]:
    """Writes a network in float32, with a batch size that is free.

    Args:
        network: In evaluation mode.
        images: An input, ``(N, C, H, W)``.
        file: Where to.

    Returns:
        What the file computes, on the CPU.
    """
    torch.onnx.export(
        network,
        (images,),
        file,
        input_names=[_INPUT],
        output_names=[_OUTPUT],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    return _computed_by(file)


def quantize(exact: Path, file: Path, calibration: Iterable[Tensor]) -> Callable[[Tensor], Tensor]:
    """Writes a network with weights and activations of 8 bits, by static quantization.

    Weights are signed, with a scale for each output channel; activations are unsigned, between the extremes
    that they reach on the calibration images (Nagel et al., arXiv 2106.08295).

    Args:
        exact: What `write_onnx` wrote.
        file: Where to.
        calibration: Batches of inputs such as the network will see.

    Returns:
        What the file computes, on the CPU.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches = iter(calibration)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self._batches, None)
            return None if batch is None else {_INPUT: batch.numpy()}

    with TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(exact, prepared)  # folds batch norms into the convolutions before them
        quantize_static(
            prepared,
            file,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return _computed_by(file)


def _computed_by(file: Path) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def compute(batch: Tensor) -> Tensor:
        (logits,) = session.run([_OUTPUT], {_INPUT: batch.numpy()})
        return torch.from_numpy(logits)

    return compute
