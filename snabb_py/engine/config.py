"""App networks as data: which apps there are and how they are linked.

    config = Config()
    config.app("source", Source, size=64)
    config.app("sink", Sink)
    config.link("source.tx -> sink.rx")

Building a `Config` runs nothing and opens nothing; `Engine.commit` does. Two configs
that say the same are equal. Imports only errors.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from snabb_py.errors import ConfigError

if TYPE_CHECKING:
    from snabb_py.engine.app import App

NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
PORT = re.compile(r"[A-Za-z0-9_-]{1,31}")
LINK = re.compile(r"\s*([^\s.]+)\.([^\s.]+)\s*->\s*([^\s.]+)\.([^\s.]+)\s*")


@dataclass(frozen=True)
class AppSpec:
    """An app of a network: its class, its arguments, its worker.

    `worker` None: wherever the engine puts it (C apps on worker 0, Python apps on a
    worker of their own).
    """

    cls: "type[App]"
    args: Mapping[str, Any] = field(default_factory=dict)
    worker: int | None = None


@dataclass(frozen=True, order=True)
class LinkSpec:
    """A link from an output port to an input port."""

    from_app: str
    from_port: str
    to_app: str
    to_port: str

    @classmethod
    def parse(cls, text: str) -> "LinkSpec":
        """Return the link that "a.tx -> b.rx" names.

        Raises:
            ConfigError: the text has another form, or a name is not allowed.
        """
        match = LINK.fullmatch(text)
        if not match:
            raise ConfigError(f'link "{text}": expected "app.port -> app.port"')
        spec = cls(*match.groups())
        for name, form in (
            (spec.from_app, NAME),
            (spec.from_port, PORT),
            (spec.to_app, NAME),
            (spec.to_port, PORT),
        ):
            if not form.fullmatch(name):
                raise ConfigError(f'link "{text}": "{name}" is not a name')
        return spec

    def __str__(self) -> str:
        return f"{self.from_app}.{self.from_port} -> {self.to_app}.{self.to_port}"


def _ends(link: LinkSpec) -> tuple[tuple[str, str, str], ...]:
    """Return the two ports of a link; an output may have the name of an input."""
    return (
        ("output", link.from_app, link.from_port),
        ("input", link.to_app, link.to_port),
    )


@dataclass
class Config:
    """An app network: apps by name, and links."""

    apps: dict[str, AppSpec] = field(default_factory=dict)
    links: set[LinkSpec] = field(default_factory=set)
    #: Whose each port is: what has been in `links`, and may not be there any more.
    _ports: dict[tuple[str, str, str], LinkSpec] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def app(
        self,
        name: str,
        cls: "type[App]",
        /,
        *,
        worker: int | None = None,
        **args: Any,
    ) -> None:
        """Add an app.

        Args:
            name: 1 to 63 letters, digits, "_" or "-"; unique in the network.
            cls: the app class.
            worker: number of the worker that runs it.
            args: what the class takes.

        Raises:
            ConfigError: the name is taken or has other characters.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(
                f'app "{name}": a name is 1 to 63 letters, digits, "_" or "-"'
            )
        if name in self.apps:
            raise ConfigError(f'app "{name}": there are two apps of this name')
        if not isinstance(cls, type) or not hasattr(cls, "ops") or cls.ops is None:
            raise ConfigError(f'app "{name}": {cls!r} is no app class')
        if worker is not None and not isinstance(worker, int):
            raise ConfigError(f'app "{name}": worker {worker!r} is not a number')
        self.apps[name] = AppSpec(cls, args, worker)

    def place(self, name: str, worker: int | None) -> None:
        """Put an app on a worker, whatever was said before."""
        self.apps[name] = replace(self.apps[name], worker=worker)

    def give(self, name: str, **args: Any) -> None:
        """Give an app arguments beside, or in place of, those that it has."""
        spec = self.apps[name]
        self.apps[name] = replace(spec, args={**spec.args, **args})

    def remove(self, names: Iterable[str]) -> None:
        """Take apps out, and the links to and from them; others may be named too."""
        gone = set(names)
        for name in gone & self.apps.keys():
            del self.apps[name]
        self.links = {
            link
            for link in self.links
            if link.from_app not in gone and link.to_app not in gone
        }

    def link(self, text: str) -> None:
        """Add a link, "from.port -> to.port"; the apps may come later.

        Raises:
            ConfigError: the text is no link, joins an app to itself, or uses a port
                that another link has.
        """
        spec = LinkSpec.parse(text)
        if spec.from_app == spec.to_app:
            raise ConfigError(f'link "{spec}": joins an app to itself')
        if len(self._ports) < 2 * len(self.links):
            for link in self.links:
                self._ports |= dict.fromkeys(_ends(link), link)
        for end in _ends(spec):
            if (other := self._ports.get(end)) in self.links:
                _, app, port = end
                raise ConfigError(
                    f'link "{spec}": port {app}.{port} is taken by "{other}"'
                )
            self._ports[end] = spec
        self.links.add(spec)

    def copy(self) -> "Config":
        """Return a config of its own with the same apps and links."""
        return Config(dict(self.apps), set(self.links))

    def graphviz(self) -> str:
        """Return the network in Graphviz's language, for `dot -Tsvg`."""
        lines = ["digraph network {", "  rankdir=LR;", "  node [shape=box];"]
        lines += [
            f'  "{name}" [label="{name}\\n{spec.cls.__name__}"];'
            for name, spec in sorted(self.apps.items())
        ]
        lines += [
            f'  "{link.from_app}" -> "{link.to_app}"'
            f' [taillabel="{link.from_port}", headlabel="{link.to_port}"];'
            for link in sorted(self.links)
        ]
        return "\n".join([*lines, "}"])
