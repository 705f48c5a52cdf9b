"""Agents: Keras models that act in an environment and learn from windows of experience."""

from keras_optix.backend import check_backend

check_backend("keras_optix.agents", f"{__name__}.")
