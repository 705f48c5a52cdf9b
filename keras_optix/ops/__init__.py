"""Pure tensor functions with time indices: returns, distributions, losses. No state, no I/O."""
