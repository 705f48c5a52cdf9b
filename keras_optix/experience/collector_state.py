"""Defines the state of a collector between two windows, and saves and reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_optix.errors import StateError, describe
from keras_optix.experience.carry import Carry, CarrySpec, kinds_of
from keras_optix.experience.episodes import EpisodeTracker
from keras_optix.experience.observations import Leaves, ObservationLayout
from keras_optix.experience.savable import join_state, split_state
from keras_optix.records import EpisodeRecord
from keras_optix.states import Count, Generator, State, read_state, to_json
from keras_optix.store.files import Saved

_OLD_FIELDS = 4  # fields of an episode before `env` and `first_window` were added
EnvStates = Sequence[Mapping[str, Any]]


class SavedEnv(State, frozen=True):
    """The saved state of an environment.

    Attributes:
        state: JSON values, with references to arrays; see `split_state`.
        arrays: The number of arrays.
    """

    state: Any
    arrays: Count


class SavedCollector(State, frozen=True):
    """The saved state of a collector without its arrays.

    Attributes:
        num_envs: `N`, the number of environments.
        observations: Path, shape and dtype of each leaf of the observations.
        carry: Shape and dtype of each array of the policy's carry.
        window_id: Number of the next window.
        env_steps: Environment steps so far.
        rng: The random generator for the actions and the learner's seeds.
        interrupted: Whether running episodes were lost when the state was saved.
        environments: The states of the environments; None if new episodes begin.
    """

    num_envs: Count
    observations: tuple[tuple[str, tuple[Count, ...], str], ...]
    carry: tuple[tuple[tuple[Count, ...], str], ...]
    window_id: Count
    env_steps: Count
    rng: Generator
    interrupted: bool
    environments: tuple[SavedEnv, ...] | None


@dataclass(frozen=True, eq=False)
class CollectorState:
    """The state of a collector between two windows. Collecting a window returns a new state and changes none.

    Attributes:
        window_id: Number of the next window.
        env_steps: Environment steps so far.
        rng: State of the random generator for the actions and the learner's seeds, in NumPy's form.
        tracker: Keeps track of the episodes.
        current: The observations to act on next, leaves of ``[N, ...]``; None if new episodes begin with the next
            window.
        carry: The carry that the policy returned for the last row, ``[N, ...]`` each; it is ignored for environments in
            which a new episode begins. ``()`` for a policy without a carry, and if new episodes begin everywhere.
    """

    window_id: int
    env_steps: int
    rng: Mapping[str, Any]
    tracker: EpisodeTracker
    current: Leaves | None = None
    carry: Carry = ()

    @classmethod
    def initial(cls, num_envs: int, seed: int | None) -> CollectorState:
        """Returns the state before the first window.

        Args:
            num_envs: `N`, the number of environments.
            seed: Seeds the actions and the learner; None takes a random seed.
        """
        rng = np.random.default_rng(None if seed is None else (seed, 1))
        return cls(0, 0, rng.bit_generator.state, EpisodeTracker.blank(num_envs))

    def with_new_episodes(self) -> CollectorState:
        """Returns the same state, except that new episodes begin with the next window."""
        return replace(
            self, tracker=EpisodeTracker.blank(len(self.tracker.returns), self.tracker.recent), current=None, carry=()
        )

    def save(self, layout: ObservationLayout, states: EnvStates | None, carry_specs: Sequence[CarrySpec] = ()) -> Saved:
        """Returns arrays and JSON values for `read_collector_state`.

        Args:
            layout: The layout of the observations.
            states: The states of the environments; None if they cannot be saved. New episodes then begin.
            carry_specs: The arrays of the policy's carry.

        Raises:
            EnvError: A state contains something other than JSON values and arrays.
        """
        at = self if states is not None else self.with_new_episodes()
        tracker = at.tracker
        arrays = {
            "returns": tracker.returns,
            "lengths": tracker.lengths,
            "first_versions": tracker.first_versions,
            "first_windows": tracker.first_windows,
            "recent_episodes": np.array(tracker.recent, np.float64).reshape(-1, len(EpisodeRecord._fields)),
        }
        arrays |= {f"observations/{k}": leaf for k, leaf in enumerate(at.current or ())}
        arrays |= {f"carry/{k}": leaf for k, leaf in enumerate(at.carry)}
        environments = []
        for i, state in enumerate(states or ()):
            plain, parts = split_state(state, f"environment {i}")
            environments.append(SavedEnv(plain, len(parts)))
            arrays |= {f"environments/{i}/{k}": part for k, part in enumerate(parts)}
        saved = SavedCollector(
            num_envs=len(tracker.returns),
            observations=_leaves(layout),
            carry=kinds_of(carry_specs),
            window_id=at.window_id,
            env_steps=at.env_steps,
            rng=Generator.from_values(at.rng),
            interrupted=self.current is not None and states is None,
            environments=None if states is None else tuple(environments),
        )
        return {name: array.copy() for name, array in arrays.items()}, to_json(saved)


def read_collector_state(
    arrays: Mapping[str, np.ndarray],
    values: Mapping[str, Any],
    layout: ObservationLayout,
    num_envs: int,
    carry_specs: Sequence[CarrySpec] = (),
) -> tuple[CollectorState, EnvStates | None, bool]:
    """Reads what `CollectorState.save` returned.

    States written before `first_windows` existed read it as 0, so that such an episode is credited to no ensemble
    member.

    Args:
        arrays: The arrays.
        values: The JSON values.
        layout: The layout of the observations of the collector that is to continue.
        num_envs: The number of its environments.
        carry_specs: The arrays of the carry of its policy. A state that was saved without `carry` had no carry.

    Returns:
        The state; the states that its environments must be put into, or None if new episodes begin; and whether
        running episodes were lost when the state was saved.

    Raises:
        StateError: The state belongs to other environments or another policy, or is not complete.
    """
    if not isinstance(values, Mapping):
        read_state(SavedCollector, values, "state of the collector", part=True)  # raises an error that says why
    values = {"carry": [], **values}  # older states do not have this field
    kind = {"num_envs": num_envs, "observations": to_json(_leaves(layout)), "carry": to_json(kinds_of(carry_specs))}
    for name, wanted in kind.items():
        if values.get(name) != wanted:
            raise StateError(
                describe(
                    f"The saved state is of a collector with another `{name}`.",
                    fix="Resume with the environments and the policy of that run, or begin a new run.",
                    saved=values.get(name),
                    wanted=wanted,
                )
            )

    def array(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            raise ValueError(f"{name!r} is {found.dtype} {found.shape}, not {np.dtype(dtype)} {shape}")
        return found.copy()

    try:
        count, fields = arrays["recent_episodes"].shape
        if fields != _OLD_FIELDS:
            fields = len(EpisodeRecord._fields)
        recent = array("recent_episodes", (count, fields), np.float64).tolist()
        since = (
            array("first_windows", (num_envs,), np.int64) if "first_windows" in arrays else np.zeros(num_envs, np.int64)
        )
        tracker = EpisodeTracker(
            array("returns", (num_envs,), np.float64),
            array("lengths", (num_envs,), np.int64),
            array("first_versions", (num_envs,), np.int64),
            since,
            tuple(EpisodeRecord(total, *map(int, rest)) for total, *rest in recent),
        )
        saved = read_state(SavedCollector, values, "state of the collector", part=True)
        state = CollectorState(saved.window_id, saved.env_steps, to_json(saved.rng), tracker)
        if saved.environments is None:
            return state, None, saved.interrupted
        current = [
            array(f"observations/{k}", (num_envs, *leaf.shape), leaf.dtype) for k, leaf in enumerate(layout.leaves)
        ]
        carry = tuple(
            array(f"carry/{k}", (num_envs, *spec.shape), np.dtype(spec.dtype)) for k, spec in enumerate(carry_specs)
        )
        env_states = []
        for i, environment in zip(range(num_envs), saved.environments, strict=True):
            parts = [arrays[f"environments/{i}/{k}"] for k in range(environment.arrays)]
            env_states.append(join_state(environment.state, parts))
    except (LookupError, TypeError, ValueError, StateError) as error:
        raise StateError(
            f"The saved state of the collector is damaged or not complete ({type(error).__name__}: {error})."
        ) from error
    return replace(state, current=current, carry=carry), env_states, False


def _leaves(layout: ObservationLayout) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    """Returns path, shape and dtype of each leaf, which must be the same when the state is read."""
    return tuple((leaf.path, tuple(leaf.shape), leaf.dtype.name) for leaf in layout.leaves)
