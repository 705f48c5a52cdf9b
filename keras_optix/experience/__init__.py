"""Collects windows of experience from environments and live feeds.

`window`, `envs`, `actor`, `collector` and `evaluation` need NumPy, Gymnasium and the LiteRT runtime, but not
TensorFlow, so that a process that only collects never loads it. Only `lowering`, `dataset` and `live.stream_dataset`
import TensorFlow. `live` is for sources that do not wait.
"""
