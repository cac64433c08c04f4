"""`snabb-py lwaftr check`: captures played to an lwAFTR, and what comes of them."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import click

from snabb_py._native import lib
from snabb_py.cli.lwaftr_options import COMPAT, read_frames, write_frames
from snabb_py.cli.terminal import printable
from snabb_py.cli.usage import PATH
from snabb_py.engine.config_file import read_config_file
from snabb_py.engine.solo import Solo
from snabb_py.errors import WRITE_HINTS, ConfigError, DeviceError
from snabb_py.lwaftr.conf import LwaftrConfig, read
from snabb_py.lwaftr.conf_types import Queue
from snabb_py.lwaftr.counters import NAMES
from snabb_py.lwaftr.lwaftr import Lwaftr, LwaftrOnAStick

#: Of fragments: IPv4 and IPv6 identifications before the first ones, as Snabb has them.
FRAGMENT_IDS = (0x4242, 0x42424242)
#: Packets in the pool: what may wait for its fragments among them.
PACKETS = 32768
#: Bytes of a file of counters.
COUNTERS_MAX = 1 << 20
#: Frames of each side that come at once: what they may be cut up into fits a link.
STEP = 4
#: Bytes that are shown where two frames differ.
EXCERPT = 16
#: Bytes of the Ethernet header up to the type, and a VLAN's tag.
TYPE, TAG = 12, 4
VLAN, IPV4, ARP = b"\x81\x00", b"\x08\x00", b"\x08\x06"

Counters = dict[str, int]
Frames = Sequence[bytes]


@dataclass(frozen=True)
class Outcome:
    """What came out on each side, and all counters that are not 0."""

    v4: Frames
    v6: Frames
    counters: Counters


def play(
    config: LwaftrConfig, v4: Frames, v6: Frames, *, compat: bool, on_a_stick: bool
) -> Outcome:
    """Return what an lwAFTR makes of frames, in a time of its own: always the same."""
    queue = config.instances[0].queues[0]
    cls = LwaftrOnAStick if on_a_stick else Lwaftr
    app = cls(config, queue, compat=compat, fragment_ids=FRAGMENT_IDS)
    out: tuple[list[bytes], list[bytes]] = ([], [])
    with Solo(app, small=PACKETS) as solo:
        solo.tick()
        step = STEP
        for i in range(0, max(len(v4), len(v6), 1), step):
            solo.send(v4[i : i + step])
            solo.send(v6[i : i + step], port=len(app.inputs.names) - 1)
            while solo.breathe():
                pass
            for port in range(len(app.outputs.names)):
                out[port].extend(solo.received(port))
        solo.tick()
        for port in range(len(app.outputs.names)):
            out[port].extend(solo.received(port))
        counters = solo.counters
    if on_a_stick:
        out = _sides(out[0], queue)
    return Outcome(*out, _comparable(counters))


def _sides(frames: Frames, queue: Queue) -> tuple[list[bytes], list[bytes]]:
    """Tell the sides of what an interface for both has sent."""
    v4: list[bytes] = []
    v6: list[bytes] = []
    for frame in frames:
        (v4 if _is_external(frame, queue) else v6).append(frame)
    return v4, v6


def _is_external(frame: bytes, queue: Queue) -> bool:
    vlan = queue.external.vlan_tag
    tag = b"" if vlan is None else VLAN + vlan.to_bytes(2, "big")
    if vlan != queue.internal.vlan_tag:
        return (
            frame[TYPE : TYPE + 2] != VLAN
            if vlan is None
            else (frame[TYPE : TYPE + TAG] == tag)
        )
    at = TYPE + len(tag)
    return frame[at : at + 2] in {IPV4, ARP}


def _comparable(counters: Counters) -> Counters:
    """Return those that do not depend on how much memory is used."""
    return {k: n for k, n in counters.items() if not k.startswith("memuse-")}


# -- expectations --------------------------------------------------------------


def read_counters(path: Path) -> Counters:
    """Return counters that are expected.

    Raises:
        ConfigError: they are no JSON object of counters.
        DeviceError: the file cannot be read.
    """
    try:
        found = json.loads(read_config_file(path, COUNTERS_MAX))
    except ValueError as error:
        raise ConfigError(f"{path}: no JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: no JSON: too many values in each other") from None
    if not isinstance(found, dict):
        raise ConfigError(f'{path}: expected an object, {{"in-ipv4-packets": 1, ...}}')
    for name, n in found.items():
        if name not in NAMES:
            raise ConfigError(
                f'{path}: "{printable(name)}" is no counter of the lwAFTR'
            )
        if not isinstance(n, int) or isinstance(n, bool):
            raise ConfigError(f'{path}: "{name}": expected a whole number')
    return _comparable(found)


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        DeviceError: it cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        number = error.errno or 0
        hint = WRITE_HINTS.get(number, "")
        raise DeviceError(f"write {path}", number, hint) from None


def frame_differences(side: str, expected: Frames, found: Frames) -> Iterator[str]:
    """Yield a line for each frame that is not what was expected."""
    for i, (want, got) in enumerate(zip_longest(expected, found), start=1):
        if want == got:
            continue
        if got is None:
            yield f"{side}: frame {i}: does not come, {len(want)} bytes"
        elif want is None:
            yield f"{side}: frame {i}: not expected: {got[: 4 * EXCERPT].hex()}"
        else:
            yield f"{side}: frame {i}: {_difference(want, got)}"


def _difference(want: bytes, got: bytes) -> str:
    pairs = enumerate(zip_longest(want, got))
    at = next(i for i, (a, b) in pairs if a != b)
    end = at + EXCERPT
    lengths = "" if len(want) == len(got) else f"; {len(want)} and {len(got)} bytes"
    return (
        f"from byte {at} on expected {want[at:end].hex() or 'its end'}, "
        f"is {got[at:end].hex() or 'its end'}{lengths}"
    )


def counter_differences(expected: Counters, found: Counters) -> Iterator[str]:
    """Yield a line for each counter that is not what was expected.

    Counters that Snabb does not have are compared where they are expected.
    """
    snabbs = set(NAMES[: lib.LWAFTR_NSNABB_COUNTERS])
    for name in NAMES:
        want, got = expected.get(name, 0), found.get(name, 0)
        if want != got and (name in snabbs or name in expected):
            yield f"{name}: expected {want}, is {got}"


@click.command("check", epilog="Exit status: 0 all is as expected, 1 it is not.")
@click.argument("conf", type=PATH)
@click.argument("v4_in", type=PATH)
@click.argument("v6_in", type=PATH)
@click.argument("v4_out", type=PATH)
@click.argument("v6_out", type=PATH)
@click.argument("counters", type=PATH, required=False)
@click.option(
    "-r", "--regen", is_flag=True, help="Write what comes to the last files instead."
)
@click.option("--on-a-stick", is_flag=True, help="One interface for both sides.")
@COMPAT
def program(  # noqa: PLR0913 - the arguments of a program
    *,
    conf: Path,
    v4_in: Path,
    v6_in: Path,
    v4_out: Path,
    v6_out: Path,
    counters: Path | None,
    regen: bool,
    on_a_stick: bool,
    compat: str | None,
) -> None:
    """Play two captures to an lwAFTR; compare what comes out and what it counts.

    V4_IN comes from the internet, V6_IN from the B4s; V4_OUT and V6_OUT are what must
    go there, in this order. COUNTERS is a JSON object of the counters that must not be
    0; those of memory are not compared, nor those that Snabb does not have, unless
    they are named.

    It needs no interface, and happens in a time of its own: fragments' identifications
    are counted from 0x4243 and 0x42424243, next hops are asked for once, at the begin,
    and nothing waits for what the captures do not have.

    On a stick, what came out is told apart by VLAN, or IPv4 and ARP from all else.

    \b
    Examples:
      snabb-py lwaftr check lw.conf v4.pcap v6.pcap v4-out.pcap v6-out.pcap c.json
      snabb-py lwaftr check -r lw.conf v4.pcap v6.pcap v4-out.pcap v6-out.pcap c.json
    """
    is_compat = compat is not None
    config = read(conf, compat=is_compat)
    v4, v6 = read_frames(v4_in), read_frames(v6_in)
    outcome = play(config, v4, v6, compat=is_compat, on_a_stick=on_a_stick)
    if regen:
        write_frames(v4_out, outcome.v4)
        write_frames(v6_out, outcome.v6)
        if counters:
            text = json.dumps(dict(sorted(outcome.counters.items())), indent=2)
            write(counters, f"{text}\n")
        return
    differences = [
        *frame_differences("v4", read_frames(v4_out), outcome.v4),
        *frame_differences("v6", read_frames(v6_out), outcome.v6),
    ]
    if counters:
        expected = read_counters(counters)
        differences += counter_differences(expected, outcome.counters)
    for line in differences:
        print(line)
    if differences:
        sys.exit(1)
