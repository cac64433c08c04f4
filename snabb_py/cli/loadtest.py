"""`snabb-py loadtest`: what a network function does under load.

A program of programs: each is imported when it is run.
"""

import click

from snabb_py.cli import Programs

#: Program -> what `snabb-py loadtest --help` says of it; module loadtest_<program>.
PROGRAMS = {
    "find-limit": "Search for the highest rate at which no packet is lost (RFC 2544).",
    "transient": "Offer a load that goes up and down in steps; count what is lost.",
}


@click.group(
    "loadtest",
    cls=Programs,
    table=PROGRAMS,
    prefix="snabb_py.cli.loadtest_",
    epilog="Each program's own manual: snabb-py loadtest PROGRAM --help",
)
def program() -> None:
    """Send numbered packets through a device, at rates that it may not be up to.

    The device under test is whatever is between the interfaces TX and RX. Without
    interfaces it is this machine: `snabb-py forward` between two software cards.

    \b
    Examples:
      snabb-py loadtest find-limit
      snabb-py loadtest find-limit --hops 8 --police 2
      snabb-py loadtest find-limit raw:eth1 raw:eth2 --size 1518
      snabb-py loadtest find-limit 01:00.0 01:00.1 01:00.1 01:00.0 --size imix
      snabb-py loadtest transient raw:eth1 raw:eth2 --ramp up --max 2Gbps
    """
