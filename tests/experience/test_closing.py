"""`close` that raises: the others are closed all the same, the first error is said once, and nothing else fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gymnasium.vector import SyncVectorEnv

import keras_optix as optix
from keras_optix.experience.closing import HURRY, close_all
from keras_optix.experience.collector import Collector
from keras_optix.experience.making import make_envs
from keras_optix.testing import CountingEnv, RaisingEnv

MakeAgent = Callable[..., optix.PPOAgent]
LIMIT = 60.0


class Stubborn(CountingEnv):
    """Raises when it is closed."""

    error: BaseException = OSError("the port is gone")

    def close(self) -> None:
        super().close()
        raise self.error


class Interrupted(Stubborn):
    error = KeyboardInterrupt()


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """A hurry is over when its test is."""
    yield
    HURRY.asked = False


def test_the_nine_after_it_are_closed_and_the_first_error_is_said_once() -> None:
    made: list[CountingEnv] = []

    def env_fn() -> CountingEnv:
        made.append(Stubborn() if len(made) in (0, 4) else CountingEnv())
        return made[-1]

    envs = make_envs(env_fn, 10)
    with pytest.warns(UserWarning, match=r"2 of 10 environments .*OSError: the port is gone.*<Stubborn") as said:
        envs.close()
    assert len(said) == 1
    assert [env.closed for env in made] == [True] * 10


def test_the_control_a_plain_loop_leaves_the_others_open() -> None:
    made = [Stubborn(), CountingEnv()]
    with pytest.raises(OSError, match="port"):
        [env.close() for env in made]
    assert not made[1].closed


def test_an_interrupt_is_raised_after_the_others_were_closed() -> None:
    made = [Interrupted(), CountingEnv()]
    with pytest.raises(KeyboardInterrupt):
        close_all(made)
    assert made[1].closed


class Slow(CountingEnv):
    """Closes when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.was_closed = threading.Event(), threading.Event()

    def close(self) -> None:
        assert self.go.wait(LIMIT)
        super().close()
        self.was_closed.set()


def test_after_an_interrupt_what_takes_long_is_closed_in_the_background() -> None:
    envs = [Stubborn(), Slow(), CountingEnv()]
    HURRY.asked = True
    close_all(envs)
    slow = envs[1]
    assert isinstance(slow, Slow)
    assert not slow.closed
    slow.go.set()
    assert slow.was_closed.wait(LIMIT)
    HURRY.wait()
    assert [env.closed for env in envs] == [True] * 3


@pytest.mark.parametrize("kind", ["sequential", "vector"])
def test_the_error_of_an_environment_is_not_lost_for_that_of_its_close(kind: str, collector: Any) -> None:
    class Both(RaisingEnv):
        def close(self) -> None:
            super().close()
            raise OSError("the port is gone")

    def env_fn() -> Both:
        return Both(5, ZeroDivisionError("in the env"))

    source: Collector = collector(env_fn if kind == "sequential" else SyncVectorEnv([env_fn]), 1)
    with pytest.warns(UserWarning, match="could not be closed"), pytest.raises(ZeroDivisionError, match="in the env"):
        source.collect()


def test_an_evaluation_gives_its_score_and_a_factory_that_fails_its_own_error(small_ppo: MakeAgent) -> None:
    agent = small_ppo()
    with pytest.warns(UserWarning, match="could not be closed"):
        assert optix.evaluate_policy(agent, lambda: Stubborn(3), episodes=2).episodes == 2
    made: list[Any] = []

    def third_fails() -> Any:
        if len(made) == 2:
            raise LookupError("no third one")
        made.append(Stubborn())
        return made[-1]

    with pytest.warns(UserWarning, match="2 of 2 environments"), pytest.raises(LookupError, match="no third one"):
        optix.dataset_from_env(third_fails, agent, num_envs=3)


# The warning may come when the collector is deleted, too.
@pytest.mark.filterwarnings("ignore:.*could not be closed:UserWarning")
@pytest.mark.parametrize("held_out", [False, True])
def test_a_fit_that_has_trained_does_not_fail_for_it(small_ppo: MakeAgent, held_out: bool) -> None:
    made: list[Stubborn] = []

    def env_fn() -> Stubborn:
        made.append(Stubborn(3))
        return made[-1]

    agent = small_ppo()
    dataset = optix.dataset_from_env(env_fn, agent, window_size=8, num_envs=2, seed=0)
    options: dict[str, Any] = {"eval_env": env_fn} if held_out else {}
    callback = optix.OptixCallback(optix.GreedyEvaluator(2), max_windows=3, verbose=0, **options)
    agent.fit(dataset, callbacks=[callback], verbose=0)
    assert callback.ending is not None
    assert len(made) > 2
    assert all(env.closed for env in made[2:])
