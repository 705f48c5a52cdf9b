"""What type checkers and editors see of the package: `__init__.py` loads these names when they are first used."""

from keras_optix import testing as testing
from keras_optix.agents.agent import Agent as Agent
from keras_optix.agents.ensemble import EnsembleAgent as EnsembleAgent
from keras_optix.agents.hyperparameters import Hyperparameter as Hyperparameter
from keras_optix.agents.ppo import PPOAgent as PPOAgent
from keras_optix.agents.reinforce import ReinforceAgent as ReinforceAgent
from keras_optix.callbacks.loop_callback import LoopCallback as LoopCallback
from keras_optix.callbacks.optix import OptixCallback as OptixCallback
from keras_optix.callbacks.policy_manager import PolicyManager as PolicyManager
from keras_optix.errors import ConfigurationError as ConfigurationError
from keras_optix.errors import EnvError as EnvError
from keras_optix.errors import FeedError as FeedError
from keras_optix.errors import HyperparameterError as HyperparameterError
from keras_optix.errors import LoweringError as LoweringError
from keras_optix.errors import NonFiniteError as NonFiniteError
from keras_optix.errors import OptixError as OptixError
from keras_optix.errors import RegistryError as RegistryError
from keras_optix.errors import SpaceError as SpaceError
from keras_optix.errors import StateError as StateError
from keras_optix.evaluators.base import BaseEvaluator as BaseEvaluator
from keras_optix.evaluators.evaluation import Evaluation as Evaluation
from keras_optix.evaluators.monitors import MonitorEvaluator as MonitorEvaluator
from keras_optix.evaluators.returns import GreedyEvaluator as GreedyEvaluator
from keras_optix.evaluators.returns import ReturnEvaluator as ReturnEvaluator
from keras_optix.experience.dataset import dataset_from_env as dataset_from_env
from keras_optix.experience.evaluation import evaluate as evaluate
from keras_optix.experience.live.feeds import Boundary as Boundary
from keras_optix.experience.live.feeds import Feed as Feed
from keras_optix.experience.live.feeds import Reconnect as Reconnect
from keras_optix.experience.live.feeds import StreamStep as StreamStep
from keras_optix.experience.live.feeds import every_n_seconds as every_n_seconds
from keras_optix.experience.live.feeds import every_n_steps as every_n_steps
from keras_optix.experience.live.feeds import on_done as on_done
from keras_optix.experience.live.replay import ReplayFeed as ReplayFeed
from keras_optix.experience.live.replay import replay_feed as replay_feed
from keras_optix.experience.live.stream import FeedCounts as FeedCounts
from keras_optix.experience.live.stream_dataset import dataset_from_stream as dataset_from_stream
from keras_optix.experience.savable import SavableEnv as SavableEnv
from keras_optix.experience.window import Window as Window
from keras_optix.loop.after_shift import AfterShift as AfterShift
from keras_optix.loop.regimes import RegimeDetector as RegimeDetector
from keras_optix.loop.scheduler import BackoffScheduler as BackoffScheduler
from keras_optix.loop.scheduler_state import LoopState as LoopState
from keras_optix.records import EpisodeRecord as EpisodeRecord
from keras_optix.records import EvalMetrics as EvalMetrics
from keras_optix.records import HyperparamSet as HyperparamSet
from keras_optix.records import WindowData as WindowData
from keras_optix.statistics.estimates import Estimate as Estimate
from keras_optix.statistics.estimates import Evidence as Evidence
from keras_optix.store.manifest import PolicySnapshot as PolicySnapshot
from keras_optix.store.registry import CheckpointRegistry as CheckpointRegistry
from keras_optix.tuners.backoff_optimizer import BackoffOptimizer as BackoffOptimizer
from keras_optix.tuners.base_optimizer import BaseOptimizer as BaseOptimizer
from keras_optix.tuners.base_optimizer import TunerDecision as TunerDecision
from keras_optix.tuners.pbt_optimizer import PBTOptimizer as PBTOptimizer
from keras_optix.tuners.schedule import ReplaySchedule as ReplaySchedule
from keras_optix.tuners.schedule import Schedule as Schedule
from keras_optix.tuners.schedule import ScheduleStep as ScheduleStep
from keras_optix.tuners.search_space import Int as Int
from keras_optix.tuners.search_space import Linear as Linear
from keras_optix.tuners.search_space import Log as Log
from keras_optix.tuners.search_space import OneMinusLog as OneMinusLog
from keras_optix.tuners.search_space import SearchSpace as SearchSpace

# Names of the system's page; see `aliases.py`.
EpisodeData = WindowData

__version__: str
