"""`snabb-py graph`: the app network of an instance that runs."""

from typing import Any

import click

from snabb_py.cli.terminal import shown
from snabb_py.cli.usage import Whole
from snabb_py.engine.control import AnswerError
from snabb_py.engine.instances import find_one


def text(config: dict[str, Any]) -> str:
    """Return a network as lines: each app, and below it where its links lead.

    Args:
        config: what the control socket's verb of this name answers.
    """
    lines = []
    for name, app in config["apps"].items():
        lines.append(f"{name} ({app['class']}, worker {app['worker']})")
        for link in config["links"]:
            source, _, target = link.partition(" -> ")
            if source.rpartition(".")[0] == name:
                lines.append(f"  {source.rpartition('.')[2]} -> {target}")
    return "\n".join(lines)


@click.command("graph")
@click.argument("pid", type=Whole(1))
@click.option("--dot", is_flag=True, help="In Graphviz's language.")
def program(*, pid: int, dot: bool) -> None:
    """Show the app network of the instance of process PID as it is now.

    Each app is a line, with its class and worker; below it where its links lead.

    \b
    Examples:
      snabb-py graph 1234
      snabb-py graph 1234 --dot | dot -Tsvg > network.svg
    """
    instance = find_one(pid)
    answer = instance.ask("graph" if dot else "config")
    try:
        lines = shown_lines(answer if dot else text(answer))
    except (KeyError, TypeError, AttributeError):
        raise AnswerError(instance.control, "no network") from None
    print(lines)


def shown_lines(lines: str) -> str:
    """Return lines as a terminal may have them."""
    return "\n".join(shown(line) for line in lines.split("\n"))
