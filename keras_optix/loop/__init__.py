"""Decisions: plain state and pure transitions, with neither TensorFlow nor Keras."""
