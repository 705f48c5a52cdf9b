"""A world that ticks at a fixed rate and waits for nobody, over TCP on the loopback; a process of its own.

Each tick it sends a number, two values and the reward of the last action that arrived: 1 if it named the larger of the
two values it was chosen for, else 0. It notes when each tick was sent and when the answer to it came. At the end it
prints as JSON what it sent and how long answers took on the way there and back, socket and scheduling included.

    python benchmarks/_live_server.py --rate 1000 --seconds 60
"""

from __future__ import annotations

import argparse
import json
import random
import selectors
import socket
import struct
import time

TICK = struct.Struct("<qfff")  # number, two values, reward
ANSWER = struct.Struct("<qi")  # number, action
PATIENCE = 4.0  # times the time that it ticks: a client that waits for its learner answers late


def play(link: socket.socket, rate: float, seconds: float) -> dict[str, object]:
    """Ticks until the time is up; whatever does not fit into the socket is kept and sent later."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(link, selectors.EVENT_READ)
    rng = random.Random(0)
    sent_at: dict[int, float] = {}
    wanted: dict[int, int] = {}
    durations: list[float] = []
    outgoing, incoming = bytearray(), bytearray()
    number, reward, backlog = 0, 0.0, 0
    began = due = time.perf_counter()
    while True:
        now = time.perf_counter()
        if now >= due and now - began < seconds:
            values = rng.random(), rng.random()
            wanted[number], sent_at[number] = int(values[1] > values[0]), now
            outgoing += TICK.pack(number, *values, reward)
            number, due = number + 1, due + 1.0 / rate
        if outgoing:
            try:
                del outgoing[: link.send(outgoing)]
            except BlockingIOError:
                backlog = max(backlog, len(outgoing) // TICK.size)
        if now - began >= seconds and (not sent_at or now - began >= PATIENCE * seconds):
            break  # all answers are there
        if selector.select(max(min(due - time.perf_counter(), 0.01), 0.0)):
            data = link.recv(65536)
            if not data:
                break
            incoming += data
            now = time.perf_counter()
            while len(incoming) >= ANSWER.size:
                answered, action = ANSWER.unpack_from(incoming)
                del incoming[: ANSWER.size]
                durations.append(now - sent_at.pop(answered))
                reward = float(action == wanted.pop(answered))
    return {"sent": number, "durations": durations, "backlog": backlog}


def main() -> None:
    """Serves one client, then prints what it measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000.0, help="ticks per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        link, _ = listener.accept()
    with link:
        measured = play(link, arguments.rate, arguments.seconds)
    print(json.dumps(measured), flush=True)  # nobody reads it before the connection is closed


if __name__ == "__main__":
    main()
