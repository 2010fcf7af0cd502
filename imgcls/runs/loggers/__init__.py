"""Loggers: where the numbers and pictures of a run or a test go besides their files. Each takes what TensorBoard does.

The packages are imported when a logger is opened.
"""

from imgcls.runs.loggers.logger import Description, Logger, Place
from imgcls.runs.loggers.mlflow import MLflow
from imgcls.runs.loggers.several import OpenLoggers, build_loggers
from imgcls.runs.loggers.tensorboard import TensorBoard
from imgcls.runs.loggers.weights_and_biases import WeightsAndBiases

__all__ = [
    "Description",
    "Logger",
    "MLflow",
    "OpenLoggers",
    "Place",
    "TensorBoard",
    "WeightsAndBiases",
    "build_loggers",
]
