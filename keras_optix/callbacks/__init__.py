"""Keras callbacks that connect the loop with `fit`, the model, the disk and the terminal."""
