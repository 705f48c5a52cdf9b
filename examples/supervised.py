"""An ordinary Keras fit on autopilot: tuned, checkpointed, rolled back and stopped, on any backend of Keras.

KERAS_BACKEND=tensorflow python examples/supervised.py
KERAS_BACKEND=jax python examples/supervised.py
KERAS_BACKEND=torch python examples/supervised.py
"""

import argparse

import keras
import numpy as np

import keras_optix as optix


class TunedNoise(keras.layers.Layer):
    """Adds noise to its inputs while training; how much is a variable, which the loop may tune."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = self.add_weight(shape=(), initializer=keras.initializers.Constant(deviation), trainable=False)
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs, training=False):
        """Noise in training, nothing otherwise."""
        if not training:
            return inputs
        return inputs + self.deviation * keras.random.normal(keras.ops.shape(inputs), seed=self.seed_generator)


def spirals(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two spirals of `n` points each, and to which each point belongs."""
    rng = np.random.default_rng(seed)
    turn = 3.0 * np.pi * np.sqrt(rng.uniform(0.05, 1.0, (2, n)))
    angle = turn + np.pi * np.arange(2)[:, None]
    points = np.stack([turn * np.cos(angle), turn * np.sin(angle)], -1) / 10.0 + rng.normal(0.0, 0.03, (2, n, 2))
    return points.reshape(-1, 2).astype("float32"), np.repeat([0, 1], n)


def main() -> None:
    """Trains until nothing gets better, and says how it went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=200, help="at most so many")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--checkpoint-dir", default="checkpoints/supervised")
    parser.add_argument("--log-dir", default="runs/supervised")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    noise = TunedNoise(0.05)
    hidden = [keras.layers.Dense(64, activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.layers.Input((2,)), noise, *hidden, keras.layers.Dense(1)])
    model.compile(
        optimizer=keras.optimizers.Adam(arguments.learning_rate),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")],
    )
    callback = optix.OptixCallback(
        monitor="val_loss",
        scheduler=optix.BackoffScheduler(plateau_threshold=5, dormant_threshold=15, max_interval=1),
        tuner=optix.BackoffOptimizer({"learning_rate": (1e-4, 3e-2), "noise": optix.tuners.Linear(0.0, 0.3)}),
        hyperparams={"noise": noise.deviation},
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
        rollback_on_degradation=True,
    )
    model.fit(
        *spirals(500, seed=1),
        validation_data=spirals(500, seed=2),
        epochs=arguments.epochs,
        batch_size=64,
        verbose=0,
        callbacks=[callback],
    )
    loss, accuracy = model.evaluate(*spirals(2000, seed=3), verbose=0)
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    deviation = float(keras.ops.convert_to_numpy(noise.deviation))
    print(
        f"{keras.backend.backend()}: {callback.state.name}, test loss {loss:.3f}, accuracy {accuracy:.3f}, "
        f"learning rate {rate:.2g}, noise {deviation:.3f}"
    )


if __name__ == "__main__":
    main()
