"""Shows the policy of a run as an animation in its loggers, every so many env steps."""

from __future__ import annotations

from typing import Any

from keras_optix.callbacks.adapters import is_agent
from keras_optix.errors import ConfigurationError, describe
from keras_optix.experience.filming import Film
from keras_optix.loggers.loop_log import LoopLog

_AID = "the animation of the policy"
_SEED = 0  # each animation begins in the same state, so that they can be compared


class PolicyFilm:
    """Plays an episode with the current policy every so many env steps.

    Args:
        every: Env steps between two animations; None: none are made.
        model: The agent.
        log: Passes animations to the loggers.
        env_steps: Env steps of the run so far.

    Raises:
        ConfigurationError: `model` is not an agent, or its environment cannot be rendered.
    """

    def __init__(self, every: int | None, model: Any, log: LoopLog, env_steps: int) -> None:
        self._every, self._agent, self._log = every, model, log
        self._due = env_steps if every is None else env_steps + (every if env_steps else 1)
        self._film: Film | None = None
        if every is None:
            return
        if not is_agent(model):
            problem, fix = "`record_every` needs an agent, and this is an ordinary model.", "Leave `record_every` out."
            raise ConfigurationError(describe(problem, fix=fix, model=type(model).__name__))
        source = model.fitting or next(source for source in model.sources if not source.deterministic)
        self._film = Film(source, model.make_actor)

    def after_unit(self, env_steps: int) -> None:
        """Shows an animation if one is due.

        Args:
            env_steps: Env steps of training so far.
        """
        film, every = self._film, self._every
        if film is None or every is None or env_steps < self._due:
            return
        self._due = env_steps + every

        def show() -> None:
            self._log.animation(env_steps, film.play(self._agent.policy_params(), _SEED))

        # Whatever a renderer raises is no reason to end a run.
        self._log.aids.of(_AID).attempt(show, errors=(Exception,))

    def close(self) -> None:
        """Closes the environment. If there is none, nothing happens."""
        film, self._film = self._film, None
        if film is not None:
            film.close()
