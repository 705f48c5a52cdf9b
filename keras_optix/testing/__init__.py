"""Environments and feeds with known rows or known best returns, and a clock, for testing policies and agents."""

from keras_optix.testing.clock import ScriptedClock
from keras_optix.testing.envs import ConstantRewardEnv, CountingEnv, IdentityEnv, MatchEnv, RaisingEnv, RandomEnv
from keras_optix.testing.feeds import CountingFeed, ScriptedFeed
from keras_optix.testing.market import MarketEnv, jump_fading_position, momentum_position, reversion_position
from keras_optix.testing.switching import RegimeClock, SwitchingCartPole, TwoRegimeBandit

__all__ = [
    "ConstantRewardEnv",
    "CountingEnv",
    "CountingFeed",
    "IdentityEnv",
    "MarketEnv",
    "MatchEnv",
    "RaisingEnv",
    "RandomEnv",
    "RegimeClock",
    "ScriptedClock",
    "ScriptedFeed",
    "SwitchingCartPole",
    "TwoRegimeBandit",
    "jump_fading_position",
    "momentum_position",
    "reversion_position",
]
