"""The shell: Keras callbacks that take the loop's decisions to the model, the disk, the terminal and TensorBoard."""
