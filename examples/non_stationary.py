"""A world that changes: CartPole's actions swap while PPO trains, and later swap back.

The loop notices each change, finds that the best policy does not earn what it did, and so does not roll back to it. It
learns the other world; when the first one returns, the policy that is kept for it is tried, and acts again at once.

python examples/non_stationary.py [--seed 0] [--swap-every 80000] [--no-stored-policies]
tensorboard --logdir runs
"""

import argparse

import keras

import keras_optix as optix
from keras_optix.testing import RegimeClock, SwitchingCartPole

STEPS = 256  # of a window


def main() -> None:
    """Trains through two changes, and prints what was decided and why."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swap-every", type=int, default=80_000, help="env steps from one change to the next")
    parser.add_argument("--no-stored-policies", action="store_true", help="forget the policies of earlier regimes")
    parser.add_argument("--checkpoint-dir", default="checkpoints/non_stationary")
    parser.add_argument("--log-dir", default="runs/non_stationary")
    arguments = parser.parse_args()

    clock = RegimeClock()  # of all environments
    changes = {arguments.swap_every: {"swap_actions": True}, 2 * arguments.swap_every: {"swap_actions": False}}

    keras.utils.set_random_seed(arguments.seed)
    agent = optix.PPOAgent(gamma=0.98)
    agent.compile(optimizer=keras.optimizers.Adam(1e-3))
    dataset = optix.dataset_from_env(
        lambda: SwitchingCartPole(changes, clock), agent, window_size=32, num_envs=8, seed=arguments.seed
    )
    callback = optix.OptixCallback(
        # A copy of this world would be another one: policies are evaluated where they act.
        optix.ReturnEvaluator(in_place=True),
        # While COOLING, a change is seen as late as the interval is long.
        scheduler=optix.BackoffScheduler(max_interval=10),
        policy_manager=optix.PolicyManager(store_policies=not arguments.no_stored_policies, seed=arguments.seed),
        when_dormant="watch",
        max_windows=5 * arguments.swap_every // 2 // STEPS,
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
    )
    agent.fit(dataset, callbacks=[callback])

    for record in callback.events:
        if record.kind in ("degradation", "change_point", "regime", "rollback", "kept"):
            print(record)
    best = callback.best_snapshot
    print("no best was found" if best is None else f"best of regime {best.regime_index + 1}: {best.score:.1f}")


if __name__ == "__main__":
    main()
