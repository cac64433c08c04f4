"""What an interface's driver tells an XDP program, by the kernel's own word.

By generic netlink, family "netdev", from 6.3 on. Sources: netlink(7);
Documentation/userspace-api/netlink/intro.rst; linux/netdev.h. Imports nothing.
"""

import socket
import struct

NETLINK_GENERIC = 16
NLM_F_REQUEST = 1
NLMSG_ERROR = 2
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
NETDEV_CMD_DEV_GET = 1
NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_RX_METADATA_FEATURES = 1, 5
RX_METADATA_VLAN_TAG = 4

HEADER = struct.Struct("=IHHIIBBH")  # struct nlmsghdr, struct genlmsghdr
ATTRIBUTE = struct.Struct("=HH")


def tells_tags(index: int) -> bool:
    """Return whether the driver tells a program the VLAN tag that it takes away.

    Args:
        index: of the interface.

    An interface that has gone, or a kernel that cannot say, tells none.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC) as sock:
            found = _ask(
                sock, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME,
                b"netdev\0",
            )  # fmt: skip
            (family,) = struct.unpack("=H", found[CTRL_ATTR_FAMILY_ID])
            device = _ask(
                sock, family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX,
                struct.pack("=I", index),
            )  # fmt: skip
        (features,) = struct.unpack("=Q", device[NETDEV_A_DEV_XDP_RX_METADATA_FEATURES])
    except (OSError, KeyError, struct.error):
        return False
    return bool(features & RX_METADATA_VLAN_TAG)


def _ask(
    sock: socket.socket, family: int, command: int, kind: int, value: bytes
) -> dict[int, bytes]:
    """Return the attributes of the answer to a request with one; OSError: refused."""
    attribute = ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value
    attribute += bytes(-len(attribute) % 4)
    size = HEADER.size + len(attribute)
    sock.send(HEADER.pack(size, family, NLM_F_REQUEST, 1, 0, command, 1, 0) + attribute)
    answer = sock.recv(65536)
    length, message, *_ = HEADER.unpack_from(answer)
    if message == NLMSG_ERROR:
        raise OSError(-struct.unpack_from("=i", answer, HEADER.size - 4)[0], "netlink")
    found, at = {}, HEADER.size
    while at < length:
        n, kind = ATTRIBUTE.unpack_from(answer, at)
        found[kind & 0x3FFF] = answer[at + ATTRIBUTE.size : at + n]
        at += max(n, ATTRIBUTE.size) + 3 & ~3
    return found
