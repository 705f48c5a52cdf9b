"""Shows runs to people: events, TensorBoard, the timeline, and your own loggers."""

from __future__ import annotations

from keras_optix.loggers.base import Logger
from keras_optix.loggers.csv_logger import CSVLogger
from keras_optix.loggers.tensorboard import TensorBoardLogger

__all__ = [
    "CSVLogger",
    "Logger",
    "TensorBoardLogger",
]
