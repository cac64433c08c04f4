"""`snabb-py packetblaster`: traffic for whatever is to be tested.

A program of programs: each is imported when it is run.
"""

import click

from snabb_py.cli import Programs

#: Program -> what `snabb-py packetblaster --help` says of it; module
#: packetblaster_<program>.
PROGRAMS = {
    "lwaftr": "Send what the softwires of a binding table carry.",
    "replay": "Send captures: in their own time, at a rate, or as fast as is taken.",
    "synth": "Send packets made up: sizes, flows, ranges, or any scapy expression.",
}


@click.group(
    "packetblaster",
    cls=Programs,
    table=PROGRAMS,
    prefix="snabb_py.cli.packetblaster_",
    epilog="Each program's own manual: snabb-py packetblaster PROGRAM --help",
)
def program() -> None:
    """Send traffic at an exact rate, and check what comes back.

    \b
    Examples:
      snabb-py packetblaster synth sim --flows 1000
      snabb-py packetblaster synth raw:eth1 --rate 2Gbps --imix --duration 10
      snabb-py packetblaster synth raw:eth1 --receive raw:eth2 --latency --rate 10kpps
      snabb-py packetblaster replay capture.pcap raw:eth1
      snabb-py packetblaster lwaftr --bt examples/binding.table --side v4 raw:eth1
    """
