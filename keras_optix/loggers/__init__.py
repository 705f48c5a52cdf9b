"""What people see of a run: records, TensorBoard, the timeline; and loggers of one's own."""

from __future__ import annotations

from keras_optix.loggers.base import Logger
from keras_optix.loggers.tensorboard import TensorBoardLogger

__all__ = [
    "Logger",
    "TensorBoardLogger",
]
