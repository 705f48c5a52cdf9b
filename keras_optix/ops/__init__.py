"""Pure tensor functions with time indices: returns, distributions, losses. No state, no I/O.

They use only `keras.ops`, so that they run on every backend of Keras.
"""
