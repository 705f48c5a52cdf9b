"""Lets Keras load a saved agent after `import keras_optix` alone.

Keras finds the class of a saved model among the registered classes. The classes of this package are registered when
their modules are imported, but these modules import TensorFlow, which `import keras_optix` must not do. So for each
class a stand-in is registered, which imports the class when it is needed to load a model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_SAVING = "keras.saving"
_REGISTRY = "get_custom_objects"  # the function of `keras.saving` that returns the registered classes by name
_MODULES = {
    "Agent": "keras_optix.agents.agent",
    "BernoulliDistribution": "keras_optix.agents.distributions",
    "CategoricalDistribution": "keras_optix.agents.distributions",
    "DQNAgent": "keras_optix.agents.dqn",
    "EnsembleAgent": "keras_optix.agents.ensemble",
    "EpsilonGreedyDistribution": "keras_optix.agents.epsilon_greedy",
    "GaussianDistribution": "keras_optix.agents.distributions",
    "MultiCategoricalDistribution": "keras_optix.agents.distributions",
    "NarrowOrthogonal": "keras_optix.agents.initializers",
    "PPOAgent": "keras_optix.agents.ppo",
    "PQNAgent": "keras_optix.agents.pqn",
    "ReinforceAgent": "keras_optix.agents.reinforce",
    "RunningMoments": "keras_optix.agents.normalization",
    "SACAgent": "keras_optix.agents.sac",
    "SquashedGaussianDistribution": "keras_optix.agents.squashed",
    "SquashedStateDependentNoise": "keras_optix.agents.squashed",
    "StateDependentNoise": "keras_optix.agents.distributions",
}


class ClassToImport:
    """A stand-in for a class. When a model of this class is loaded, the class is imported and replaces the stand-in.

    Args:
        name: Name of the class.
        module: Module of the class.
    """

    def __init__(self, name: str, module: str) -> None:
        self._name = name
        self._module = module

    def from_config(self, config: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Imports the class, which registers it, and returns its object for a config."""
        return getattr(importlib.import_module(self._module), self._name).from_config(config, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<class '{self._module}.{self._name}'>"


def register_saved_classes() -> None:
    """Registers the stand-ins at once if Keras is already imported, otherwise as soon as it is imported."""
    saving = sys.modules.get(_SAVING)
    if saving is not None and hasattr(saving, _REGISTRY):
        _register(saving)
    elif not any(isinstance(finder, _KerasImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasImport())


def _register(saving: ModuleType) -> None:
    registered = getattr(saving, _REGISTRY)()
    for name, module in _MODULES.items():
        registered.setdefault(f"keras_optix>{name}", ClassToImport(name, module))


class _KerasImport(MetaPathFinder):
    """Notices the import of Keras. It finds no modules itself, and removes itself afterwards."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec that the other finders find, with a loader that registers the stand-ins."""
        if fullname != _SAVING:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((found for found in specs if found is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader, self)
        return spec


class _RegisteringLoader(Loader):
    """Loads `keras.saving` as its own loader does, and registers the stand-ins."""

    def __init__(self, loader: Loader, finder: MetaPathFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """See `importlib.abc.Loader`."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        # The module gets its own loader back, because resources and reloads need it.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register(module)
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
