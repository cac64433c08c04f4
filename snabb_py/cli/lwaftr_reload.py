"""A running `snabb-py lwaftr run`: its files are watched and followed.

A config that makes sense takes the place of the one that there is, whole: each lwAFTR
gets it between two breaths, and a packet is treated by the one or by the other. One
that makes none is refused, and all runs on.
"""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from snabb_py.cli.lwaftr_config import Source
from snabb_py.cli.lwaftr_network import Network
from snabb_py.cli.lwaftr_obstacles import obstacles
from snabb_py.cli.watch import Seen, Watch, signatures_of
from snabb_py.engine.engine import Engine
from snabb_py.errors import SnabbError
from snabb_py.lwaftr.conf_types import LwaftrConfig


class Running:
    """An lwAFTR and the config that it has.

    Args:
        source: where the config comes from.

    Attributes:
        lw: the config.
        watch: over its files.

    Raises:
        SnabbError: the config is wrong.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.watch = Watch()
        seen: Seen = {}
        self.lw = source.read(seen)
        self.watch.seen = seen
        self._said: set[str] = set()
        self._lock = threading.RLock()

    def start(
        self, engine: Engine, network: Network, log: Callable[[str], None]
    ) -> None:
        """Follow the files from now on.

        Args:
            engine: runs the network.
            network: of the config that there is.
            log: takes a line for the user.
        """
        self.engine, self.network, self.log = engine, network, log
        self._tell(engine.notes.append)
        self.watch.start(engine.timers, self._follow)
        engine.verbs["reload"] = (
            "read the files again, now: what has changed, or why it cannot be",
            lambda _engine, _request: self.reload(),
        )

    def reload(self) -> str:
        """Read the files again and follow them; return what has changed.

        Raises:
            SnabbError: they make no sense, or cannot be; nothing has changed.
        """
        with self._lock:
            seen: Seen = {}
            try:
                lw = self.source.read(seen)
            finally:
                # Those that were there before may be what is to be mended.
                self.watch.seen = signatures_of(self.watch.seen) | seen
            text = describe(self.lw, lw)
            self.engine.commit(self.network.with_config(lw))
            self.lw = lw
            self.watch.seen = seen
            self._tell(self.log)
            return text

    def _tell(self, log: Callable[[str], None]) -> None:
        """Say what runs here, and what is odd about it."""
        words, source = self.network.words, self.source
        facts = {
            "interfaces": words,
            "conf": source.conf and os.fspath(source.conf.absolute()),
            "bt": source.bt and os.fspath(source.bt.absolute()),
            "softwires": len(self.lw.binding_table),
            "workers": len(self.network.lwaftrs),
        }
        if self.engine.directory:
            self.engine.directory.tell(facts)
        for line in (*obstacles(self.lw, source.words), *self._oddities()):
            if line not in self._said:
                log(line)
                self._said.add(line)

    def _oddities(self) -> Iterator[str]:
        if not self.lw.binding_table:
            yield "the binding table is empty: nobody has a softwire, all is dropped"

    def _follow(self) -> None:
        path = os.fspath(self.source.conf or self.source.bt or "")
        try:
            self.log(f"{path}: {self.reload()}")
        except SnabbError as error:
            self.log(f"{error}; all runs on as it was")


def describe(old: LwaftrConfig, new: LwaftrConfig) -> str:
    """Return what has changed, in words."""
    softwires = old.binding_table.difference(new.binding_table)
    counts = [
        f"{n} {what}"
        for n, what in (
            (softwires.added, "added"),
            (softwires.removed, "removed"),
            (softwires.changed, "changed"),
        )
        if n
    ]
    parts = [f"softwires: {', '.join(counts)}"] if counts else []
    if softwires.is_managed:
        parts.append("other addresses in psid_map")
    before, after = old.instances[0].queues[0], new.instances[0].queues[0]
    for side, pairs in (
        ("IPv4", ((old.external, new.external), (before.external, after.external))),
        ("IPv6", ((old.internal, new.internal), (before.internal, after.internal))),
    ):
        changed = [name for a, b in pairs for name in changes(a, b)]
        if changed:
            parts.append(f"{side} side: {', '.join(changed)}")
    return "; ".join(parts) or "nothing has changed"


def changes(old: Any, new: Any) -> Iterator[str]:
    """Yield the names of fields in which two of a dataclass differ."""
    for field in fields(old):
        if getattr(old, field.name) != getattr(new, field.name):
            yield field.name.replace("_", "-")
