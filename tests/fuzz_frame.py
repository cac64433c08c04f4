"""The process in which fuzzers' episodes run, and the one that watches it.

A program in `scripts/verify` calls `main` with its kinds of episodes. They run one
after another in a process whose extension is compiled with ASan and UBSan; what fails
is cut down to the actions that it takes, and the line to repeat it is printed.
"""

import argparse
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import episodes

PROGRAM = Path(sys.argv[0]).resolve()
ROOT = PROGRAM.parents[2]
TREE = ROOT / "build" / PROGRAM.name
#: Seconds until an episode counts as hung.
HANG = 240
#: Seconds for making a failure small.
SHRINKING = 300
#: Bytes that the memory in use may grow by, caches of the interpreter and all.
MOST_GROWTH = 256 << 10


@dataclass(frozen=True)
class Kind:
    """A kind of episodes.

    Attributes:
        module: has the class `Episode`.
        nactions: of an episode.
        share: of the time that it gets.
    """

    module: str
    nactions: int
    share: float = 1.0


Kinds = Mapping[str, Kind]


@dataclass
class Result:
    """What all episodes did and saw together."""

    seed: int
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    allocated: list[int] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """By how many bytes the memory in use has grown since the beginning."""
        n = max(len(self.allocated) // 5, 1)
        after = sorted(self.allocated[-n:])
        before = sorted(self.allocated[n : 2 * n] or self.allocated)
        return after[len(after) // 2] - before[len(before) // 2]

    def never(self, prefix: str = "") -> tuple[int, list[str]]:
        """Return how many counters there are of a prefix, or none, and which are 0."""
        names = [
            name
            for name in self.seen
            if (name.startswith(prefix) if prefix else " " not in name)
        ]
        silent = sorted(n.removeprefix(prefix) for n in names if not self.seen[n])
        return len(names), silent

    def leaks(self) -> str:
        """Return what is said of leaks; an episode that leaves anything has failed."""
        kib = self.growth / 2**10
        return (
            "leaks: 0 packets, 0 file descriptors, 0 mappings, memory "
            f"{kib:+.1f} KiB (at most {MOST_GROWTH >> 10})"
        )


# ---- the process that is hurt --------------------------------------------------------


def run_episode(kind: Kind, seed: int, actions: Sequence[int]) -> dict[str, Any]:
    """Run one; return what was done and seen, and how much memory is in use."""
    episode = importlib.import_module(kind.module).Episode
    faulthandler.dump_traceback_later(HANG - 20)
    totals = episodes.run_episode(episode, seed, actions)
    faulthandler.cancel_dump_traceback_later()
    gc.collect()
    allocated = ctypes.CDLL(None)["__sanitizer_get_current_allocated_bytes"]
    allocated.restype = ctypes.c_size_t
    return {"done": totals.done, "seen": totals.seen, "allocated": allocated()}


def serve(kinds: Kinds) -> None:
    """Run the episodes that stdin names, a line each, and answer each with a line."""
    for line in sys.stdin:
        kind, seed, actions = json.loads(line)
        print(json.dumps(run_episode(kinds[kind], seed, actions)), flush=True)


# ---- the process that watches it -----------------------------------------------------


def build() -> None:
    """Compile a copy of the package with sanitizers, apart from the real one."""
    shutil.rmtree(TREE, ignore_errors=True)
    TREE.mkdir(parents=True)
    for name in ("snabb_py", "tests"):
        shutil.copytree(ROOT / name, TREE / name, ignore=shutil.ignore_patterns("*.so"))
    for name in (
        "pyproject.toml",
        "setup.cfg",
        "setup.py",
        "README.md",
        "LICENSE",
        "NOTICE",
    ):
        shutil.copy(ROOT / name, TREE / name)
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=TREE,
        env={**os.environ, "SNABB_SANITIZE": "1"},
        check=True,
    )


def environment() -> dict[str, str]:
    """Return what the stock interpreter needs to load the sanitized extension."""
    names = [
        subprocess.check_output(
            [os.environ.get("CC", "cc"), f"-print-file-name=lib{name}.so"], text=True
        ).strip()
        for name in ("asan", "ubsan")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(names),
        "PYTHONPATH": str(TREE),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=64",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


class Hurt(Exception):  # noqa: N818 - what is done, not what is wrong
    """An episode failed; what the process said."""


class Victim:
    """The process that runs episodes."""

    def __init__(self) -> None:
        self.errors = (TREE / "errors").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            cwd=TREE,
            env=environment(),
            text=True,
        )

    def run(self, kind: str, seed: int, actions: Sequence[int]) -> dict[str, Any]:
        """Have it run an episode.

        Raises:
            Hurt: it failed, died or hangs.
        """
        process = self.process
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([kind, seed, list(actions)]) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], HANG)
        line = process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        how = "it died or failed" if ready else f"it hangs for {HANG} s"
        self.close()
        self.errors.seek(0)
        raise Hurt(f"{how}:\n{self.errors.read()[-6000:]}")

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.communicate()


def fails(kind: str, seed: int, actions: Sequence[int]) -> str:
    """Return what a process of its own says to these actions; "": all is well."""
    victim = Victim()
    try:
        victim.run(kind, seed, actions)
    except Hurt as hurt:
        return str(hurt)
    finally:
        victim.close()
    return ""


def shrink(kind: str, seed: int, nactions: int) -> list[int]:
    """Return actions that still fail, as few as can be found in time."""
    actions = list(range(nactions))
    deadline = time.monotonic() + SHRINKING
    part = len(actions) // 2
    while part and time.monotonic() < deadline:
        for start in range(0, len(actions), part):
            fewer = actions[:start] + actions[start + part :]
            if time.monotonic() < deadline and fails(kind, seed, fewer):
                actions = fewer
                break
        else:
            part //= 2
    return actions


def draw(kinds: Kinds, seed: int) -> Iterator[tuple[str, int]]:
    """Yield kinds and seeds without end, each kind's share of the time."""
    rng = random.Random(seed)  # noqa: S311 - repeatable
    spent = dict.fromkeys(kinds, 0.0)
    while True:
        kind = min(kinds, key=lambda kind: spent[kind] / kinds[kind].share)
        start = time.monotonic()
        yield kind, rng.getrandbits(32)
        spent[kind] += time.monotonic() - start


def fuzz(kinds: Kinds, seed: int, seconds: float) -> Result:
    """Run episodes for so long; what fails ends the program."""
    result = Result(seed)
    victim = Victim()
    start = time.monotonic()
    for kind, episode in draw(kinds, seed):
        nactions = kinds[kind].nactions
        try:
            answer = victim.run(kind, episode, range(nactions))
        except Hurt as hurt:
            print(f"seed {seed}, {kind} episode {episode}: {hurt}", flush=True)
            actions = ",".join(map(str, shrink(kind, episode, nactions)))
            sys.exit(f"{sys.argv[0]} --replay {kind}:{episode}:{actions}")
        result.kinds[kind] += 1
        result.done.update(answer["done"])
        result.seen.update(answer["seen"])
        result.allocated.append(answer["allocated"])
        result.seconds = time.monotonic() - start
        if result.seconds > seconds:
            break
    victim.close()
    return result


def main(kinds: Kinds, default_seconds: float) -> Result:
    """Fuzz, or repeat and exit, as the program's arguments say.

    Returns:
        what is to be printed and judged; memory has been.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=default_seconds)
    parser.add_argument("--seed", type=int, default=random.getrandbits(32))
    parser.add_argument("--replay", metavar="KIND:SEED[:ACTION,...]")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(kinds)
        sys.exit()
    build()
    if not options.replay:
        return fuzz(kinds, options.seed, options.seconds)
    kind, seed, *actions = options.replay.split(":")
    chosen = [int(n) for n in actions[0].split(",")] if actions else None
    if said := fails(kind, int(seed), chosen or range(kinds[kind].nactions)):
        sys.exit(said)
    print("all is well")
    sys.exit()


def judge(result: Result, missing: Sequence[str], least_seconds: float) -> None:
    """End with an error if memory has grown, or counters are missing."""
    if result.growth > MOST_GROWTH:
        sys.exit("memory leaks")
    if missing and result.seconds >= least_seconds:
        sys.exit("not every reason has come")
