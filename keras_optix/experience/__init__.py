"""From an environment to windows of experience.

`window`, `envs`, `actor`, `collector` and `evaluation` need NumPy, Gymnasium and the LiteRT runtime, not TensorFlow, so
that a process which only collects never loads it. `lowering` and `dataset` are where TensorFlow comes in. `live` is for
sources that do not wait.
"""
