"""Files that users name for configs: read whole, once. Imports errors."""

import os
import stat
from pathlib import Path

from snabb_py.errors import READ_HINTS, ConfigError, DeviceError

Signature = tuple[int, ...]


def signature_of(path: Path) -> Signature:
    """Return what tells a file from what it was before; () if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return ()
    return status.st_ino, status.st_dev, status.st_size, status.st_mtime_ns


def read_config_file(path: Path, most: int) -> bytes:
    """Return what a file holds.

    Read, not mapped: a mapped file that an editor cuts short would kill us.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        DeviceError: it cannot be read.
        ConfigError: it is not a regular file, is too long, or has no possible name.
    """
    try:
        # Not blocking: a pipe would wait for its writer before we can refuse it.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        with open(os.open(path, flags), "rb") as stream:  # noqa: PTH123 - a descriptor
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ConfigError(f"{path}: is no regular file")
            if status.st_size > most:
                text = f"{path}: is longer than {most >> 20} MiB: no config"
                raise ConfigError(text)
            return stream.read()
    except OSError as error:
        number = error.errno or 0
        hint = READ_HINTS.get(number, "")
        raise DeviceError(f"read {path}", number, hint) from None
    except ValueError:
        raise ConfigError(f"{str(path)!r} is no name of a file") from None
