"""Pure tensor functions with time indices: returns, distributions, losses. No state, no I/O.

They are written in `keras.ops` alone and so run on every backend of Keras, with its tensors.
"""
