"""Configs that change again and again under traffic; what that does to other ports.

Snabb's pairs of configs, x and y, go back and forth. Two ports of ours are in both,
and their virtual machines talk all the time (see `tests.talkers`): their packets must
all arrive, once and in order, whatever becomes of the others.
"""

import itertools
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from snabb_py.errors import ConfigError, SnabbError
from snabb_py.virtio.nfv_config import PortConfig, parse
from tests.nfv_program import Program, traffic
from tests.talkers import Flow, Talkers

DATA = Path(__file__).parent / "data/nfv/nfvconfig"
PAIRS = (
    "switch_nic", "switch_filter", "switch_qos", "switch_virtio", "switch_tunnel",
    "scale_change", "scale_up",
)  # fmt: skip
OURS = {"talker0": "02:00:00:00:00:0a", "talker1": "02:00:00:00:00:0b"}
#: With ours a card has no pool for them.
TOO_MANY = re.compile(r'\{[^{}]*port_id = "id6[23]"[^{}]*\},')
#: What makes a config wrong: text in it, its replacement, what the refusal says.
MISTAKES = (
    ('port_id="talker1"', 'port_id="talker1", vlan = 4096', ":3: .*vlan: 4096 is not"),
    ('port_id="talker1"', 'port_id="talker0"', ":3: .*port_id: talker0 is the id of"),
    ("mac_address=", "mac_adress=", ":2: .*mac_adress: unknown key; did you mean"),
    ("return {", "return {{", ":"),
    ("return {", "return os.exit() {", ":1: .*would have to be executed"),
    ("{ port_id", "{ tunnel = { }, port_id", ":2: .*tunnel: L2TPv3 tunnels are not"),
    ("{ port_id", '{ egress_filter = "ipp", port_id', ":2: .*egress_filter: "),
    ("{ port_id", '{ mirror = "/nowhere/x", port_id', "/nowhere/x"),
)  # fmt: skip


def text_of(pair: str, which: str, trunk: str) -> str:
    """Return a config of Snabb's with our ports in it."""
    text = (DATA / pair / which).read_text()
    if pair == "switch_filter":  # y lacks a comma
        text = re.sub(r'(portrange 24-25")\n', r"\1,\n", text)
    if trunk.startswith("sim"):
        text = TOO_MANY.sub("", text)
    lines = [f'{{ port_id="{n}", mac_address="{mac}" }},' for n, mac in OURS.items()]
    return text.replace("return {", "\n  ".join(["return {", *lines]), 1)


def broken(text: str) -> list[tuple[str, str]]:
    """Return configs that make no sense, each with what is to be said of it."""
    return [(text.replace(old, new, 1), said) for old, new, said in MISTAKES]


def ports_in(text: str) -> dict[str, PortConfig]:
    """Return a config's ports; of one that is refused, none."""
    try:
        ports = parse(text, "x.lua", lambda _: None).ports
    except ConfigError:
        return {}
    return {port.port_id: port for port in ports}


@dataclass
class Result:
    """What became of it.

    Attributes:
        untouched: ports that are the same in both configs.
        times: seconds that each reload took.
        refusals: seconds that each reload took that was refused.
        seconds: that it took in all.
        flows: of the ports that talked.
        rate: packets a second that arrived.
        problems: what should not have been.
    """

    untouched: list[str]
    times: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    seconds: float = 0.0
    flows: list[Flow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Packets a second that arrived."""
        return sum(flow.arrived for flow in self.flows) / self.seconds


def run(
    pair: str, trunk: str, times: int, *arguments: str, with_mistakes: bool = False
) -> Result:
    """Change from x to y and back under traffic, so many times.

    Args:
        pair: the directory of the configs.
        trunk: what the ports are joined to.
        times: reloads.
        arguments: of `nfv traffic`.
        with_mistakes: before each of them, a config that makes no sense.
    """
    texts = [text_of(pair, which, trunk) for which in "xy"]
    before, after = map(ports_in, texts)
    both = before.keys() & after.keys()
    same = sorted(name for name in both if before[name] == after[name])
    result = Result(same or list(OURS))
    with tempfile.TemporaryDirectory() as name:
        start = re.sub(r"(talker1.*\n)(.*\n)*", r"\1}", texts[0])
        first = texts[0] if before else start
        directory = Path(name)
        with traffic(directory, trunk, first, *arguments, suffix=".lua") as program:
            # Of the other ports two that stay talk too, and one that is changed sends.
            alike = [n for n in same if n not in OURS and before[n].stations][:2]
            talking = [*OURS, *(alike if len(alike) == 2 else [])]
            changed = sorted(both - set(same))[:1]
            ends, others = (
                [(program.socket(n), OURS.get(n) or before[n].macs[0]) for n in names]
                for names in (talking, changed)
            )
            with Talkers(ends, others) as talkers:
                began = time.monotonic()
                reason = "" if before else "tunnels are not there yet"
                for step in _steps(texts, times, reason, with_mistakes=with_mistakes):
                    _change(program, result, *step)
                result.flows = talkers.stop()
                result.seconds = time.monotonic() - began
            _look_at(program, result)
    return result


def _steps(
    texts: Sequence[str], times: int, reason: str, *, with_mistakes: bool
) -> Iterator[tuple[str, str]]:
    """Yield configs in turn, each with what its refusal says; "": it is none."""
    mistakes = itertools.cycle(broken(texts[0]))
    for i in range(times):
        if with_mistakes:
            yield next(mistakes)
        yield texts[(i + 1) % 2], reason


def _change(program: Program, result: Result, text: str, expected: str) -> None:
    """Reload a config, which is to be refused if a reason is expected."""
    program.write(text)
    began = time.monotonic()
    try:
        answer = str(program.ask("reload"))
        is_right = not expected
        result.times.append(time.monotonic() - began)
    except SnabbError as error:
        answer = str(error)
        is_right = bool(expected and re.search(expected, answer))
        result.refusals.append(time.monotonic() - began)
    if not is_right:
        result.problems.append(f"answered {answer!r}, not {expected!r}")


def _look_at(program: Program, result: Result) -> None:
    """Judge the flows and what the program has counted."""
    for flow in result.flows:
        if not flow.is_whole:
            result.problems.append(str(flow))
    summary = program.end()
    for port in summary["ports"]:
        if port["port"] in OURS:
            drops = port["to"]["drops"] | port["from"]["drops"]
            result.problems += [f"{reason}: {n}" for reason, n in drops.items()]
