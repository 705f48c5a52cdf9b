"""The loop that decides: plain state and pure transitions, without TensorFlow and Keras."""
