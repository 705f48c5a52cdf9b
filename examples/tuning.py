"""PPO tunes itself while it trains: on one run, as a population, or by replaying what an earlier run found.

python examples/tuning.py --learning-rate 1e-5             # two decades too low
python examples/tuning.py --tuner pbt --population 4       # four members take turns in one fit
python examples/tuning.py --tuner pbt                      # population based training on the run's own past
python examples/tuning.py --replay checkpoints/tuning/<run>/schedule.json --learning-rate 1e-5
tensorboard --logdir runs
"""

import argparse

import keras

import keras_optix as optix


def make_tuner(arguments: argparse.Namespace) -> optix.tuners.BaseOptimizer:
    """The tuner that was asked for."""
    if arguments.replay:
        return optix.tuners.ReplaySchedule(arguments.replay)
    if arguments.tuner == "pbt":
        # All of PPO's default spaces at once: a population does not tune one after the other.
        return optix.PBTOptimizer(population=arguments.population, seed=arguments.seed)
    return optix.BackoffOptimizer({"learning_rate": (1e-5, 1e-1)})


def main() -> None:
    """Trains, prints what was decided and why, then plays 20 greedy episodes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env", default="CartPole-v1", help="id of an environment")
    parser.add_argument("--learning-rate", type=float, default=1e-5, help="to begin with")
    parser.add_argument("--tuner", choices=("backoff", "pbt"), default="backoff")
    parser.add_argument("--population", type=int, default=1, help="members, with --tuner pbt")
    parser.add_argument("--replay", help="a schedule.json")
    parser.add_argument("--max-windows", type=int, default=585, help="stop after so many windows of 256 env steps")
    parser.add_argument("--checkpoint-dir", default="checkpoints/tuning")
    parser.add_argument("--log-dir", default="runs/tuning")
    arguments = parser.parse_args()

    keras.utils.set_random_seed(arguments.seed)
    agent = optix.PPOAgent(gamma=0.98)
    agent.compile(optimizer=keras.optimizers.Adam(arguments.learning_rate))
    dataset = optix.dataset_from_env(arguments.env, agent, window_size=32, num_envs=8, seed=arguments.seed)
    callback = optix.OptixCallback(
        tuner=make_tuner(arguments),
        scheduler=optix.BackoffScheduler(max_interval=10),
        checkpoint_dir=arguments.checkpoint_dir,
        log_dir=arguments.log_dir,
        max_windows=arguments.max_windows,
    )
    agent.fit(dataset, callbacks=[callback])

    for record in callback.events:
        if record.kind == "hyperparams" and record.evidence is not None:
            print(record)
    values = ", ".join(f"{name} {value:.3g}" for name, value in agent.hyperparams.snapshot().items())
    metrics = optix.evaluate_policy(agent, arguments.env, episodes=20, seed=1000)
    print(
        f"greedy return {metrics.primary_score:.1f} over {metrics.episodes} episodes, {callback.env_steps} env steps "
        f"of training, {callback.evaluation_env_steps} of evaluation, {callback.state.name}; {values}"
    )
    print(f"schedule: {callback.registry.run_folder / 'schedule.json'}")


if __name__ == "__main__":
    main()
