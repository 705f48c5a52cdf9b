"""The shell: Keras callbacks that take the decisions of the loop to the model, the disk and the terminal."""
