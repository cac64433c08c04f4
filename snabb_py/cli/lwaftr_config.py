"""What `snabb-py lwaftr run` is configured with: files, options, what the kernel knows.

Read at the start, and again whenever a file has changed.
"""

from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

import click

from snabb_py.cli.cards import parse_sim
from snabb_py.cli.lwaftr_ends import (
    IPV4,
    IPV6,
    Said,
    end_of,
    kernel_mtu,
    on_one_queue,
    without_asking,
)
from snabb_py.cli.watch import Seen
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.conf import read, read_table
from snabb_py.lwaftr.conf_types import (
    ExternalInterface,
    InternalInterface,
    LwaftrConfig,
)

#: Bytes of packets without a config: whole ones of Ethernet, in a tunnel too.
MTU = 1500
TUNNEL_MTU = 1540
#: Those that hosts may rely on (RFC 791, 3.2; RFC 8200, 5), and what a length can say.
IPV4_LEAST_MTU, IPV6_LEAST_MTU, MOST_MTU = 68, 1280, 65535


@dataclass(frozen=True)
class Source:
    """Where the config comes from.

    Attributes:
        conf: file of a config; None: there is none.
        bt: file of a binding table; None: the config's is used.
        words: interfaces of both sides, IPv4 first; on a stick twice the same.
        said: who we are there, without a config; of both sides.
        compat: see `conf.read`.

    Raises:
        UsageError: these do not go together.
    """

    conf: Path | None
    bt: Path | None
    words: tuple[str, str]
    said: tuple[Said, Said]
    compat: bool = False

    def __post_init__(self) -> None:
        if self.conf is None and self.bt is None:
            raise click.UsageError("give --bt, --conf or both")
        if self.conf is not None and any(side != Said() for side in self.said):
            raise click.UsageError("addresses are --conf's: give it, or them")

    def read(self, seen: Seen) -> LwaftrConfig:
        """Return the config, its first queue that of these interfaces.

        Args:
            seen: gets the files that are read, and how they are; see `conf.read`.

        Raises:
            SnabbError: it is wrong, or not complete.
        """
        if self.conf is not None:
            config = read(self.conf, table=self.bt, compat=self.compat, seen=seen)
        else:
            config = self._of_options(seen)
        queue = config.instances[0].queues[0]
        external, internal = queue.external, queue.internal
        if is_made_up(self.words[0]):
            external = without_asking(external, IPV4)
        if is_made_up(self.words[1]):
            internal = without_asking(internal, IPV6)
        return on_one_queue(config, external, internal)

    def _of_options(self, seen: Seen) -> LwaftrConfig:
        """Return the config of a table, and of what is said or known beside it."""
        assert self.bt is not None  # noqa: S101 - __post_init__
        v4, v6 = self.words
        external = end_of(IPV4, v4, self.said[0])
        internal = end_of(IPV6, v6, self.said[1])
        own = (IPv6Address(internal.ip),)
        table = read_table(self.bt, own=own, compat=self.compat, seen=seen)
        config = LwaftrConfig(
            table,
            (),
            ExternalInterface(mtu=longest(v4, MTU, IPV4_LEAST_MTU)),
            InternalInterface(mtu=longest(v6, TUNNEL_MTU, IPV6_LEAST_MTU)),
        )
        return on_one_queue(config, external, internal)


def longest(word: str, default: int, least: int) -> int:
    """Return the bytes of an interface's longest packet, where no config says it.

    Raises:
        ConfigError: they are fewer than the protocol wants.
    """
    mtu = kernel_mtu(word) or default
    if mtu < least:
        raise ConfigError(f'interface "{word}": its MTU is {mtu}, less than {least}')
    return min(mtu, MOST_MTU)


def is_made_up(word: str) -> bool:
    """Return whether an interface is a software card with a generator on its wire."""
    if word.partition(",")[0] != "sim":
        return False
    return parse_sim(word).options.get("wire", "gen") == "gen"
