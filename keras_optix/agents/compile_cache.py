"""Lets XLA use what an earlier process compiled, so that the first window of a `fit` need not wait for it.

Compiling the train step takes most of the time until the first update. The cache is in ``~/.cache/keras_optix`` (or
below ``$XDG_CACHE_HOME``), in a folder for each combination of versions and CPU features. It is used on Linux, where
these features are known, for steps that XLA compiles for the CPU.

The environment variable ``KERAS_OPTIX_COMPILE_CACHE``, set before the package is imported, is the folder to use
instead, or ``off``.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_optix import xla_flags
from keras_optix.experience.stderr import STDERR
from keras_optix.store.compiled import LOGGER, CompiledStore, PrivateCopy

_OLDEST = (2, 21)  # TensorFlow 2.18 prints errors when it reads such files; nothing between was tried
# What decides how XLA compiles for this CPU, beside the program, from whose fingerprint XLA makes the name of an entry.
_SETTINGS = ("XLA_FLAGS", "TF_ENABLE_ONEDNN_OPTS", "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")
# Lines that TensorFlow writes for each entry that it reads. It reads the file as a text first. And it looks for two
# features among those of the CPU that are none: they say how LLVM compiles (openxla/xla, issue 44565).
_NOISE = (b"tensorflow.XlaSerializedCacheEntry", b"cpu_aot_loader.cc")
_CPU_LINES = ("flags", "Features", "model name", "CPU part")


class CompileCache:
    """The cache of this process. It begins once, before something is compiled.

    Args:
        folder: The private folder that TensorFlow was told; None for no cache.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._copy: PrivateCopy | None = None

    def begin(self) -> None:
        """Fills the private folder with what earlier processes compiled, if that has not been done yet."""
        folder, self._folder = self._folder, None
        if folder is None or not is_supported():
            return
        try:
            self._copy = PrivateCopy(CompiledStore(store_folder()), Path(folder))
        except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
            LOGGER.debug("What XLA compiles is not kept for the next process: %s", error)
            return
        atexit.register(self._end)

    @contextlib.contextmanager
    def compiling(self) -> Iterator[None]:
        """Surrounds a call in which XLA compiles a step of this package: what it compiles is stored.

        What XLA compiles outside of it is not, because what TensorFlow would write when it reads that in the next
        process could not be left out.
        """
        copy = self._copy
        if copy is None:
            yield
            return
        copy.pass_over()
        with STDERR.without(*_NOISE):
            yield
        copy.keep()

    def _end(self) -> None:
        if self._copy is not None:
            self._copy.pass_over()
            self._copy.close()


def is_supported() -> bool:
    """Returns whether the features of the CPU are known, and TensorFlow's version was tried."""
    version = tuple(int(part) for part in tf.__version__.split(".")[:2])
    return Path("/proc/cpuinfo").is_file() and version >= _OLDEST


def store_folder() -> Path:
    """Returns the folder for these versions on this CPU.

    Raises:
        RuntimeError: There is no home directory.
    """
    given, base = os.environ.get(xla_flags.VARIABLE, ""), os.environ.get("XDG_CACHE_HOME", "")
    above = Path(given) if given else (Path(base) if base else Path.home() / ".cache") / "keras_optix"
    settings = [os.environ.get(name, "") for name in _SETTINGS]
    threads = f"{len(os.sched_getaffinity(0))} {tf.config.threading.get_intra_op_parallelism_threads()}"
    facts = (tf.__version__, keras.__version__, platform.machine(), cpu_features(), threads, *settings)
    return above / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def cpu_features() -> str:
    """Returns the lines of ``/proc/cpuinfo`` that name the CPU and its instructions, of the first core."""
    lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.split(":")[0].strip() in _CPU_LINES)


COMPILE_CACHE = CompileCache(xla_flags.FOLDER)


def compiled_at_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that XLA compiles when it is called for the first time, see `CompileCache.compiling`."""
    compiled = False

    def call(*args: Any) -> Any:
        nonlocal compiled
        if compiled:
            return function(*args)
        with COMPILE_CACHE.compiling():
            result = function(*args)
        compiled = True
        return result

    return call
