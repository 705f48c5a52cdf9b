"""What a power failure may leave of the files of a program: every state of the disk that a trace allows.

The model is that of ALICE (Pillai et al. 2014, "All File Systems Are Not Created Equal", OSDI), restricted to the
operations in the trace:

- The bytes that were written to a file since its last `fsync` are there, are not, are there up to some place, or are
  zeros, all of them or those of one write.
- A file or folder that was made, renamed or removed since the last `fsync` of its folder may be as before. Each of
  these operations is atomic, and what remains of several is any of them, in any order.
- What was synced is there. `fsync` of a file says nothing of its name.

File systems allow less than this: ext4 (data=ordered) and XFS keep the order of operations on names, and btrfs keeps
that of most. What holds in all of these states holds on them.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _power_trace import ROOT, Create, MakeFolder, Rename, Said, Sync, SyncFolder, Trace, Truncate, Unlink, Write

Named = Create | Rename | Unlink
Names = dict[int, dict[str, int]]  # contents of each folder: numbers of files and folders by name
_ORDERED = 6  # so many operations on the same names, or fewer, are tried in every order
_CUTS = 16  # most places at which the writes to one file are cut
_EPOCH = 1_700_000_000 * 10**9


@dataclass
class _File:
    """The bytes of a file that are safe, and what was done to it since."""

    safe: bytes = b""
    pending: list[Write | Truncate] = field(default_factory=list)
    changed: int = 0  # the event that changed it last

    def variants(self, rng: random.Random, *, is_read: bool) -> tuple[list[bytes], bool]:
        """Returns what may be left of the file, and whether that is everything that the model allows.

        Args:
            rng: Draws the cuts, if there are many writes.
            is_read: Whether the file is read at all. Of one that is not, nothing or everything is left.
        """
        count = len(self.pending)
        if not is_read:
            return list(dict.fromkeys([self.safe, _applied(self.safe, self.pending)])), True
        cuts: Sequence[int] = range(count + 1)
        if count > _CUTS:
            cuts = sorted({0, 1, count - 1, count, *rng.sample(range(count), _CUTS - 4)})
        found = [_applied(self.safe, self.pending[:cut]) for cut in cuts]
        for cut in cuts[:-1]:
            found.append(_applied(self.safe, [*self.pending[:cut], _half(self.pending[cut])]))
            zeroed = [_zeros(self.pending[cut]), *self.pending[cut + 1 :]]
            found.append(_applied(self.safe, [*self.pending[:cut], *zeroed]))
        found.append(_applied(self.safe, [_zeros(operation) for operation in self.pending]))
        return list(dict.fromkeys(found)), count <= _CUTS


def _half(operation: Write | Truncate) -> Write | Truncate:
    if isinstance(operation, Truncate):
        return operation
    return Write(operation.node, operation.offset, operation.data[: len(operation.data) // 2])


def _zeros(operation: Write | Truncate) -> Write | Truncate:
    if isinstance(operation, Truncate):
        return operation
    return Write(operation.node, operation.offset, bytes(len(operation.data)))


def _applied(safe: bytes, operations: Sequence[Write | Truncate]) -> bytes:
    data = bytearray(safe)
    for operation in operations:
        if isinstance(operation, Truncate):
            del data[operation.size :]
            data.extend(bytes(operation.size - len(data)))
            continue
        end = operation.offset + len(operation.data)
        data.extend(bytes(max(operation.offset - len(data), 0)))
        data[operation.offset : end] = operation.data
    return bytes(data)


@dataclass(frozen=True)
class State:
    """What a power failure left.

    Attributes:
        when: Number of operations before the failure.
        folders: Paths of the folders.
        files: Bytes of the files by path, and the time at which each was changed, as the number of an operation.
        facts: What the program had reported.
        pending: What the program reported next: this may have happened.
    """

    when: int
    folders: tuple[str, ...]
    files: dict[str, tuple[bytes, int]]
    facts: dict[str, Any]
    pending: dict[str, Any]

    def write(self, root: Path) -> None:
        """Writes the state into an empty folder."""
        for folder in self.folders:
            (root / folder).mkdir()
        for name, (data, changed) in self.files.items():
            path = root / name
            path.write_bytes(data)
            when = _EPOCH + changed * 10**6
            os.utime(path, ns=(when, when))


@dataclass
class Found:
    """What came out for a kind of write.

    Attributes:
        operations: Operations on files in the trace.
        moments: Moments at which the power failed.
        states: States of the disk that were read.
        exhaustive: Whether these are all that the model allows.
        faults: What was wrong, with the moment.
        seconds: How long it took.
    """

    operations: int = 0
    moments: int = 0
    states: int = 0
    exhaustive: bool = True
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


class States:
    """Finds the states that a power failure may leave.

    Args:
        trace: What the program did.
        limit: Most states at one moment. If there are more, so many are drawn.
        seed: Of what is drawn.

    Attributes:
        exhaustive: Whether all states that the model allows have been found so far.
        moments: Moments at which the power failed.
    """

    def __init__(self, trace: Trace, limit: int = 500, seed: int = 0) -> None:
        self.exhaustive, self.moments = True, 0
        self._trace, self._limit, self._rng = trace, limit, random.Random(seed)
        self._names: Names = {node: dict(entries) for node, entries in trace.folders.items()}  # those that are safe
        self._files = {node: _File(data) for node, data in trace.files.items()}
        self._pending: list[Named] = []  # operations on names that are not safe

    def __iter__(self) -> Iterator[State]:
        """Yields the states: each once for what the program had reported by then."""
        events, facts = self._trace.events, {}
        seen: set[Any] = set()
        for when in range(len(events) + 1):
            if when and isinstance(events[when - 1], Said):
                facts = facts | events[when - 1].facts  # type: ignore[union-attr]
                seen.clear()  # the same state may be too old now
            elif when:
                self._take(events[when - 1], when)
            pending = next((event.facts for event in events[when:] if isinstance(event, Said)), {})
            self.moments += 1
            for folders, files in self._at_once():
                key = (folders, tuple(sorted(files.items())))
                if key not in seen:
                    seen.add(key)
                    yield State(when, folders, files, facts, facts | pending)

    def _take(self, event: Any, when: int) -> None:
        if isinstance(event, Write | Truncate):
            file = self._files[event.node]
            file.pending.append(event)
            file.changed = when
        elif isinstance(event, Sync):
            file = self._files[event.node]
            file.safe, file.pending = _applied(file.safe, file.pending), []
        elif isinstance(event, SyncFolder):
            mine = [operation for operation in self._pending if operation.folder == event.node]
            self._pending = [operation for operation in self._pending if operation.folder != event.node]
            for operation in mine:
                _apply(self._names, operation)
        else:
            if isinstance(event, MakeFolder):
                self._names.setdefault(event.node, {})
            elif isinstance(event, Create):
                self._files[event.node] = _File(changed=when)
            self._pending.append(event)

    def _at_once(self) -> Iterator[tuple[tuple[str, ...], dict[str, tuple[bytes, int]]]]:
        """Yields the folders and files that may be left if the power fails now."""
        trees = self._trees()
        for share, (folders, nodes) in zip(_shares(self._limit, len(trees)), trees, strict=True):
            variants = []
            for path, node in nodes.items():
                # Names with a dot are those of files that are being written, and of locks: their bytes are not read.
                found, whole = self._files[node].variants(self._rng, is_read=os.path.basename(path)[0] != ".")
                self.exhaustive &= whole
                variants.append([(data, self._files[node].changed) for data in found])
            total = 1
            for each in variants:
                total *= len(each)
            if total <= share:
                chosen = list(itertools.product(*variants))
            else:
                self.exhaustive = False
                chosen = [tuple(self._rng.choice(each) for each in variants) for _ in range(share)]
            for contents in chosen:
                yield folders, dict(zip(nodes, contents, strict=True))

    def _trees(self) -> list[tuple[tuple[str, ...], dict[str, int]]]:
        """Returns the folders, and the files by path, that may be left; each such tree once."""
        choices = [self._outcomes(group) for group in _groups(self._pending)]
        combined: Iterable[Sequence[Sequence[Named]]] = itertools.product(*choices)
        if math.prod(map(len, choices)) > self._limit:
            self.exhaustive = False
            combined = [[self._rng.choice(each) for each in choices] for _ in range(self._limit)]
        found = {}
        for outcomes in combined:
            names = {node: dict(entries) for node, entries in self._names.items()}
            for operation in itertools.chain(*outcomes):
                _apply(names, operation)
            folders: list[str] = []
            files: dict[str, int] = {}
            _walk(names, ROOT, "", folders, files)
            found[tuple(folders), tuple(files.items())] = (tuple(folders), files)
        return list(found.values())

    def _outcomes(self, group: Sequence[Named]) -> list[Sequence[Named]]:
        """Returns operations that may have happened, in their order: one such sequence for each outcome."""
        tried: Iterable[Sequence[Named]] = itertools.chain.from_iterable(
            itertools.permutations(group, count) for count in range(len(group) + 1)
        )
        if len(group) > _ORDERED:
            self.exhaustive = False
            drawn = [self._rng.sample(group, self._rng.randrange(len(group) + 1)) for _ in range(self._limit)]
            tried = itertools.chain([(), group], drawn)
        folder = group[0].folder
        found = {}
        for operations in tried:
            names = {folder: dict(self._names[folder])}
            for operation in operations:
                _apply(names, operation)
            found[tuple(sorted(names[folder].items()))] = operations
        return list(found.values())


def _groups(pending: Sequence[Named]) -> list[list[Named]]:
    """Returns the operations in groups that have no name in common, so that each may happen without the others."""
    groups: list[tuple[set[tuple[int, str]], list[Named]]] = []
    for operation in pending:
        names = {(operation.folder, operation.name)}
        if isinstance(operation, Rename):
            names.add((operation.folder, operation.target))
        mine = [operation]
        for other in [group for group in groups if group[0] & names]:
            groups.remove(other)
            names, mine = names | other[0], other[1] + mine
        groups.append((names, sorted(mine, key=pending.index)))
    return [group for _, group in groups]


def _shares(limit: int, count: int) -> list[int]:
    return [max(limit // count, 1)] * count


def _apply(names: Names, operation: Named) -> None:
    entries = names[operation.folder]
    if isinstance(operation, Rename):
        if entries.get(operation.name) == operation.node:
            del entries[operation.name]
        entries[operation.target] = operation.node
    elif isinstance(operation, Unlink):
        entries.pop(operation.name, None)
    else:
        entries[operation.name] = operation.node


def _walk(names: Names, node: int, path: str, folders: list[str], files: dict[str, int]) -> None:
    for name, number in sorted(names[node].items()):
        inner = f"{path}{name}"
        if number in names:
            folders.append(inner)
            _walk(names, number, inner + "/", folders, files)
        else:
            files[inner] = number


def without(trace: Trace, *kinds: type) -> Trace:
    """Returns a trace without the events of these kinds: that of a program that forgets them."""
    return Trace(trace.folders, trace.files, [event for event in trace.events if type(event) not in kinds])


def renamed_first(trace: Trace) -> Trace:
    """Returns a trace in which a file has its last name before it is written."""
    events = list(trace.events)
    for rename in [event for event in events if isinstance(event, Rename)]:
        created = next((k for k, event in enumerate(events) if event == _creation(events, rename)), None)
        if created is not None:
            events.remove(rename)
            events.insert(created + 1, rename)
    return Trace(trace.folders, trace.files, events)


def _creation(events: Sequence[Any], rename: Rename) -> Create | None:
    return next((event for event in events if type(event) is Create and event.node == rename.node), None)


def without_sync_of_new_folders(trace: Trace) -> Trace:
    """Returns a trace in which the folder that holds a new folder is not synced right after it was made."""
    events = []
    for event in trace.events:
        after = isinstance(event, SyncFolder) and bool(events) and isinstance(events[-1], MakeFolder)
        if not after:
            events.append(event)
    return Trace(trace.folders, trace.files, events)
