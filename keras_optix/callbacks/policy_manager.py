"""`PolicyManager`: weighs several policies of a task, tries variants of the best one, and restores it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from keras_optix.arguments import NamesChecked
from keras_optix.callbacks.loop_agent import LoopAgent
from keras_optix.callbacks.loop_callback import LoopCallback
from keras_optix.callbacks.registry_option import registry_of
from keras_optix.callbacks.rollback import Evolved, roll_back_if_better
from keras_optix.errors import ConfigurationError, StateError, describe
from keras_optix.experience.env_kinds import check_env
from keras_optix.experience.making import EnvLike
from keras_optix.loop.after_shift import AfterShift
from keras_optix.loop.managed_policies import ManagedPolicies, PolicyOptions
from keras_optix.loop.regimes import RegimeDetector
from keras_optix.records import HyperparamSet
from keras_optix.store.registry import CheckpointRegistry
from keras_optix.tuners.variants import perturbed
from keras_optix.validation import (
    check_agent,
    check_float,
    check_function,
    check_int,
    refuse_kind,
)


class PolicyManager(NamesChecked, ManagedPolicies):
    """Compares policies and chooses among them: restores the best, tries variants of it, weighs several agents.

    Give it to the loop with ``OptixCallback(policy_manager=manager)``. Then the loop does the following:

    - At DORMANT it plays the current and the best weights on the same seeds. It rolls back if the best weights are
      significantly better, and continues training if the current weights win twice.
    - With `auto_spawn` it then tries up to `max_variants` variants of the best policy, one after the other. Each begins
      with the best weights and perturbed hyperparameters, learns for `variant_windows` windows, and is compared with
      its parent on the same seeds. A variant that wins twice is adopted; any other is discarded. The log says why.
    - After a degradation it evaluates the best weights again. If they still reach their recorded score, learning went
      wrong, and ``OptixCallback(rollback_on_degradation=True)`` restores them. If not, the environment has changed.
      Then the agent forgets what `after_shift` says, and the loop evaluates the stored policy of every earlier regime
      and the initial weights. If a stored policy still reaches its recorded score, that regime has returned and the
      policy is restored at once. Otherwise training continues from the best of them.

    Several agents can act as one in an `EnsembleAgent`. Whenever its members have earned scores, the loop weighs them
    by these scores (`auto_update_weights`). The methods of the manager do the same by hand.

    Args:
        registry: The registry of the best snapshot, or the path of its directory. None: the registry of the
            `OptixCallback` that the manager is given to.
        score_window: How many of the latest scores of each agent count, at least 2. Defaults to 10.
        auto_spawn: Whether the loop tries variants at DORMANT. Defaults to False.
        max_variants: Greatest number of variants in each regime, at least 1. Defaults to 3.
        variant_windows: Windows that each variant learns from, at least 1. Defaults to 50.
        noise_scale: Standard deviation of the noise on a variant's hyperparameters, as a share of the ranges of its
            `search_spaces`, in [0, 1]. Defaults to 0.05.
        mutation_fn: Called with each variant to change it further; see `spawn_variant`. None: no further change.
        floor: Least weight of an agent once weights follow scores, in [0, 1 / agents]. Defaults to 0.05.
        regime_detector: Names the regime after each evaluation. When the name changes, the policy that is stored for
            that regime is tried. None: each change of the environment that an alarm reveals begins a new regime.
        store_policies: Whether the loop stores a policy for each regime, and the initial weights, to continue from
            when the environment has changed. Defaults to True. Without it, a policy that has become almost
            deterministic may never learn another one.
        max_regimes: Greatest number of stored policies, at least 1. Defaults to 8.
        after_shift: What the agent keeps of its statistics after a change point. None: `AfterShift` with its defaults.
        seed: Seeds variants and evaluations. None: they differ from run to run.

    Raises:
        ConfigurationError: An argument is invalid, or every variant would equal its parent.

    Examples:
        >>> manager = optix.PolicyManager("policies", auto_spawn=True, max_variants=2)
        >>> callback = optix.OptixCallback(policy_manager=manager, when_dormant="watch")
    """

    def __init__(
        self,
        registry: CheckpointRegistry | str | os.PathLike[str] | None = None,
        score_window: int = 10,
        *,
        auto_spawn: bool = False,
        max_variants: int = 3,
        variant_windows: int = 50,
        noise_scale: float = 0.05,
        mutation_fn: Callable[[Any], None] | None = None,
        floor: float = 0.05,
        regime_detector: RegimeDetector | None = None,
        store_policies: bool = True,
        max_regimes: int = 8,
        after_shift: AfterShift | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            PolicyOptions(
                score_window=score_window,
                auto_spawn=auto_spawn,
                max_variants=max_variants,
                variant_windows=variant_windows,
                noise_scale=noise_scale,
                mutation_fn=mutation_fn,
                floor=floor,
                regime_detector=regime_detector,
                store_policies=store_policies,
                max_regimes=max_regimes,
                after_shift=after_shift,
                seed=seed,
            )
        )
        self._given: CheckpointRegistry | None = registry_of(registry)
        self._registry: CheckpointRegistry | None = self._given

    # The registry

    @property
    def registry(self) -> CheckpointRegistry:
        """The registry of the best snapshot.

        Raises:
            StateError: The manager was given no registry yet.
        """
        if self._registry is None:
            raise StateError(
                "The policy manager knows no registry yet. Create it with `PolicyManager(registry)`, or give it to an "
                "OptixCallback, whose registry it then uses."
            )
        return self._registry

    @property
    def own_registry(self) -> CheckpointRegistry | None:
        """The registry that the manager was created with, or None."""
        return self._given

    def use_registry(self, registry: CheckpointRegistry) -> None:
        """Makes the manager use the registry of a loop. `OptixCallback` calls it.

        Args:
            registry: The registry of the loop. If the manager was created with a registry, both must have the same
                directory.

        Raises:
            ConfigurationError: The directories differ.
        """
        own = self._given
        if own is not None and own.directory.resolve() != registry.directory.resolve():
            raise ConfigurationError(
                describe(
                    "The policy manager and OptixCallback have registries in different directories.",
                    fix="Give both the same registry, or create the policy manager without one.",
                    policy_manager=str(own.directory),
                    optix_callback=str(registry.directory),
                )
            )
        self._registry = registry

    # Agents and their weights

    def add_agent(self, agent: Any, weight: float = 1.0) -> int:
        """Adds an agent. All agents must be added before an ensemble is created.

        Args:
            agent: A `keras_optix.Agent`.
            weight: Weight of the agent relative to the others, at least 0. Defaults to 1.

        Returns:
            The index of the agent.

        Raises:
            ConfigurationError: `agent` is not an agent or was added before, its weight is invalid, or there are too
                many agents for `floor`.
            StateError: An ensemble was created, whose members are fixed.
        """
        if not isinstance(agent, LoopAgent) or isinstance(agent, type):
            hints = {"a Keras model": "A network is not an agent. Give it to one: PPOAgent(network)."}
            hints["a list"] = "Call `add_agent` once for each agent."
            fix = f"That is the class; make an object of it: {agent.__name__}()." if isinstance(agent, type) else ""
            refuse_kind("agent", agent, "a keras_optix Agent", fix=fix, hints=hints)
        if any(agent is other for other in self._agents):
            problem, fix = "The manager already has this agent.", "To change its weight, call `update_weights`."
            raise ConfigurationError(describe(problem, fix=fix, index=self.agents.index(agent)))
        if self._book.in_use:
            raise StateError(
                "The manager's weights are already in use, for example by an EnsembleAgent, whose members are fixed. "
                "Add all agents first, or create a new manager and a new ensemble."
            )
        index = self._book.add(weight)
        self._agents.append(agent)
        return index

    # Variants

    def spawn_variant(
        self, shell: Any, noise_scale: float | None = None, mutation_fn: Callable[[Any], None] | None = None
    ) -> Any:
        """Turns an agent into a variant of the best snapshot: its weights, and its hyperparameters with noise.

        Noise is added to the hyperparameters for which the agent has a search space; see `Agent.search_spaces`.

        Args:
            shell: A compiled agent of the same architecture. If it has no environment yet, it is bound to the spaces of
                the manager's agents.
            noise_scale: Standard deviation of the noise as a share of the ranges. None: that of the manager.
            mutation_fn: Called with the agent at the end, for example to change its weights. None: that of the manager.

        Returns:
            `shell`.

        Raises:
            ConfigurationError: The noise is out of range.
            RegistryError: There is no snapshot yet, or it cannot be read.
            StateError: The agent has no environment, is not compiled or has another architecture, or there is no
                registry.
        """
        check_agent("shell", shell, "set_state", "set_hyperparams", fix="Give an agent of the same architecture.")
        if mutation_fn is not None:
            check_function("mutation_fn", mutation_fn, "a function of an agent, or None")
        registry = self.registry
        scale = self.noise_scale if noise_scale is None else check_float("noise_scale", noise_scale, low=0.0, high=1.0)
        mutate = self.mutation_fn if mutation_fn is None else mutation_fn
        if not shell.bound:
            shell.bind(*self._env_spaces())
        best = registry.load_best(shell, hyperparams=True)
        shell.set_hyperparams(HyperparamSet(perturbed(best.hyperparams.params, shell.search_spaces, scale, self._rng)))
        if mutate is not None:
            mutate(shell)
            # The function may have assigned variables one by one: `set_state` makes them a new policy version.
            shell.set_state(shell.get_state())
        return shell

    def _env_spaces(self) -> tuple[Any, Any]:
        for agent in self._agents:
            if agent.bound:
                spaces: tuple[Any, Any] = agent.env_spaces
                return spaces
        raise StateError(
            "The variant knows no environment, and neither does any agent of the manager. Call "
            "`shell.bind(observation_space, action_space)`, or add an agent that plays the environment first."
        )

    # Rollback

    def evolve(
        self,
        agent: Any,
        env: EnvLike,
        episodes: int = 20,
        seed: int | None = None,
        *,
        deterministic: bool = False,
        confidence: float = 0.95,
    ) -> Evolved:
        """Plays the current and the best weights on the same seeds; loads the best if they are significantly better.

        Hyperparameters are never changed. If the best weights are not better, the agent stays as it was.

        Args:
            agent: An agent. If it has no environment yet, it is bound to the spaces of `env`.
            env: An environment, as for `evaluate_policy`.
            episodes: Episodes that each of the two plays, at least 2. Defaults to 20.
            seed: Seeds environments and actions of both. None: drawn from the manager's generator.
            deterministic: Take the most likely action; False (the default) samples actions, as in training.
            confidence: Confidence of the one-sided paired test, in [0.5, 1). Defaults to 0.95.

        Returns:
            Both scores, and whether the best weights were loaded.

        Raises:
            ConfigurationError: An argument is invalid.
            RegistryError: There is no snapshot yet, or it cannot be read.
            SpaceError: The environment does not fit the agent.
            StateError: The snapshot has another architecture, or there is no registry.
        """
        check_agent("agent", agent, "policy_params", "bind", fix="Call evolve(agent, env).")
        check_env("env", env)
        seed = int(self._rng.integers(2**31)) if seed is None else check_int("seed", seed, minimum=0)
        return roll_back_if_better(
            agent,
            self.registry,
            env,
            episodes=episodes,
            seed=seed,
            deterministic=deterministic,
            confidence=confidence,
        )

    # For the loop

    def as_callback(self, agent: Any = None) -> PolicyManagerCallback:
        """Returns the manager as a callback: ``OptixCallback(callbacks=[manager.as_callback(agent)])``.

        It does the same as ``OptixCallback(policy_manager=manager)``.

        Args:
            agent: The agent that `fit` trains, or a member of the ensemble that `fit` trains. None: any agent.

        Raises:
            ArgumentError: `agent` is not an agent.
        """
        if agent is not None:
            check_agent(
                "agent", agent, "policy_params", "bind", fix="Leave it out, or give the agent that `fit` trains."
            )
        return PolicyManagerCallback(self, agent)


class PolicyManagerCallback(LoopCallback):
    """A policy manager among the `callbacks` of an `OptixCallback`, which finds it there and uses it.

    Args:
        policy_manager: The manager.
        agent: The agent that is trained, or a member of the ensemble that is trained. None: any agent.
    """

    def __init__(self, policy_manager: PolicyManager, agent: Any = None) -> None:
        super().__init__()
        self.policy_manager = policy_manager
        self.agent = agent
