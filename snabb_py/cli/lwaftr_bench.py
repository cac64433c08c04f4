"""`snabb-py lwaftr bench`: how fast it is, without interfaces."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from snabb_py.apps.basic import Sink
from snabb_py.apps.traffic import Frames, Generator, Template
from snabb_py.cli import lwaftr_own
from snabb_py.cli.lwaftr_options import COMPAT, app_drops, read_frames
from snabb_py.cli.options import place_workers
from snabb_py.cli.run import Ending, wire_gbps
from snabb_py.cli.terminal import complain
from snabb_py.cli.usage import PATH, Number, Whole
from snabb_py.engine.config import Config
from snabb_py.engine.engine import Engine
from snabb_py.errors import ConfigError
from snabb_py.lwaftr.conf import LwaftrConfig, read
from snabb_py.lwaftr.lwaftr import Lwaftr

#: Seconds that it runs before the clock starts: caches and branches are warm by then.
WARM_UP = 0.2
#: Packets for each worker: full links, and what waits for its fragments.
WORKER_PACKETS = 16384
#: Bytes of each side's frames in a breath, about: so few that the copies stay in the
#: nearest cache from one breath to the next. And packets, at least and at most.
BREATH_BYTES = 5000
LEAST_BURST, MOST_BURST = 8, 32
#: Bytes of captures that stay near. Others are waited for, by many packets at once.
NEAR_BYTES = 2**20
#: What is done to packets, by the side that they leave by.
DIRECTIONS = {"v4": "decap", "v6": "encap"}


def templates(path: Path) -> Frames:
    """Return the frames of a capture, to be sent as they are.

    Raises:
        ConfigError: there are none, or one cannot be sent.
    """
    frames = Frames(Template(frame, stamp=False) for frame in read_frames(path))
    if not frames:
        raise ConfigError(f"{path}: no packet in it")
    return frames


def burst_of(frames: Sequence[Template]) -> int:
    """Return how many of these frames a breath brings in."""
    nbytes = sum(len(template.frame) for template in frames)
    if nbytes > NEAR_BYTES:
        return MOST_BURST
    return max(LEAST_BURST, min(MOST_BURST, BREATH_BYTES * len(frames) // nbytes))


def network(
    conf: LwaftrConfig,
    v4: Frames,
    v6: Frames,
    *,
    compat: bool,
    nworkers: int,
) -> Config:
    """Return an lwAFTR on each worker, with sources and sinks of its own.

    The frames are all workers' together: a copy for each would push the others' out of
    the cache.
    """
    config = Config()
    queues = conf.instances[0].queues
    for i in range(nworkers):
        app, queue = f"lwaftr{i}", queues[i % len(queues)]
        config.app(app, Lwaftr, worker=i, config=conf, queue=queue, compat=compat)
        for side, frames in (("v4", v4), ("v6", v6)):
            source, sink = f"{side}-source{i}", f"{side}-sink{i}"
            config.app(source, Generator, worker=i, frames=frames)
            config.app(sink, Sink, worker=i)
            config.link(f"{source}.tx -> {app}.{side}")
            config.link(f"{app}.{side} -> {sink}.rx")
    return config


def forwarded(engine: Engine, nworkers: int) -> dict[str, tuple[int, int]]:
    """Return packets and bytes that have been forwarded, by the side they left by.

    What leaves, less what the lwAFTRs themselves have said.
    """
    return {side: _left(engine, side, nworkers) for side in DIRECTIONS}


def _left(engine: Engine, side: str, nworkers: int) -> tuple[int, int]:
    packets = nbytes = 0
    for i in range(nworkers):
        link = engine.link(f"lwaftr{i}.{side} -> {side}-sink{i}.rx").counters
        app = engine.apps[f"lwaftr{i}"].counters
        packets += link["rxpackets"] - lwaftr_own.sent(app, side)
        nbytes += link["rxbytes"] - lwaftr_own.sent(app, side, "bytes")
    return max(0, packets), max(0, nbytes)


def measure(engine: Engine, nworkers: int, duration: float) -> dict[str, Any]:
    """Return the rates of both directions over so many seconds."""
    engine.main(duration=WARM_UP)
    start, before = time.monotonic(), forwarded(engine, nworkers)
    engine.main(duration=duration)
    end, after = time.monotonic(), forwarded(engine, nworkers)
    seconds = end - start
    result: dict[str, Any] = {"seconds": round(seconds, 6)}
    for side, name in DIRECTIONS.items():
        packets, nbytes = (
            max(0, b - a) for a, b in zip(before[side], after[side], strict=True)
        )
        result[f"{name}_mpps"] = round(packets / seconds / 1e6, 4)
        result[f"{name}_gbps"] = round(wire_gbps(packets, nbytes, seconds), 4)
    return result


def show(result: dict[str, Any]) -> None:
    """Print the result as text."""
    for name, what in (("decap", "decapsulation"), ("encap", "encapsulation")):
        mpps, gbps = result[f"{name}_mpps"], result[f"{name}_gbps"]
        print(f"{what}: {mpps:.3f} Mpps, {gbps:.3f} Gbps")
    for reason, n in result["drops"].items():
        print(f"  {reason}: {n}")


@click.command("bench")
@click.argument("conf", type=PATH)
@click.argument("v4", type=PATH)
@click.argument("v6", type=PATH)
@click.option(
    "--duration",
    type=Number(0.01, 86400),
    default=5.0,
    show_default=True,
    metavar="S",
    help="Seconds to measure.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
@click.option(
    "--cpu",
    "cpu_list",
    metavar="LIST",
    help='Pin the worker to this CPU; "2,4-5": as many workers, a CPU each.',
)
@click.option(
    "--workers",
    type=Whole(1, 64),
    metavar="N",
    help="Workers with an lwAFTR each; as many as --cpu has, or 1.",
)
@COMPAT
def program(  # noqa: PLR0913 - the options of a program
    *,
    conf: Path,
    v4: Path,
    v6: Path,
    duration: float,
    as_json: bool,
    cpu_list: str | None,
    workers: int | None,
    compat: str | None,
) -> None:
    """Send two captures through an lwAFTR again and again; show its rates.

    V4 is what comes from the internet, V6 what comes from the B4s. One worker does all
    of it in turns: each packet of a capture is copied into a buffer of its own, goes
    through the lwAFTR and is counted where it leaves; ICMP errors and what else the
    lwAFTR says for itself are not. Of several workers each does that by itself, with
    the same binding table.

    Absolute rates depend on the machine and the minute: compare what was measured in
    turns. scripts/verify/lwaftr-speed does that.
    """
    is_compat = compat is not None
    cpus = place_workers(workers, cpu_list)
    begin = time.monotonic()
    config = read(conf, compat=is_compat)
    load_seconds = time.monotonic() - begin
    sources = templates(v4), templates(v6)
    packets = WORKER_PACKETS * len(cpus)
    burst = burst_of([frame for source in sources for frame in source])
    with (
        Ending() as ending,
        Engine(
            workers=len(cpus),
            cpus=cpus,
            packets=packets,
            burst=burst,
            busy=True,
            log=complain,
        ) as engine,
    ):
        ending.of(engine)
        engine.commit(network(config, *sources, compat=is_compat, nworkers=len(cpus)))
        result = measure(engine, len(cpus), duration)
        drops = app_drops(engine, [f"lwaftr{i}" for i in range(len(cpus))])
    result |= {
        "softwires": len(config.binding_table),
        "load_seconds": round(load_seconds, 4),
        "workers": len(cpus),
        "drops": drops,
    }
    if as_json:
        print(json.dumps({"benchmark": "lwaftr", **result}))
    else:
        show(result)
