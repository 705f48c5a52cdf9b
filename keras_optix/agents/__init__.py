"""Agents: Keras models that learn from windows."""

from keras_optix.backend import check_backend

check_backend("keras_optix.agents", f"{__name__}.")
