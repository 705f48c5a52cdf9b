"""The presets of PQN: the settings of CleanRL's script.

Source: CleanRL (Huang et al. 2022, "CleanRL: high-quality single-file implementations of deep reinforcement learning
algorithms", JMLR 23), https://github.com/vwxyzjn/cleanrl, MIT licence: cleanrl/pqn.py, commit
c8acf70b4887914741e487a1de517795d6fd323b. Its 4 minibatches of a window are minibatches of 128 transitions here, and its
network is the default network of `PQNAgent`. Its documentation reports no return.
"""

from __future__ import annotations

from keras_optix.agents.presets import AgentSettings, Preset
from keras_optix.records import CollectionDefaults

PQN_PRESETS = (
    Preset(
        ids=("CartPole-v1",),
        settings=AgentSettings(
            {
                "gamma": 0.99,
                "q_lambda": 0.65,
                "epsilon": 0.05,
                "initial_epsilon": 1.0,
                "exploration_env_steps": 250_000,
                "max_grad_norm": 10.0,
                "update_epochs": 4,
                "minibatch_size": 128,
            },
            2.5e-4,
            CollectionDefaults(window_size=128, num_envs=4),
            adam_epsilon=1e-8,
        ),
        source="CleanRL",
        provenance="cleanrl, cleanrl/pqn.py, commit c8acf70b4887914741e487a1de517795d6fd323b",
        reported=None,
        differences=(
            "The learning rate is constant here. There it falls linearly to 0 over 500,000 env steps, which has no "
            "meaning where the loop decides when training ends.",
            "The optimizer is Adam here and RAdam there, because Keras has no RAdam.",
            "Epsilon changes once in each window here, and in each env step there.",
            "A return ends with its episode here, as in the paper. There the rest of the next episode is a part of it.",
            "A truncated episode is bootstrapped with the value of its final observation here. There it counts as "
            "terminated.",
        ),
    ),
)
