"""ONNX files of fewer bits: float16, and int8 by onnxruntime's static quantisation."""

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

IMAGES = "images"  # the input of every file that is exported
BATCH = 16  # calibration images at a time: their maps are kept until the batch is done


def to_float16(source: Path, target: Path) -> None:
    """Write the network of `source` with float16 weights and maps to `target`; what goes in and out stays float32."""
    onnx = importlib.import_module("onnx")
    float16 = importlib.import_module("onnxruntime.transformers.float16")
    model = float16.convert_float_to_float16(onnx.load(str(source)), keep_io_types=True)
    onnx.save(model, str(target))


def to_int8(source: Path, target: Path, calibration: Tensor) -> None:
    """Write the network of `source` with int8 weights and maps to `target`.

    Each channel of a weight has its own scale; the range of each map is that of its values for the images of
    `calibration` (N, C, H, W), which are what the file takes. The softmax, if there is one, stays float32.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(calibration.split(BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {IMAGES: batch.numpy()}

    kinds = {node.op_type for node in onnx.load(str(source)).graph.node} - {"Softmax", "Sub", "Div"}
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises on its own preparation, which the export has done
    try:
        quantization.quantize_static(
            str(source),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Unsigned maps beside signed weights, as x86 multiplies them: 4 times as fast as with signed maps.
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=sorted(kinds),
        )
    finally:
        logging.getLogger().setLevel(level)
