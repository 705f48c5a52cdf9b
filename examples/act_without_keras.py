"""Plays an episode with a policy that `agent.export_policy(path)` wrote, without TensorFlow, Keras and keras_optix.

python examples/act_without_keras.py cartpole.tflite [CartPole-v1]
"""

import sys

import gymnasium
import numpy as np
from ai_edge_litert.interpreter import Interpreter

act = Interpreter(sys.argv[1]).get_signature_runner("act")
dtype = act.get_input_details()["observation"]["dtype"]
env = gymnasium.make(sys.argv[2] if len(sys.argv) > 2 else "CartPole-v1")
observation, _ = env.reset(seed=0)
score, over = 0.0, False
while not over:
    action = act(observation=np.asarray(observation, dtype)[None])["action"][0]
    observation, reward, terminated, truncated, _ = env.step(action)
    score, over = score + float(reward), terminated or truncated
print(f"return {score:g}")
