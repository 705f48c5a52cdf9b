"""An off-policy algorithm of your own: double Q-learning (van Hasselt et al. 2016, arXiv 1509.06461) on CartPole.

Returns span three env steps. The replay buffer, its batches and their number are those of `OffPolicyAgent`.

python examples/custom_off_policy.py [--seed 0] [--windows 600]
"""

import argparse

import keras
from keras import ops

import keras_optix as optix


@keras.saving.register_keras_serializable("examples")
class DoubleQAgent(optix.OffPolicyAgent):
    """Learns the value of each action; the target network follows a little after each gradient step."""

    def __init__(self, policy, *, epsilon=0.1, **kwargs):
        settings = {"buffer_size": 50_000, "batch_size": 64, "learning_starts": 500, "n_step": 3}
        settings |= {"gradient_steps_per_env_step": 0.5}
        distribution = optix.distributions.EpsilonGreedyDistribution(epsilon)
        super().__init__(policy, **({"distribution": distribution} | settings | kwargs))
        target = keras.models.clone_model(policy)
        target.set_weights(policy.get_weights())
        self.add_network("target", target, trainable=False)

    def gradient_step(self, batch, seed):
        """Makes one gradient step from a batch ``[B, ...]`` of transitions."""
        best = ops.argmax(self.policy(batch.next_observations), axis=-1)
        following = self._values(self.target(batch.next_observations), best)
        targets = ops.stop_gradient(batch.returns + batch.discounts * following)

        def compute():
            values = self._values(self.policy(batch.observations, training=True), batch.actions)
            loss = ops.mean(batch.weights * ops.square(values - targets))
            return loss, {"q_values": ops.mean(values)}

        logs = self.minimize(compute, max_grad_norm=10.0)
        for target, source in zip(self.target.variables, self.policy.variables, strict=True):
            target.assign(0.98 * target + 0.02 * source)
        return logs, ops.zeros_like(targets)  # errors are for prioritized replay

    def _values(self, values, actions):
        return ops.sum(values * ops.one_hot(actions, values.shape[-1]), axis=-1)


def main():
    """Trains, then plays 20 greedy episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=600, help="windows of 64 env steps")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    layers = [keras.layers.Input((4,)), keras.layers.Dense(128, "relu"), keras.layers.Dense(128, "relu")]
    agent = DoubleQAgent(keras.Sequential([*layers, keras.layers.Dense(2)]), seed=arguments.seed)
    agent.compile(optimizer=keras.optimizers.Adam(2e-3))
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=64, seed=arguments.seed)
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=arguments.windows, rollback_on_degradation=False)])
    print(optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000))


if __name__ == "__main__":
    main()
