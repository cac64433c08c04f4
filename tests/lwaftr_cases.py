"""Snabb's end-to-end cases of the lwAFTR and observations of it, played to our app.

`tests/data/lwaftr/cases` and `observed` each have a manifest: for every row a config,
the frames that come in, those that must go out, and all counters that are not 0. A row
is played as `snabb lwaftr check` does it: all frames at once, then as long as anything
moves.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from snabb_py._native import lib
from snabb_py.lwaftr.conf import read
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.lwaftr.counters import NAMES
from snabb_py.lwaftr.lwaftr import Lwaftr, LwaftrOnAStick
from tests.captures import frames_in
from tests.harness import Harness

DATA = Path(__file__).parent / "data" / "lwaftr"
CASES, OBSERVED = DATA / "cases", DATA / "observed"

#: Of fragments, as `snabb lwaftr check` has them: those before the first ones.
FRAGMENT_IDS = (0x4242, 0x42424242)
SNABBS = frozenset(NAMES[: lib.LWAFTR_NSNABB_COUNTERS])

Counters = dict[str, int]


@dataclass(frozen=True)
class Case:
    """A row of a manifest.

    Attributes:
        deviates: where Snabb does not do what an RFC asks for; "" where it does.
        on_a_stick: it holds for one interface as well.
    """

    id: str
    config: Path
    v4: tuple[bytes, ...]
    v6: tuple[bytes, ...]
    v4_out: tuple[bytes, ...]
    v6_out: tuple[bytes, ...]
    counters: Counters
    deviates: str = ""
    on_a_stick: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of the frames; on a stick, all of it is in `v4`.

    Attributes:
        counters: Snabb's that are not 0; see `comparable`.
        own: ours.
    """

    v4: list[bytes]
    v6: list[bytes]
    counters: Counters
    own: Counters


def comparable(counters: Counters) -> Counters:
    """Return those of Snabb's that do not depend on how much memory is used."""
    return {
        name: n
        for name, n in counters.items()
        if name in SNABBS and not name.startswith("memuse-")
    }


def cases(directory: Path) -> Iterator[Case]:
    """Yield the rows of a directory's manifest."""

    def frames(name: str) -> tuple[bytes, ...]:
        return tuple(frames_in((directory / name).read_bytes()))

    with (directory / "manifest.tsv").open() as manifest:
        for row in csv.DictReader(manifest, delimiter="\t"):
            yield Case(
                row["id"],
                directory / row["conf"],
                frames(row["v4_in"]),
                frames(row["v6_in"]),
                frames(row["v4_out"]),
                frames(row["v6_out"]),
                comparable(json.loads((directory / row["counters"]).read_text())),
                row.get("rfc_deviation", ""),
                "on-a-stick" in row.get("modes", ""),
            )


@cache
def read_config(path: Path, *, compat: bool) -> LwaftrConfig:
    return read(path, compat=compat)


def make(case: Case, *, compat: bool, on_a_stick: bool = False) -> Lwaftr:
    """Return the app of a case."""
    config = read_config(case.config, compat=compat)
    cls = LwaftrOnAStick if on_a_stick else Lwaftr
    queue = config.instances[0].queues[0]
    return cls(config, queue, compat=compat, fragment_ids=FRAGMENT_IDS)


def settle(harness: Harness) -> None:
    """Breathe until nothing moves any more."""
    while harness.breathe():
        pass


def play(case: Case, *, compat: bool, on_a_stick: bool = False) -> Outcome:
    """Return what the app makes of a case."""
    with Harness(make(case, compat=compat, on_a_stick=on_a_stick)) as harness:
        v6_port = 0 if on_a_stick else lib.LWAFTR_V6
        harness.tick()
        harness.send(case.v4)
        harness.send(case.v6, port=v6_port)
        settle(harness)
        harness.tick()
        v4 = harness.received()
        v6 = [] if on_a_stick else harness.received(port=lib.LWAFTR_V6)
        counters = harness.counters
        own = {name: n for name, n in counters.items() if name not in SNABBS}
        return Outcome(v4, v6, comparable(counters), own)
