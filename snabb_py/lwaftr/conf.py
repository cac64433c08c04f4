"""The config of `snabb-py lwaftr`, read from either format.

    softwire-config { ... }      the text of the YANG module snabb-softwire-v3
    key = value                  the old `lwaftr.conf`, which names a binding table

What is wrong is said with file, line, column and what was expected. Imports engine.
"""

import re
from collections.abc import Collection
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

from snabb_py.engine.config_file import Signature, read_config_file, signature_of
from snabb_py.lwaftr import conf_properties, conf_statements
from snabb_py.lwaftr.binding_table import BindingTable
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.lwaftr.text import Text

__all__ = ["LwaftrConfig", "read", "read_table"]

#: Bytes of a file: 30 million softwires.
FILE_MAX: Final = 4 << 30

#: White space and comments of either format.
_SPACE: Final = rb"(?:\s++|#[^\n]*+|//[^\n]*+|/\*(?s:.*?)\*/)*+"
#: What a file begins with, and what it is then.
_PROPERTY: Final = re.compile(_SPACE + rb"([A-Za-z0-9_]++)(?:\s|#[^\n]*\n)*+=")
_STATEMENT: Final = re.compile(_SPACE + rb"(softwire-config)\s*+\{")
_TABLE: Final = re.compile(_SPACE + rb"(?i:(psid_map|br_addresses|softwires))\s*+\{")
#: A comment of the old format, where none is in the other one.
_HASH: Final = re.compile(rb"(?:\s++|//[^\n]*+|/\*(?s:.*?)\*/)*+(#)")

Seen = dict[Path, Signature]  #: files that were opened, as they were then


def read(
    path: str | Path,
    table: str | Path | None = None,
    *,
    compat: bool = False,
    seen: Seen | None = None,
) -> LwaftrConfig:
    """Return the config in a file of either format.

    Args:
        path: of the file.
        table: a binding table of the old format instead of the config's own.
        compat: as Snabb has it: the first softwire of an address says how its ports
            are divided, reserved ports are those below 2 ** their bit count, and
            nobody asks whether a softwire's addresses can be.
        seen: gets all files that are opened, also if something is wrong.

    Raises:
        DeviceError: a file cannot be read.
        ConfigError: something in it is wrong, with line and column.
    """
    path = Path(path)
    seen = {} if seen is None else seen
    own_table = None if table is None else _open_table(Path(table), seen)
    text = _open(path, seen)
    if _PROPERTY.match(text.data):
        return conf_properties.parse(
            text,
            lambda name: _open(path.parent / name, seen),
            table=own_table,
            compat=compat,
        )
    if found := _TABLE.match(text.data):
        text.fail(
            found.start(1),
            "a binding table, not a config: `lwaftr run --bt` takes it, or a config "
            "names it",
        )
    if _STATEMENT.match(text.data) and (found := _HASH.match(text.data)):
        text.fail(found.start(1), "comments begin with // in this format")
    return conf_statements.parse(text, table=own_table, compat=compat)


def read_table(
    path: str | Path,
    *,
    own: Collection[IPv6Address] = (),
    compat: bool = False,
    seen: Seen | None = None,
) -> BindingTable:
    """Return the binding table in a file of the old format; see `read`.

    Args:
        path: of the file.
        own: addresses of our interfaces, where no B4 can be.
        compat: see `read`.
        seen: see `read`.
    """
    text = _open_table(Path(path), {} if seen is None else seen)
    return conf_properties.parse_table(text, own=own, compat=compat)


def _open(path: Path, seen: Seen) -> Text:
    # Noted before: a change while it is read is seen as one.
    seen[path] = signature_of(path)
    return Text(read_config_file(path, FILE_MAX), str(path))


def _open_table(path: Path, seen: Seen) -> Text:
    text = _open(path, seen)
    if found := _PROPERTY.match(text.data) or _STATEMENT.match(text.data):
        text.fail(found.start(1), "a config, not a binding table: --conf takes it")
    return text
