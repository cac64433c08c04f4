"""The words for the wires of software cards: what they become, what is refused."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from snabb_py.apps.traffic import IMIX, Checker, Generator
from snabb_py.cli.card_wires import Port, join, parse_sizes, wires_of
from snabb_py.engine.config import Config
from snabb_py.errors import ConfigError
from snabb_py.nic.model82599 import Card


def network(wire: str) -> Config:
    """Return the app network of one card with this wire."""
    config = Config()
    with Card() as card:
        join(config, [Port("card", card, cast("Any", Path()), wire)])
    return config


def generated(wire: str) -> list[bytes]:
    """Return the frames of a gen wire, in their order."""
    frames = network(wire).apps["wire0-in"].args["frames"]
    return [template.frame for template in frames]


@pytest.mark.parametrize(
    ("wire", "sizes"),
    [
        ("gen,flows=1", [60]),
        ("gen,flows=1,size=1518", [1514]),
        ("gen,flows=2,size=64+1518", [60, 60, 1514, 1514]),
        ("gen,flows=1,vlan=7", [62]),
        ("gen,flows=1,ip=6", [78]),
    ],
)
def test_sizes_of_frames(wire: str, sizes: list[int]) -> None:
    assert sorted(map(len, generated(wire))) == sizes


def test_imix() -> None:
    sizes = [len(frame) + 4 for frame in generated("gen,flows=1,size=imix")]
    assert sorted(sizes) == sorted(IMIX)


def test_frames_are_for_the_card() -> None:
    with Card() as card:
        mac = card.mac
    assert all(frame.startswith(mac) for frame in generated("gen"))


def test_a_tag() -> None:
    assert generated("gen,vlan=7")[0][12:16] == bytes.fromhex("81000007")


def test_gen_makes_and_checks_and_sink_checks() -> None:
    gen, sink = network("gen").apps, network("sink").apps
    assert [gen["wire0-in"].cls, gen["wire0-out"].cls] == [Generator, Checker]
    assert [spec.cls for name, spec in sink.items() if name != "card"] == [Checker]


@pytest.mark.parametrize(
    "wire", ["gen,size=64+x", "gen,size=+", "gen,vlan=4096", "gen,ip=5", "gen,x=1"]
)
def test_wrong_words(wire: str) -> None:
    with pytest.raises(ConfigError, match="gen"):
        network(wire)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("rate=1,rate=2", "rate: given twice"),
        ("rate=", "neither packets a second nor Gbps"),
        ("rate=1.2.3", "neither packets a second nor Gbps"),
        ("rate=1e300Gbps", "10Gbps, which is 14.88Mpps of this size"),
        ("rate=1e999Gbps", "10Gbps, which is 14.88Mpps of this size"),
        ("rate=10.1Gbps", "10Gbps, which is 14.88Mpps of this size"),
        ("rate=14.881Mpps", "10Gbps, which is 14.88Mpps of this size"),
        ("rate=0.0001", "not within 0.001pps"),
        ("rate=0", "not within 0.001pps"),
        ("rate=0Gbps", "not within 0.001pps"),
        ("rate=0.9Mpps,size=1518", "is 0.812Mpps of this size"),
        ("size=64+99999", "size: 99999 is not within 64 to 10244"),
        ("flows=1e3", "flows: .* is no whole number"),
        ("flows=" + "9" * 5000, "flows: .* is no whole number"),
        ("flows=-1", "flows: .* is no whole number"),
        ("flows=999999999", "flows: 999999999 of these sizes need"),
        ("flows=1000000,size=10000", "at most"),
        ("vlan=+1", "vlan: .* is no whole number"),
        ("ip=5", 'ip: "5" is neither 4 nor 6'),
    ],
)
def test_what_cannot_be_made_is_named(options: str, text: str) -> None:
    with pytest.raises(
        ConfigError, match=f'^wire "gen,{re.escape(options)}": .*{text}'
    ):
        network(f"gen,{options}")


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ("rate=10Gbps", {"rate_gbps": 10}),
        ("rate=14.88Mpps", {"rate_pps": 14.88e6}),
        ("rate=.5kpps", {"rate_pps": 500}),
        ("rate=0.001", {"rate_pps": 0.001}),
        ("rate=0.812Mpps,size=1518", {"rate_pps": 812e3}),
        ("rate=10Gbps,size=imix,ip=6", {"rate_gbps": 10}),
        ("", {"rate_pps": 1e5}),
    ],
)
def test_rates_that_a_cable_carries(options: str, rate: dict[str, float]) -> None:
    wire = f"gen,{options}" if options else "gen"
    args = network(wire).apps["wire0-in"].args
    assert {k: v for k, v in args.items() if k.startswith("rate")} == rate


def test_no_size_is_the_smallest() -> None:
    assert parse_sizes("") is None


def test_one_word_is_for_all_where_each_can_have_its_own() -> None:
    assert wires_of(["gen"], 3) == ["gen"] * 3
    with pytest.raises(ConfigError, match="one --wire for each"):
        wires_of(["tap:a"], 2)
