"""Agents: Keras models that learn from windows."""
