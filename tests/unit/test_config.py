"""Config and plan: names, links, ports, workers; every mistake is one line."""

import pytest

from snabb_py.apps.basic import Forward, Join, Police, Sink, Source, Split, Tee
from snabb_py.engine.app import Ports
from snabb_py.engine.config import Config, LinkSpec
from snabb_py.engine.plan import (
    Network,
    breath_order,
    difference,
    expand,
    natural_key,
)
from snabb_py.engine.python_app import PythonApp
from snabb_py.errors import ConfigError


class Relay(PythonApp):
    inputs = Ports("rx")
    outputs = Ports("tx")

    def push(self) -> None:
        self.input["rx"].move(self.output["tx"])


def chain(*classes: type) -> Config:
    config = Config()
    config.app("a0", Source)
    for i, cls in enumerate(classes, 1):
        config.app(f"a{i}", cls)
        config.link(f"a{i - 1}.tx -> a{i}.rx")
    config.app("z", Sink)
    config.link(f"a{len(classes)}.tx -> z.rx")
    return config


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.tx",
        "a.tx -> b",
        "a -> b.rx",
        "a.tx b.rx",
        "a.t/x -> b.rx",
        "é.tx -> b.rx",
    ],
)
def test_a_link_has_one_form(text: str) -> None:
    with pytest.raises(ConfigError, match="link"):
        LinkSpec.parse(text)


def test_a_link_is_what_it_says() -> None:
    spec = LinkSpec.parse(" a-1.tx2->b_2.rx ")
    assert spec == LinkSpec("a-1", "tx2", "b_2", "rx")
    assert LinkSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("name", ["", "a b", "a.b", "a/b", "x" * 64, "a>", "é"])
def test_an_app_name_is_plain(name: str) -> None:
    with pytest.raises(ConfigError, match="a name is"):
        Config().app(name, Sink)


def test_mistakes_are_named() -> None:
    config = Config()
    config.app("a", Source)
    with pytest.raises(ConfigError, match='"a": there are two apps of this name'):
        config.app("a", Sink)
    with pytest.raises(ConfigError, match="joins an app to itself"):
        config.link("a.tx -> a.rx")
    config.link("a.tx -> b.rx")
    with pytest.raises(ConfigError, match=r"port a\.tx is taken"):
        config.link("a.tx -> c.rx")
    with pytest.raises(ConfigError, match=r"port b\.rx is taken"):
        config.link("c.tx -> b.rx")
    with pytest.raises(ConfigError, match='there is no app "b"'):
        expand(config, 1)


def test_ports_are_checked() -> None:
    config = Config()
    config.app("a", Source)
    with pytest.raises(ConfigError, match=r"nothing is linked to a\.tx"):
        expand(config, 1)
    config.app("b", Forward)
    config.link("a.out -> b.rx")
    with pytest.raises(ConfigError, match='Source has no port "out"'):
        expand(config, 1)
    tee = chain(Tee)
    tee.links = {k for k in tee.links if k.from_app != "a1"}
    with pytest.raises(ConfigError, match="nothing is linked to its outputs"):
        expand(tee, 1)


def test_a_worker_must_exist() -> None:
    config = Config()
    config.app("a", Source, worker=3)
    config.app("b", Sink)
    config.link("a.tx -> b.rx")
    with pytest.raises(ConfigError, match="there is no worker 3"):
        expand(config, 2)


def test_python_apps_get_a_worker_of_their_own_and_interlinks() -> None:
    network = expand(chain(Forward, Relay, Forward), 1)
    assert network.worker_of("a1") == network.worker_of("a3") == 0
    assert network.worker_of("a2") == 1
    assert {n for n in network.apps if ">" in n} == {
        "a1.tx>",
        ">a2.rx",
        "a2.tx>",
        ">a3.rx",
    }
    for link in network.links:
        assert network.worker_of(link.from_app) == network.worker_of(link.to_app)


def test_a_breath_goes_downstream() -> None:
    config = Config()
    for name, cls in (
        ("s", Source),
        ("split", Split),
        ("x", Forward),
        ("y", Forward),
        ("join", Join),
        ("sink", Sink),
    ):
        config.app(name, cls)
    for text in (
        "s.tx -> split.rx",
        "split.tx1 -> x.rx",
        "split.tx2 -> y.rx",
        "x.tx -> join.rx1",
        "y.tx -> join.rx2",
        "join.tx -> sink.rx",
    ):
        config.link(text)
    order = breath_order(expand(config, 1), 0)
    assert order.pulls == ["s"]
    assert order.pushes == ["split", "x", "y", "join", "sink"]


def test_a_cycle_is_cut_and_everybody_breathes() -> None:
    config = Config()
    config.app("a", Forward)
    config.app("b", Forward)
    config.link("a.tx -> b.rx")
    config.link("b.tx -> a.rx")
    assert sorted(breath_order(expand(config, 1), 0).pushes) == ["a", "b"]


def test_a_long_chain_needs_no_recursion() -> None:
    order = breath_order(expand(chain(*[Forward] * 3000), 1), 0)
    assert len(order.pushes) == 3001


def test_only_what_changed_is_in_the_difference() -> None:
    def network(rate: float, hops: int) -> Network:
        config = chain(*[Forward] * hops)
        config.app("p", Police, rate_gbps=rate)
        config.app("s2", Source)
        config.app("z2", Sink)
        config.link("s2.tx -> p.rx")
        config.link("p.tx -> z2.rx")
        return expand(config, 1)

    same = difference(network(1, 2), network(1, 2))
    assert not any(vars(same).values())
    changed = difference(network(1, 2), network(2, 3))
    assert changed.reconfigure == ["p"]
    assert changed.start == ["a3"]
    assert changed.stop == changed.restart == []
    assert [str(k) for k in changed.unlink] == ["a2.tx -> z.rx"]
    assert [str(k) for k in changed.link] == ["a2.tx -> a3.rx", "a3.tx -> z.rx"]


def test_ports_are_in_natural_order() -> None:
    names = ["tx10", "tx2", "tx1", "a"]
    assert sorted(names, key=natural_key) == ["a", "tx1", "tx2", "tx10"]


def test_an_app_is_taken_out_with_its_links() -> None:
    config = Config()
    for name in ("a", "b", "c"):
        config.app(name, Tee)
    config.link("a.out -> b.in")
    config.link("b.out -> c.in")
    config.link("c.out -> a.in")
    config.remove(["b", "nobody"])
    assert config.apps.keys() == {"a", "c"}
    assert config.links == {LinkSpec.parse("c.out -> a.in")}
    config.app("b", Tee)
    config.link("a.out -> b.in")


def test_a_network_can_be_drawn() -> None:
    text = chain(Forward).graphviz()
    assert '"a0" -> "a1" [taillabel="tx", headlabel="rx"];' in text
    assert text.startswith("digraph")
    assert text.endswith("}")
