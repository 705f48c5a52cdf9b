"""One run of Stable-Baselines3's PPO for `swap.py`: reads a `Spec` from its argument, prints the result as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from _swap_world import EVERY, N_ENVS, N_STEPS, Curve, Layers, Spec, World
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv


def layers_of(policy: Any) -> Layers:
    """The policy network's weights."""
    linear = [layer for layer in policy.mlp_extractor.policy_net if isinstance(layer, torch.nn.Linear)]
    arrays = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in (*linear, policy.action_net)]
    return [(kernel.copy(), bias.copy()) for kernel, bias in arrays]


class Points(BaseCallback):
    """Adds a point to the curve after every so many updates."""

    def __init__(self, curve: Curve) -> None:
        super().__init__()
        self._curve = curve
        self._windows = 0

    def _on_rollout_start(self) -> None:
        if self._windows and self._windows % EVERY == 0:
            self._curve.add(layers_of(self.model.policy))
        self._windows += 1

    def _on_step(self) -> bool:
        return True


def run(spec: Spec) -> dict[str, Any]:
    """Plays."""
    torch.set_num_threads(1)
    world = World(spec.regimes)
    model = PPO(
        "MlpPolicy",
        DummyVecEnv([world.make] * N_ENVS),
        n_steps=N_STEPS,
        batch_size=64,
        n_epochs=10,
        learning_rate=1e-3,
        gamma=0.98,
        gae_lambda=0.95,
        clip_range=0.2,
        ent_coef=0.0,
        vf_coef=0.5,
        max_grad_norm=0.5,
        policy_kwargs={"net_arch": [64, 64], "activation_fn": torch.nn.Tanh},
        seed=spec.seed,
        device="cpu",
    )
    curve = Curve(world, spec.seed)
    model.learn(spec.windows * N_ENVS * N_STEPS, callback=Points(curve))
    if spec.windows % EVERY == 0:
        curve.add(layers_of(model.policy))
    return {"curve": curve.rows, "env_steps": world.clock.steps, "evaluation_env_steps": 0}


if __name__ == "__main__":
    print(json.dumps(run(Spec(**json.loads(sys.argv[1])))))
