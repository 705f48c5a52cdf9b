"""An algorithm of your own: A2C (Mnih et al. 2016, arXiv 1602.01783) on CartPole.

python examples/custom_agent.py [--seed 0] [--windows 1500]
"""

import argparse

import keras
from keras import ops

import keras_optix as optix


@keras.saving.register_keras_serializable("examples")
class A2CAgent(optix.Agent):
    """Makes one gradient step after each window, from its returns up to its end."""

    prefers_jit = True

    def __init__(self, policy, value, *, gamma=0.99, entropy_coefficient=0.01, **kwargs):
        hyperparams = {  # tuners may change them while the agent learns
            "gamma": optix.Hyperparam(gamma, 0.0, 1.0),
            "entropy_coefficient": optix.Hyperparam(entropy_coefficient),
        }
        super().__init__(policy, hyperparams=hyperparams, **kwargs)
        self.add_network("value", value)

    def train_step(self, window):
        """Learns from a window of tensors ``[T, N, ...]``."""
        gamma, coefficient = (self.hyperparams.tensor(name) for name in ("gamma", "entropy_coefficient"))
        observations, actions = self._rows(window.observations), self._rows(window.actions)
        following = ops.reshape(self.value(self._rows(window.next_observations)), window.rewards.shape)
        returns, result = [], following[-1]
        for t in reversed(range(window.rewards.shape[0])):
            result = ops.where(window.truncated[t], following[t], result)
            result = window.rewards[t] + gamma * ops.where(window.terminated[t], 0.0, result)
            returns.insert(0, result)
        returns = self._rows(ops.stack(returns))

        def compute():
            parameters, distribution = self(observations, training=True), self.head.distribution
            advantages = returns - self.value(observations, training=True)[:, 0]
            scores = distribution.log_prob(parameters, actions) * ops.stop_gradient(advantages)
            entropy = ops.mean(distribution.entropy(parameters))
            value_loss = ops.mean(ops.square(advantages))
            loss = 0.5 * value_loss - ops.mean(scores) - coefficient * entropy
            return loss, {"value_loss": value_loss, "entropy": entropy}

        return self.minimize(compute, max_grad_norm=0.5)

    def _rows(self, values):
        return ops.reshape(values, (-1, *values.shape[2:]))


def network(outputs):
    """Builds a network with one hidden layer."""
    layers = [keras.layers.Input((4,)), keras.layers.Dense(64, "tanh"), keras.layers.Dense(outputs)]
    return keras.Sequential(layers)


def main():
    """Trains, then plays 20 greedy episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--windows", type=int, default=1500, help="windows of 128 env steps")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    agent = A2CAgent(network(2), network(1), seed=arguments.seed)
    agent.compile(optimizer=keras.optimizers.Adam(2e-3))
    dataset = optix.dataset_from_env("CartPole-v1", agent, window_size=16, num_envs=8, seed=arguments.seed)
    agent.fit(dataset, callbacks=[optix.OptixCallback(max_windows=arguments.windows)])
    print(optix.evaluate_policy(agent, "CartPole-v1", episodes=20, seed=1000))


if __name__ == "__main__":
    main()
