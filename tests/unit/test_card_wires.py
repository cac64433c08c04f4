"""The words for the wires of software cards: what they become, what is refused."""

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


def test_no_size_is_the_smallest() -> None:
    assert parse_sizes("") is None


def test_one_word_is_for_all_where_each_can_have_its_own() -> None:
    assert wires_of(["gen"], 3) == ["gen"] * 3
    with pytest.raises(ConfigError, match="one --wire for each"):
        wires_of(["tap:a"], 2)
