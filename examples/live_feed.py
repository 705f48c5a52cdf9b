"""A world that waits for nobody: PPO steers a cart behind a WebSocket, in real time.

The server ticks 200 times a second, whether somebody answers or not. The agent acts on each tick while it learns from
those before; where the connection is lost, it comes back. It goes on until Ctrl-C.

python examples/live_feed.py [--seconds 60] [--kill-every 10] [--record monday.rec]
python examples/live_feed.py --replay monday.rec
python examples/live_feed.py --serve --port 8765     # the world alone; the other side takes --no-server
pip install 'keras_optix[live]'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

import keras_optix as optix  # TensorFlow only comes with what is used of it: the server starts in a second

TICKS = 200  # of an episode, and of a window


class Cart:
    """A cart that is pushed left (0), not at all (1) or right (2), and should stay near a point that drifts.

    Args:
        action: The one in force.
    """

    def __init__(self, action: int = 1) -> None:
        self.action = action
        self.position, self.speed = random.uniform(-1.0, 1.0), 0.0
        self.point, self.drift = 0.0, 0.0

    def step(self) -> float:
        """One tick; the reward is 1 at the point, and -1 at a distance of 2 or more."""
        self.speed = 0.9 * self.speed + 0.01 * (self.action - 1)
        self.position += self.speed
        self.drift = 0.98 * self.drift + random.gauss(0.0, 0.002)
        self.point += self.drift
        return 1.0 - min(abs(self.point - self.position), 2.0)

    def observe(self) -> list[float]:
        """Distance to the point, speed, drift of the point."""
        return [self.point - self.position, 10.0 * self.speed, 10.0 * self.drift]


async def play(link: ServerConnection, rate: float) -> None:
    """One client's world; it begins with the connection.

    The reward of a tick is that of the action in force at it. An action that comes after its tick acts a tick later.
    """
    cart = Cart()

    async def listen() -> None:
        async for message in link:
            cart.action = int(message)

    listening = asyncio.create_task(listen())
    try:
        now = asyncio.get_running_loop().time
        due, reward = now(), 0.0
        for number in range(sys.maxsize):
            ended = number % (TICKS + 1) == TICKS  # an episode has a first observation, and one after each tick
            message = {"number": number, "observation": cart.observe(), "reward": reward, "truncated": ended}
            async with asyncio.timeout(1.0):  # who does not read is cut off: what waits for him must not grow
                await link.send(json.dumps(message))
            due += 1.0 / rate
            await asyncio.sleep(due - now())
            if ended:
                cart, reward = Cart(cart.action), 0.0
            else:
                reward = cart.step()
    except (OSError, WebSocketException):
        pass  # the client is gone, or too slow
    finally:
        listening.cancel()


async def run_server(port: int, rate: float, until_eof: bool) -> None:
    """Serves until it is killed; or until its input ends, which happens when the process that started it is no more."""
    async with serve(lambda link: play(link, rate), "127.0.0.1", port, compression=None):
        await (asyncio.to_thread(sys.stdin.read) if until_eof else asyncio.Future())


class CartFeed:
    """The client's side: what `dataset_from_stream` reads.

    Args:
        url: Of the server.

    Attributes:
        returns: Of the episodes that were seen from their beginning to their end.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, url: str) -> None:
        self._url = url
        self._link: ClientConnection | None = None
        self.returns: list[float] = []

    def stream(self) -> Iterator[Any]:
        """One connection."""
        # Above all, `close` must not wait for the answer of a server that hangs.
        with connect(self._url, compression=None, proxy=None, open_timeout=5.0, close_timeout=0.5) as self._link:
            total = 0.0
            while True:
                message = json.loads(self._link.recv(timeout=5.0))  # silence is a lost connection, too
                total += message["reward"]
                if message["truncated"]:
                    self.returns.append(total)
                    total = 0.0
                seen = np.asarray(message["observation"], np.float32)
                action = yield seen, message["reward"], False, message["truncated"], {"number": message["number"]}
                self._link.send(str(int(action)))

    def close(self) -> None:
        """Makes a `recv` that waits raise; from another thread."""
        if self._link is not None:
            self._link.close()


@contextlib.contextmanager
def server(port: int, rate: float, kill_every: float | None = None) -> Iterator[None]:
    """Runs the server in a process of its own; kills it every `kill_every` seconds and starts another one."""
    ended = threading.Event()

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--serve", "--until-eof", "--port", str(port), "--rate", str(rate)]
        # A Ctrl-C in the terminal goes to all processes of the session; the server is to outlive the client.
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def stop(process: subprocess.Popen[bytes]) -> None:
        with process:  # closes its input
            process.kill()

    def watch() -> None:
        process = start()
        while not ended.wait(kill_every):
            stop(process)
            process = start()
        stop(process)

    watching = threading.Thread(target=watch, daemon=True)
    try:
        watching.start()
        yield
    finally:
        ended.set()
        if watching.is_alive():
            watching.join()


def make_agent() -> optix.PPOAgent:
    """PPO for a cart: what a push does is over soon, so the discount is small."""
    agent = optix.PPOAgent(gamma=0.95)
    agent.compile(optimizer="adam")
    return agent


def reconnect(tries: int) -> optix.live.Reconnect:
    """What websockets raises for a lost connection (`ConnectionClosed`) or a broken handshake is no OSError."""
    return optix.live.Reconnect(tries=tries, on=(OSError, EOFError, WebSocketException))


def train(feed: optix.live.Feed, arguments: argparse.Namespace) -> None:
    """Trains until the time is over, the feed ends or is lost for good, or Ctrl-C; then says how it went."""
    agent = make_agent()
    dataset = optix.dataset_from_stream(
        feed,
        agent,
        boundary=None
        if arguments.replay
        else optix.live.every_n_steps(TICKS),  # a replay has the windows of its recording
        reconnect=reconnect(arguments.tries),
        deadline=1.0 / arguments.rate,
        record=arguments.record,
    )
    callback = optix.OptixCallback(
        checkpoint_dir=arguments.checkpoint_dir, log_dir=arguments.log_dir, resume=arguments.resume
    )
    timer = threading.Timer(arguments.seconds or 0.0, callback.stop)
    timer.daemon = True
    if arguments.seconds is not None:
        timer.start()
    try:
        agent.fit(dataset, callbacks=[callback])
    finally:
        timer.cancel()
        print(dataset.feed_counts)
        if isinstance(feed, CartFeed) and feed.returns:
            first, last = statistics.mean(feed.returns[:5]), statistics.mean(feed.returns[-5:])
            print(f"mean return of the first five episodes {first:.1f}, of the last five {last:.1f}; at most {TICKS}")


def main() -> None:
    """Serves, trains on the server, or trains on a recording."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="be the server")
    parser.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-server", action="store_true", help="connect to one that runs already")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--rate", type=float, default=200.0, help="ticks per second")
    parser.add_argument("--seconds", type=float, default=None, help="stop after so long, compiling included")
    parser.add_argument("--kill-every", type=float, default=None, help="kill the server every so many seconds")
    parser.add_argument("--tries", type=int, default=7, help="to reach the server again; 7 take about ten seconds")
    parser.add_argument("--record", default=None, help="file to keep what comes in and goes out")
    parser.add_argument("--replay", default=None, help="such a file, to train on it instead")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the directory that was cut off")
    parser.add_argument("--checkpoint-dir", default="checkpoints/live_feed")
    parser.add_argument("--log-dir", default="runs/live_feed")
    arguments = parser.parse_args()
    if arguments.replay and (arguments.seconds is not None or arguments.resume):
        parser.error("a replay ends by itself, and begins at its beginning")

    if arguments.serve:
        asyncio.run(run_server(arguments.port, arguments.rate, arguments.until_eof))
    elif arguments.replay:
        train(optix.live.replay_feed(arguments.replay), arguments)
    else:
        started = not arguments.no_server
        print(f"a cart at port {arguments.port}, {arguments.rate:g} ticks per second; Ctrl-C ends it", flush=True)
        with server(arguments.port, arguments.rate, arguments.kill_every) if started else contextlib.nullcontext():
            train(CartFeed(f"ws://127.0.0.1:{arguments.port}"), arguments)


def die_of_ctrl_c() -> None:
    """Ends the process at once, as Ctrl-C does: `fit` has closed everything, and TensorFlow takes seconds to end."""
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        die_of_ctrl_c()
