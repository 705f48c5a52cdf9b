"""Environments whose every row is known in advance, for testing policies, collectors and agents."""

from keras_optix.testing.envs import ConstantRewardEnv, CountingEnv, IdentityEnv, MatchEnv, RaisingEnv, RandomEnv

__all__ = ["ConstantRewardEnv", "CountingEnv", "IdentityEnv", "MatchEnv", "RaisingEnv", "RandomEnv"]
