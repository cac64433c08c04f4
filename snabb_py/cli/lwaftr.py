"""`snabb-py lwaftr`: the internet's end of lightweight 4over6.

A program of programs: each is imported when it is run.
"""

import click

from snabb_py.cli import Programs

#: Program -> what `snabb-py lwaftr --help` says of it; module lwaftr_<program>.
PROGRAMS = {
    "bench": "Measure it, without interfaces.",
    "check": "Play captures to it; compare what comes out and what it counts.",
    "query": "Show counters of lwAFTRs that run.",
    "run": "Carry packets between two interfaces, or on one.",
}


@click.group(
    "lwaftr",
    cls=Programs,
    table=PROGRAMS,
    prefix="snabb_py.cli.lwaftr_",
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
