"""Apps in C that are not part of this package: from a shared library of one's own.

    class Sample(App):
        inputs = Ports("rx")
        outputs = Ports("tx")
        ops = operations("./sample.so", "sample_ops")

The library is compiled with library.h; docs/tutorial.md shows how. It runs on the
worker's thread like all apps in C: what it does wrong, nobody catches.
"""

import ctypes
import os
import struct
from pathlib import Path
from typing import Any

from snabb_py import _native
from snabb_py._native import ffi, lib
from snabb_py.errors import ConfigError

#: What `#include "snabb_py/..."` is relative to: for the compiler's option -I.
INCLUDE = Path(__file__).parents[2]

# Of elf(5), for 64 bits: where the program headers are, their size and number; of each
# its type, offset and size in the file.
ELF_HEADER = struct.Struct("<4s28xQ14xHH4x")
PROGRAM_HEADER = struct.Struct("<I4xQ16xQ")
PT_LOAD = 1


def _check_whole(path: Path) -> None:
    """See that a library has all that it says: the loader maps it and finds out late.

    Raises:
        OSError: it is no file, or has not.
    """
    if path.exists() and not path.is_file():
        raise OSError("is no file")
    data = path.read_bytes()
    try:
        magic, at, size, number = ELF_HEADER.unpack_from(data)
        headers = [
            PROGRAM_HEADER.unpack_from(data, at + i * size)
            for i in range(number if magic == b"\x7fELF" else 0)
        ]
    except struct.error:
        raise OSError("its end is missing") from None
    if any(t == PT_LOAD and at + size > len(data) for t, at, size in headers):
        raise OSError("its end is missing")


def operations(library: str | os.PathLike[str], name: str) -> Any:
    """Return an app class's operations, `const struct app_ops *`.

    Args:
        library: its path. It stays loaded; once loaded, a new file of this name is not
            seen.
        name: what SNABB_APP() was given in it.

    Raises:
        ConfigError: it cannot be loaded, was compiled for another version of us, or has
            no such app class.
    """
    path = Path(library).absolute()
    try:
        _check_whole(path)
        # Our extension is loaded; libraries are to find in it what library.h declares.
        ctypes.CDLL(_native.__file__, mode=os.RTLD_GLOBAL | os.RTLD_NOLOAD)
        loaded = ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be loaded: {error}") from None
    try:
        layouts = (ctypes.c_uint32 * lib.ENGINE_NLAYOUTS).in_dll(
            loaded, "snabb_layouts"
        )
    except ValueError:
        raise ConfigError(f"{path}: SNABB_LIBRARY is not in it") from None
    if list(layouts) != list(lib.engine_layouts):
        raise ConfigError(
            f"{path}: compiled for another version of snabb-py: compile it again"
        )
    try:
        symbol = ctypes.c_char.in_dll(loaded, name)
    except ValueError:
        raise ConfigError(f"{path}: there is no SNABB_APP({name}) in it") from None
    return ffi.cast("const struct app_ops *", ctypes.addressof(symbol))
