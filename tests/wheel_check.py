"""What `make test-wheel` runs outside the repository: the installed package is the wheel's, and exports a policy.

python wheel_check.py ENVIRONMENT
"""

import importlib.metadata
import sys
from pathlib import Path

import keras_optix as optix

place = Path(optix.__file__).resolve()
if not place.is_relative_to(Path(sys.argv[1]).resolve()):
    sys.exit(f"keras_optix was imported from {place}, not from the environment.")
about = importlib.metadata.metadata("keras_optix")
if about["Version"] != optix.__version__ or about["License-Expression"] != "MIT":
    sys.exit(f"The metadata of the wheel are {about.json}.")
if not (place.parent / "py.typed").is_file() or not (place.parent / "__init__.pyi").is_file():
    sys.exit("The wheel lacks the files for type checkers.")
agent = optix.PPOAgent(seed=0)
agent.compile()
agent.fit(
    optix.dataset_from_env("CartPole-v1", agent, window_size=32, num_envs=8, seed=0), steps_per_epoch=2, verbose=0
)
agent.export_policy("cartpole.tflite")
versions = {
    name: importlib.metadata.version(name) for name in ("tensorflow", "keras", "numpy", "gymnasium", "ai-edge-litert")
}
print(f"keras_optix {optix.__version__} from a wheel, Python {sys.version.split()[0]}, {versions}")
