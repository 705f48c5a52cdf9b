"""Shows runs to people: events, TensorBoard, the timeline, and your own loggers."""

from __future__ import annotations

from keras_optix.loggers.base import Logger
from keras_optix.loggers.csv_logger import CSVLogger
from keras_optix.loggers.mlflow_logger import MLflowLogger
from keras_optix.loggers.tensorboard import TensorBoardLogger
from keras_optix.loggers.trackio_logger import TrackioLogger
from keras_optix.loggers.wandb_logger import WandbLogger

__all__ = [
    "CSVLogger",
    "Logger",
    "MLflowLogger",
    "TensorBoardLogger",
    "TrackioLogger",
    "WandbLogger",
]
