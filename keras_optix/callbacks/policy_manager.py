"""Several policies of one task: their weights, variants of the best one, and going back to it."""

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
    """Evolves policies: goes back to the best one, tries variants of it, and weighs several against each other.

    Give it to the loop, ``OptixCallback(policy_manager=manager)``. Then

    - at DORMANT the loop plays the current and the best weights on the same seeds. It rolls back if the best are
      significantly better, and goes on if the current ones win twice.
    - With `auto_spawn` it then spawns up to `max_variants` variants of the policy, one after the other. Each begins
      with the best weights and perturbed hyperparameters, learns for `variant_windows` windows, and is compared with
      its parent on the same seeds: adopted if it wins twice, else discarded. The log says why.
    - After a degradation the best weights are evaluated again. If they still earn what they did, learning went wrong,
      and ``OptixCallback(rollback_on_degradation=True)`` goes back to them. If not, the environment has changed: the
      policies in the bank, which keeps one of each regime, and the weights that the run began with play before anything
      is learned anew, and the agent forgets as `after_shift` says. A policy that earns what it is known for acts again.

    Several agents act as one in an `EnsembleAgent`; whenever they earned scores, the loop weighs them by these
    (`auto_update_weights`). The methods do by hand what the loop does.

    Args:
        registry: Has the best snapshot; the path of its directory will do. None: that of the `OptixCallback` which the
            manager is given to.
        score_window: Latest scores that count of each agent, at least 2. Defaults to 10.
        auto_spawn: Whether the loop spawns variants at DORMANT. Defaults to False.
        max_variants: Variants for each regime that the loop meets, at least 1. Defaults to 3.
        variant_windows: Windows that each of them learns, at least 1. Defaults to 50.
        noise_scale: Standard deviation of the noise on a variant's hyperparameters, as a share of the ranges of its
            `search_spaces`, in [0, 1]. Defaults to 0.05.
        mutation_fn: Called with each variant, to change it further; see `spawn_variant`. None: nothing further.
        floor: Least share of an agent once weights follow scores, in [0, 1 / agents]. Defaults to 0.05.
        regime_detector: Names the regime after each evaluation; when the name changes, the bank's policy of that regime
            is tried. None: each change that an alarm reveals is a regime of its own.
        bank: Whether the loop keeps a policy of each regime, and the weights that the run began with, to go on from in
            a changed environment. Defaults to True. Without it a policy that is too sure of itself may never learn
            another.
        max_regimes: Policies in the bank at most, at least 1. Defaults to 8.
        after_shift: What the agent keeps of its past after a detected shift. None: `AfterShift` with its defaults.
        seed: Seeds variants and evaluations. None: they differ from run to run.

    Raises:
        ConfigurationError: An argument is invalid, or every variant would equal its parent.
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
        bank: bool = True,
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
                bank=bank,
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
        """Has the best snapshot.

        Raises:
            StateError: None is known yet.
        """
        if self._registry is None:
            raise StateError(
                "The policy manager knows no registry yet. Make it with `PolicyManager(registry)`, or give it to an "
                "OptixCallback, whose registry it then uses."
            )
        return self._registry

    @property
    def own_registry(self) -> CheckpointRegistry | None:
        """The registry that the manager was made with, or None."""
        return self._given

    def use_registry(self, registry: CheckpointRegistry) -> None:
        """Takes a loop's registry, which knows the run under way; `OptixCallback` calls it.

        Args:
            registry: In the directory of the one that the manager was made with, if any.

        Raises:
            ConfigurationError: The directories differ.
        """
        own = self._given
        if own is not None and own.directory.resolve() != registry.directory.resolve():
            raise ConfigurationError(
                describe(
                    "The policy manager and OptixCallback have registries in different directories.",
                    fix="Give one registry to both, or none to the policy manager.",
                    policy_manager=str(own.directory),
                    optix_callback=str(registry.directory),
                )
            )
        self._registry = registry

    # Agents and their weights

    def add_agent(self, agent: Any, weight: float = 1.0) -> int:
        """Adds an agent, before an ensemble is made.

        Args:
            agent: A `keras_optix.Agent`.
            weight: How much it counts beside the others, at least 0. Defaults to 1.

        Returns:
            Its index.

        Raises:
            ConfigurationError: It is no agent or one of them already, its weight is invalid, or there are too many
                agents for `floor`.
            StateError: An ensemble was made, whose members are fixed.
        """
        if not isinstance(agent, LoopAgent) or isinstance(agent, type):
            hints = {"a Keras model": "A network is no agent; give it to one: PPOAgent(network)."}
            hints["a list"] = "Add one agent after the other."
            fix = f"That is the class; make an object of it: {agent.__name__}()." if isinstance(agent, type) else ""
            refuse_kind("agent", agent, "a keras_optix Agent", fix=fix, hints=hints)
        if any(agent is other for other in self._agents):
            problem, fix = "The agent is one of the manager's already.", "Its weight is set with `update_weights`."
            raise ConfigurationError(describe(problem, fix=fix, index=self.agents.index(agent)))
        if self._book.in_use:
            raise StateError(
                "The manager's weights are in use, by an EnsembleAgent for example, whose members are fixed. Add all "
                "agents first, or make a new manager and a new ensemble."
            )
        index = self._book.add(weight)
        self._agents.append(agent)
        return index

    # Variants

    def spawn_variant(
        self, shell: Any, noise_scale: float | None = None, mutation_fn: Callable[[Any], None] | None = None
    ) -> Any:
        """Makes an agent a variant of the best snapshot: its weights, and its hyperparameters with a little noise.

        The noise is on the hyperparameters that the agent has a search space for; see `Agent.search_spaces`.

        Args:
            shell: An agent of the same architecture, compiled. If it knows no environment yet, it is bound to that of
                the manager's agents.
            noise_scale: Standard deviation of the noise as a share of the ranges. None: the manager's.
            mutation_fn: Called with the agent at last, to change its weights for example. None: the manager's.

        Returns:
            `shell`.

        Raises:
            ConfigurationError: The noise is out of range.
            RegistryError: There is no snapshot yet, or it cannot be read.
            StateError: The agent knows no environment, is not compiled or is of another architecture, or there is no
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
            # Variables may have been assigned one by one; other weights are another version.
            shell.set_state(shell.get_state())
        return shell

    def _env_spaces(self) -> tuple[Any, Any]:
        for agent in self._agents:
            if agent.bound:
                spaces: tuple[Any, Any] = agent.env_spaces
                return spaces
        raise StateError(
            "The variant knows no environment, and no agent of the manager does. Call "
            "`shell.bind(observation_space, action_space)`, or add an agent that plays the environment first."
        )

    # Going back

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
        """Plays the current and the best weights on the same seeds, and loads the best if they are really better.

        Hyperparameters stay as they are. Otherwise the agent is left as it was.

        Args:
            agent: An agent. If it knows no environment yet, it is bound to this one's spaces.
            env: As for `evaluate_policy`.
            episodes: For each of the two, at least 2. Defaults to 20.
            seed: Seeds environments and actions of both. None: drawn from the manager's generator.
            deterministic: Take the most likely action instead of sampling, as in training. Defaults to False.
            confidence: Of the paired test, one-sided, in [0.5, 1). Defaults to 0.95.

        Returns:
            Both scores, and what was done.

        Raises:
            ConfigurationError: An argument is invalid.
            RegistryError: There is no snapshot yet, or it cannot be read.
            SpaceError: The environment does not fit the agent.
            StateError: The snapshot is of another architecture, or there is no registry.
        """
        check_agent("agent", agent, "policy_params", "bind", fix="The arguments are evolve(agent, env).")
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

    # The loop's side

    def as_callback(self, agent: Any = None) -> PolicyManagerCallback:
        """The manager as a callback: ``OptixCallback(callbacks=[manager.as_callback(agent)])``.

        It does the same as ``OptixCallback(policy_manager=manager)``.

        Args:
            agent: The agent that `fit` trains, or a member of the ensemble that it trains. None: whoever it is.

        Raises:
            ArgumentError: It is no agent.
        """
        if agent is not None:
            check_agent(
                "agent", agent, "policy_params", "bind", fix="Leave it out, or give the agent that `fit` trains."
            )
        return PolicyManagerCallback(self, agent)


class PolicyManagerCallback(LoopCallback):
    """A policy manager among the `callbacks` of `OptixCallback`, which finds it there and does the work.

    Args:
        policy_manager: The manager.
        agent: The agent that is trained, or a member of the ensemble that is. None: whoever is.
    """

    def __init__(self, policy_manager: PolicyManager, agent: Any = None) -> None:
        super().__init__()
        self.policy_manager = policy_manager
        self.agent = agent
