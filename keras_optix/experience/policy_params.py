"""Defines the parameters of a policy as plain data that is sent to actors, and the record that their owner keeps."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from keras_optix.errors import StateError, describe
from keras_optix.reprs import call_repr


@dataclass(frozen=True, eq=False)
class PolicyParams:
    """The parameters of one policy version: plain data that can be pickled and sent to another process.

    Attributes:
        version: The policy version.
        arrays: The policy's variables in the order that its actor expects.
    """

    version: int
    arrays: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return call_repr(self, version=str(self.version), arrays=str(len(self.arrays)))

    def fingerprint(self) -> int:
        """Returns the CRC-32 of the arrays."""
        found = 0
        for array in self.arrays:
            found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
        return found


@dataclass(frozen=True, eq=False)
class PolicyRecord:
    """The record of a policy version that its owner keeps; only `params` is sent to actors.

    Attributes:
        params: The parameters that act.
        state: Returns everything that a snapshot saves of this version; it costs nothing until it is called.
        fingerprint: The fingerprint of `params` if it was computed; else 0.
        available: Whether `params` has arrays. False if only the version is known, as in a recording.
    """

    params: PolicyParams
    state: Callable[[], Mapping[str, np.ndarray]]
    fingerprint: int = 0
    available: bool = True

    def __repr__(self) -> str:
        arrays = str(len(self.params.arrays))
        return call_repr(self, version=str(self.version), arrays=arrays, available=str(self.available))

    @property
    def version(self) -> int:
        """The policy version."""
        return self.params.version

    def with_fingerprint(self) -> PolicyRecord:
        """Returns the same record with its fingerprint."""
        return replace(self, fingerprint=self.params.fingerprint())


def unknown_policy(version: int, fingerprint: int = 0) -> PolicyRecord:
    """Returns a record with the version only, for recordings and for an `EnvRunner`, which keeps no policies.

    Args:
        version: The policy version.
        fingerprint: Fingerprint of its parameters, if it was recorded. Defaults to 0.

    Returns:
        A record without arrays, which is not available.
    """
    return PolicyRecord(PolicyParams(version, ()), functools.partial(_unknown_state, version), fingerprint, False)


def _unknown_state(version: int) -> Mapping[str, np.ndarray]:
    raise StateError(describe("For this policy only the version is known, not its weights.", policy_version=version))
