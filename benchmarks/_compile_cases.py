"""What `compile.py` measures: networks, the layers that agents lower, and an environment that costs nothing to step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS = 6
FRAMES, CHANNELS_LAST, MINATAR = (4, 84, 84), (84, 84, 4), (10, 10, 4)
VECTOR, SEQUENCE, CUBE = (8,), (16, 8), (8, 8, 8, 2)
LONG = (64, 16)
_STORED = 64


class Stored(gymnasium.Env[Any, Any]):
    """Shows stored observations one after the other; episodes have 50 steps.

    Args:
        shape: Of an observation. Images, of three axes, are bytes; all else is float32.
        categories: If not None, observations are integers below it.
    """

    def __init__(self, shape: tuple[int, ...], categories: int | None = None) -> None:
        rng = np.random.default_rng(0)
        self.action_space = spaces.Discrete(ACTIONS)
        if categories is not None:
            self.observation_space = spaces.MultiDiscrete(np.full(shape, categories))
            self._stored: Any = rng.integers(0, categories, (_STORED, *shape))
        elif len(shape) == 3:
            self.observation_space = spaces.Box(0, 255, shape, np.uint8)
            self._stored = rng.integers(0, 256, (_STORED, *shape), np.uint8)
        else:
            self.observation_space = spaces.Box(-5.0, 5.0, shape, np.float32)
            self._stored = rng.normal(size=(_STORED, *shape)).clip(-5, 5).astype(np.float32)
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.Env`."""
        super().reset(seed=seed)
        self._step = 0
        return self._stored[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See `gymnasium.Env`."""
        self._step += 1
        return self._stored[self._step % _STORED], float(action == 0), self._step % 50 == 0, False, {}


@dataclass(frozen=True)
class Case:
    """A PPO agent whose windows are timed; what is not said is the agent's default.

    Attributes:
        shape: Of an observation.
        hidden: Makes the layers before the last one; None takes the default networks.
        steps: T.
        envs: N.
        minibatch: Rows of a gradient step.
        epochs: Passes over a window.
        categories: See `Stored`.
        sb3: Whether Stable-Baselines3 has the same network.
    """

    shape: tuple[int, ...]
    hidden: Callable[[Any], list[Any]] | None
    steps: int = 32
    envs: int = 8
    minibatch: int = 64
    epochs: int = 10
    categories: int | None = None
    sb3: bool = False


def dense(units: int) -> Callable[[Any], list[Any]]:
    """Two hidden layers."""
    return lambda layers: [layers.Dense(units, activation="tanh") for _ in range(2)]


def _attention(layers: Any) -> list[Any]:
    return [_self_attention(layers), layers.GlobalAveragePooling1D()]


def _self_attention(layers: Any, shape: tuple[int, ...] = SEQUENCE, dropout: float = 0.0) -> Any:
    import keras

    sequence = layers.Input(shape)
    x = layers.Dense(64)(sequence)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(4, 16, dropout=dropout)(x, x)]))
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(64, activation="relu")(x)]))
    return keras.Model(sequence, x)


NETWORKS: Mapping[str, Case] = {
    "dense 64": Case(VECTOR, dense(64)),
    "dense 64, 2,048 rows": Case(VECTOR, dense(64), steps=256),
    "dense 256": Case(VECTOR, dense(256), steps=256),
    "dense 512": Case(VECTOR, dense(512), steps=256),
    "Nature CNN": Case(FRAMES, None, sb3=True),
    "small CNN": Case(MINATAR, None, sb3=True),
    "LSTM": Case(SEQUENCE, lambda layers: [layers.LSTM(64)]),
    "attention": Case(SEQUENCE, _attention),
}

# Each stands before a Dense layer, and learns from 64 rows.


def _layer(shape: tuple[int, ...], hidden: Callable[[Any], list[Any]], **options: Any) -> Case:
    return Case(shape, lambda layers: [*hidden(layers), layers.Flatten()], **options)


LAYERS: Mapping[str, Case] = {
    "Dense": _layer(VECTOR, lambda layers: [layers.Dense(64)]),
    "EinsumDense": _layer(SEQUENCE, lambda layers: [layers.EinsumDense("btf,fg->btg", (16, 32))]),
    "Embedding": _layer((8,), lambda layers: [layers.Embedding(32, 16)], categories=32),
    "LayerNormalization": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.LayerNormalization()]),
    "RMSNormalization": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.RMSNormalization()]),
    "GroupNormalization": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.GroupNormalization(8)]),
    "BatchNormalization": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.BatchNormalization()]),
    "UnitNormalization": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.UnitNormalization()]),
    "Dropout": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.Dropout(0.1)]),
    "GaussianNoise": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.GaussianNoise(0.1)]),
    "PReLU": _layer(VECTOR, lambda layers: [layers.Dense(64), layers.PReLU()]),
    "MultiHeadAttention": _layer(SEQUENCE, lambda layers: [_self_attention(layers)]),
    "LSTM": _layer(SEQUENCE, lambda layers: [layers.LSTM(32)]),
    "MultiHeadAttention, dropout": _layer(SEQUENCE, lambda layers: [_self_attention(layers, dropout=0.1)]),
    "MultiHeadAttention, 64 steps": _layer(LONG, lambda layers: [_self_attention(layers, LONG)]),
    "LSTM, 128 units": _layer(SEQUENCE, lambda layers: [layers.LSTM(128)]),
    "LSTM, dropout": _layer(SEQUENCE, lambda layers: [layers.LSTM(32, dropout=0.1)]),
    "GRU": _layer(SEQUENCE, lambda layers: [layers.GRU(32)]),
    "GRU, 128 units": _layer(SEQUENCE, lambda layers: [layers.GRU(128)]),
    "SimpleRNN": _layer(SEQUENCE, lambda layers: [layers.SimpleRNN(32)]),
    "Bidirectional LSTM": _layer(SEQUENCE, lambda layers: [layers.Bidirectional(layers.LSTM(16))]),
    "Bidirectional GRU": _layer(SEQUENCE, lambda layers: [layers.Bidirectional(layers.GRU(16))]),
    "TimeDistributed": _layer(SEQUENCE, lambda layers: [layers.TimeDistributed(layers.Dense(32))]),
    "LSTM, unrolled": _layer(SEQUENCE, lambda layers: [layers.LSTM(32, unroll=True)]),
    "Conv1D": _layer(SEQUENCE, lambda layers: [layers.Conv1D(16, 3), layers.Conv1D(16, 3)]),
    "SeparableConv1D": _layer(SEQUENCE, lambda layers: [layers.SeparableConv1D(16, 3)]),
    "DepthwiseConv1D": _layer(SEQUENCE, lambda layers: [layers.DepthwiseConv1D(3)]),
    "Conv1DTranspose": _layer(SEQUENCE, lambda layers: [layers.Conv1DTranspose(8, 3)]),
    "MaxPooling1D": _layer(SEQUENCE, lambda layers: [layers.MaxPooling1D(2)]),
    "AveragePooling1D": _layer(SEQUENCE, lambda layers: [layers.AveragePooling1D(2)]),
    "GlobalMaxPooling1D": _layer(SEQUENCE, lambda layers: [layers.GlobalMaxPooling1D()]),
    "Conv2D, 10x10": _layer(MINATAR, lambda layers: [layers.Conv2D(16, 3)]),
    "Conv2D, 84x84": _layer(CHANNELS_LAST, lambda layers: [layers.Conv2D(16, 8, 4)]),
    "Conv2D, 1x1": _layer(MINATAR, lambda layers: [layers.Conv2D(16, 1)]),
    "SeparableConv2D": _layer(MINATAR, lambda layers: [layers.SeparableConv2D(16, 3)]),
    "DepthwiseConv2D": _layer(MINATAR, lambda layers: [layers.DepthwiseConv2D(3)]),
    "Conv2DTranspose": _layer(MINATAR, lambda layers: [layers.Conv2DTranspose(8, 3)]),
    "MaxPooling2D": _layer(MINATAR, lambda layers: [layers.MaxPooling2D(2)]),
    "AveragePooling2D": _layer(MINATAR, lambda layers: [layers.AveragePooling2D(2)]),
    "GlobalAveragePooling2D": _layer(MINATAR, lambda layers: [layers.GlobalAveragePooling2D()]),
    "UpSampling2D": _layer(MINATAR, lambda layers: [layers.UpSampling2D(2)]),
    "ZeroPadding2D": _layer(MINATAR, lambda layers: [layers.ZeroPadding2D(1)]),
    "Conv3D": _layer(CUBE, lambda layers: [layers.Conv3D(8, 3)]),
    "MaxPooling3D": _layer(CUBE, lambda layers: [layers.MaxPooling3D(2)]),
    "ConvLSTM1D": _layer((4, *SEQUENCE), lambda layers: [layers.ConvLSTM1D(8, 3)]),
}
