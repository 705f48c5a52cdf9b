"""The names of the package for type checkers and editors. `__init__.py` loads them when they are first used."""

from keras_optix import distributions as distributions
from keras_optix import errors as errors
from keras_optix import evaluators as evaluators
from keras_optix import live as live
from keras_optix import loggers as loggers
from keras_optix import statistics as statistics
from keras_optix import testing as testing
from keras_optix import tuners as tuners
from keras_optix.agents.agent import Agent as Agent
from keras_optix.agents.dqn import DQNAgent as DQNAgent
from keras_optix.agents.ensemble import EnsembleAgent as EnsembleAgent
from keras_optix.agents.hyperparams import Hyperparam as Hyperparam
from keras_optix.agents.make_agent import make_agent as make_agent
from keras_optix.agents.off_policy import OffPolicyAgent as OffPolicyAgent
from keras_optix.agents.off_policy import Transitions as Transitions
from keras_optix.agents.ppo import PPOAgent as PPOAgent
from keras_optix.agents.pqn import PQNAgent as PQNAgent
from keras_optix.agents.reinforce import ReinforceAgent as ReinforceAgent
from keras_optix.agents.sac import SACAgent as SACAgent
from keras_optix.callbacks.loop_callback import LoopCallback as LoopCallback
from keras_optix.callbacks.optix import OptixCallback as OptixCallback
from keras_optix.callbacks.policy_manager import PolicyManager as PolicyManager
from keras_optix.errors import ConfigurationError as ConfigurationError
from keras_optix.errors import OptixError as OptixError
from keras_optix.evaluators.base import BaseEvaluator as BaseEvaluator
from keras_optix.evaluators.returns import GreedyEvaluator as GreedyEvaluator
from keras_optix.evaluators.returns import ReturnEvaluator as ReturnEvaluator
from keras_optix.experience.dataset import dataset_from_env as dataset_from_env
from keras_optix.experience.evaluation import evaluate_policy as evaluate_policy
from keras_optix.experience.live.stream_dataset import dataset_from_stream as dataset_from_stream
from keras_optix.experience.replay_batch import ReplayBatch as ReplayBatch
from keras_optix.experience.savable import SavableEnv as SavableEnv
from keras_optix.experience.window import Window as Window
from keras_optix.loggers.plotting import plot as plot
from keras_optix.loop.after_shift import AfterShift as AfterShift
from keras_optix.loop.record import EventKind as EventKind
from keras_optix.loop.record import LoopRecord as LoopRecord
from keras_optix.loop.regimes import RegimeDetector as RegimeDetector
from keras_optix.loop.scheduler import BackoffScheduler as BackoffScheduler
from keras_optix.loop.scheduler_state import LoopState as LoopState
from keras_optix.records import EvalMetrics as EvalMetrics
from keras_optix.records import HyperparamSet as HyperparamSet
from keras_optix.records import WindowData as WindowData
from keras_optix.store.manifest import PolicySnapshot as PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry as CheckpointRegistry
from keras_optix.tuners.backoff_optimizer import BackoffOptimizer as BackoffOptimizer
from keras_optix.tuners.pbt_optimizer import PBTOptimizer as PBTOptimizer

# Names of the system's page; see `aliases.py`.
EpisodeData = WindowData
evaluate = evaluate_policy

__version__: str
