"""The config of `snabb-py lwaftr`, read from either format.

    softwire-config { ... }      the text of the YANG module snabb-softwire-v3
    key = value                  the old `lwaftr.conf`, which names a binding table

What is wrong is said with file, line, column and what was expected. Imports engine.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from snabb_py.engine.config_file import read_config_file
from snabb_py.lwaftr import conf_properties, conf_statements
from snabb_py.lwaftr.binding_table import BindingTable
from snabb_py.lwaftr.conf_types import LwaftrConfig
from snabb_py.lwaftr.text import Text

__all__ = ["LwaftrConfig", "read", "read_table"]

#: Bytes of a file: 30 million softwires.
FILE_MAX: Final = 4 << 30

#: What a file begins with: white space and comments of either format, then a property.
_PROPERTY: Final = re.compile(
    rb"(?:\s++|#[^\n]*+|//[^\n]*+|/\*(?s:.*?)\*/)*+[A-Za-z0-9_]++(?:\s|#[^\n]*\n)*+="
)


def read(
    path: str | Path, table: str | Path | None = None, *, compat: bool = False
) -> LwaftrConfig:
    """Return the config in a file of either format.

    Args:
        path: of the file.
        table: a binding table of the old format instead of the config's own.
        compat: as Snabb has it: the first softwire of an address says how its ports
            are divided, and reserved ports are those below 2 ** their bit count.

    Raises:
        DeviceError: a file cannot be read.
        ConfigError: something in it is wrong, with line and column.
    """
    path = Path(path)
    old = None if table is None else read_table(table, compat=compat)
    text = _open(path)
    if not _PROPERTY.match(text.data):
        config = conf_statements.parse(text, compat=compat)
        return config if old is None else replace(config, binding_table=old)
    return conf_properties.parse(
        text, lambda name: _open(path.parent / name), table=old, compat=compat
    )


def read_table(path: str | Path, *, compat: bool = False) -> BindingTable:
    """Return the binding table in a file of the old format; see `read`."""
    return conf_properties.parse_table(_open(Path(path)), compat=compat)


def _open(path: Path) -> Text:
    return Text(read_config_file(path, FILE_MAX), str(path))
