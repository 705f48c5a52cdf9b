"""Decisions: plain state and pure transitions, with neither TensorFlow nor Keras.

Numbers come in (scores with their standard errors), decisions with their evidence go out. Nothing here knows a model,
an environment or a callback, so the loop can be tested in milliseconds and saved whole.
"""
