"""`snabb-py lwaftr`: the internet's end of lightweight 4over6.

A program of programs: each is imported when it is run.
"""

from importlib import import_module

import click

#: Program -> what `snabb-py lwaftr --help` says of it; module lwaftr_<program>.
PROGRAMS = {
    "bench": "Measure it, without interfaces.",
    "check": "Play captures to it; compare what comes out and what it counts.",
    "query": "Show counters of lwAFTRs that run.",
    "run": "Carry packets between two interfaces, or on one.",
}


class LwaftrPrograms(click.Group):
    """A group that imports a program when it is run, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all programs."""
        del ctx
        return sorted(PROGRAMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a program, imported now."""
        del ctx
        if cmd_name not in PROGRAMS:
            return None
        command = import_module(f"snabb_py.cli.lwaftr_{cmd_name}").program
        if not isinstance(command, click.Command):
            raise TypeError(cmd_name)
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write the programs from the table alone, importing none."""
        del ctx
        with formatter.section("Programs"):
            formatter.write_dl(sorted(PROGRAMS.items()))


@click.group(
    "lwaftr",
    cls=LwaftrPrograms,
    epilog="Each program's own manual: snabb-py lwaftr PROGRAM --help",
)
def program() -> None:
    """Carry IPv4 over IPv6 to customers who share addresses (RFC 7596).

    Each softwire is a tunnel to a B4, which has an IPv4 address or a part of its
    ports. What comes from the internet goes into the tunnel that its destination and
    port belong to; what comes out of one goes to the internet if it came from where it
    says.

    A config is the text of Snabb's YANG module, `softwire-config { ... }`, or the older
    one, `key = value` with a binding table in a file of its own; examples/lwaftr.conf
    and examples/binding.table show it.

    What the RFCs ask for is what it does; `--compat snabb`: what Snabb does where that
    is not the same.

    \b
    Examples:
      snabb-py lwaftr run --bt examples/binding.table
      snabb-py lwaftr query drop
      snabb-py lwaftr check examples/lwaftr.conf v4.pcap v6.pcap v4-out.pcap v6-out.pcap
      snabb-py lwaftr bench examples/lwaftr.conf v4.pcap v6.pcap
    """
