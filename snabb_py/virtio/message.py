"""vhost-user messages: what each request looks like, and how it is packed.

The table is the protocol's: a request that this back end does not handle is there, too,
with the answer that tells the front end so. Pure; imports nothing of the package.

Source: vhost-user protocol (QEMU, docs/interop/vhost-user.rst).
"""

import enum
import struct
from typing import Final, NamedTuple

HEADER: Final = struct.Struct("<III")
U64: Final = struct.Struct("<Q")
#: Ring index, number.
STATE: Final = struct.Struct("<II")
#: Ring index, flags, descriptors, used, available, log.
ADDRESS: Final = struct.Struct("<IIQQQQ")
#: Of a memory table: number of regions; of one: guest address, size, the front end's
#: address, offset in the file.
TABLE: Final = struct.Struct("<II")
REGION: Final = struct.Struct("<QQQQ")
SINGLE_REGION: Final = struct.Struct("<QQQQQ")
INFLIGHT: Final = struct.Struct("<QQHH")
CONFIG: Final = struct.Struct("<III")

VERSION, VERSION_MASK, REPLY, NEED_REPLY = 1, 3, 4, 8

#: Bytes of the longest payload that is read at all: longer ones end the connection.
LONGEST: Final = 4096
#: File descriptors of a message.
MOST_FDS: Final = 8
#: Regions of a table; `Protocol.CONFIGURE_MEM_SLOTS` has more, one by one.
TABLE_REGIONS: Final = 8
MEMORY_SLOTS: Final = 509

#: Of the u64 that comes with a file descriptor: the ring; there is none.
RING_MASK: Final = 0xFF
NO_FD: Final = 0x100


class Protocol(enum.IntEnum):
    """Protocol features, bit numbers."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    MTU = 4
    BACKEND_REQ = 5
    CROSS_ENDIAN = 6
    CRYPTO = 7
    PAGEFAULT = 8
    CONFIG = 9
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    SHARED_OBJECT = 18
    DEVICE_STATE = 19


class Feature(enum.IntEnum):
    """Device features, bit numbers (virtio 1.2, 5.1.3 and 6)."""

    CSUM = 0
    GUEST_CSUM = 1
    MTU = 3
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    MRG_RXBUF = 15
    GUEST_ANNOUNCE = 21
    MQ = 22
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    VERSION_1 = 32
    IN_ORDER = 35


def bits(*numbers: int) -> int:
    """Return a word with these bits set."""
    return sum(1 << number for number in set(numbers))


#: What this back end can do; the same in each run, or a front end that comes back
#: refuses it. Buffers are always used in order: IN_ORDER costs nothing.
FEATURES: Final = bits(*Feature)
PROTOCOL_FEATURES: Final = bits(
    Protocol.MQ,
    Protocol.REPLY_ACK,
    Protocol.MTU,
    Protocol.RESET_DEVICE,
    Protocol.CONFIGURE_MEM_SLOTS,
    Protocol.STATUS,
)

#: Payload of a reply that says no, where it is a number.
_NO = U64.pack(1)


class Request(NamedTuple):
    """A request of the protocol.

    Attributes:
        number, name: `name` is that of the method that handles it.
        sizes: bytes of the payload, least and most.
        fds: file descriptors, least and most.
        is_question: it has a reply of its own, which NEED_REPLY does not change.
        needs: the protocol feature without which a front end may not send it.
        refusal: the reply of its own that says no; None: the usual acknowledgement.
        is_handled: there is such a method.
    """

    number: int
    name: str
    sizes: tuple[int, int] = (0, 0)
    fds: tuple[int, int] = (0, 0)
    is_question: bool = False
    needs: Protocol | None = None
    refusal: bytes | None = None
    is_handled: bool = True


def _unhandled(  # noqa: PLR0913, PLR0917 - columns of the table
    number: int,
    name: str,
    needs: Protocol,
    sizes: tuple[int, int] = (0, 0),
    fds: tuple[int, int] = (0, 0),
    refusal: bytes | None = None,
) -> Request:
    is_question = refusal is not None
    return Request(number, name, sizes, fds, is_question, needs, refusal, False)


_NUMBER, _STATE, _ANY = (8, 8), (8, 8), (0, LONGEST)
_ONE, _PERHAPS = (1, 1), (0, 1)

REQUESTS: Final = {
    request.number: request
    for request in (
        Request(1, "get_features", is_question=True),
        Request(2, "set_features", _NUMBER),
        Request(3, "set_owner"),
        Request(4, "reset_owner"),
        Request(5, "set_mem_table", (8, 264), (0, TABLE_REGIONS)),
        _unhandled(6, "set_log_base", Protocol.LOG_SHMFD, (8, 16), _PERHAPS, _NO),
        _unhandled(7, "set_log_fd", Protocol.LOG_SHMFD, (0, 8), _PERHAPS),
        Request(8, "set_vring_num", _STATE),
        Request(9, "set_vring_addr", (40, 40)),
        Request(10, "set_vring_base", _STATE),
        Request(11, "get_vring_base", _STATE, is_question=True),
        Request(12, "set_vring_kick", _NUMBER, _PERHAPS),
        Request(13, "set_vring_call", _NUMBER, _PERHAPS),
        Request(14, "set_vring_err", _NUMBER, _PERHAPS),
        Request(15, "get_protocol_features", is_question=True),
        Request(16, "set_protocol_features", _NUMBER),
        Request(17, "get_queue_num", is_question=True, needs=Protocol.MQ),
        Request(18, "set_vring_enable", _STATE),
        _unhandled(19, "send_rarp", Protocol.RARP, _NUMBER),
        Request(20, "net_set_mtu", _NUMBER, needs=Protocol.MTU),
        _unhandled(21, "set_backend_req_fd", Protocol.BACKEND_REQ, fds=_ONE),
        _unhandled(22, "iotlb_msg", Protocol.BACKEND_REQ, (25, 32), refusal=_NO),
        _unhandled(23, "set_vring_endian", Protocol.CROSS_ENDIAN, _STATE),
        # A reply without any of what was asked for means an error.
        _unhandled(24, "get_config", Protocol.CONFIG, (12, 268), refusal=bytes(12)),
        _unhandled(25, "set_config", Protocol.CONFIG, (12, 268)),
        _unhandled(26, "create_crypto_session", Protocol.CRYPTO, _ANY, refusal=b""),
        _unhandled(27, "close_crypto_session", Protocol.CRYPTO, _NUMBER),
        _unhandled(28, "postcopy_advise", Protocol.PAGEFAULT, refusal=b""),
        _unhandled(29, "postcopy_listen", Protocol.PAGEFAULT),
        _unhandled(30, "postcopy_end", Protocol.PAGEFAULT, refusal=_NO),
        _unhandled(
            31,
            "get_inflight_fd",
            Protocol.INFLIGHT_SHMFD,
            (20, 24),
            refusal=bytes(INFLIGHT.size),
        ),
        _unhandled(32, "set_inflight_fd", Protocol.INFLIGHT_SHMFD, (20, 24), _ONE),
        _unhandled(33, "gpu_set_socket", Protocol.BACKEND_REQ, fds=_ONE),
        Request(34, "reset_device", needs=Protocol.RESET_DEVICE),
        _unhandled(35, "vring_kick", Protocol.INBAND_NOTIFICATIONS, _STATE),
        Request(
            36,
            "get_max_mem_slots",
            is_question=True,
            needs=Protocol.CONFIGURE_MEM_SLOTS,
        ),
        Request(37, "add_mem_reg", (40, 40), _ONE, needs=Protocol.CONFIGURE_MEM_SLOTS),
        Request(
            38, "rem_mem_reg", (40, 40), _PERHAPS, needs=Protocol.CONFIGURE_MEM_SLOTS
        ),
        Request(39, "set_status", _NUMBER, needs=Protocol.STATUS),
        Request(40, "get_status", is_question=True, needs=Protocol.STATUS),
        _unhandled(
            41, "get_shared_object", Protocol.SHARED_OBJECT, (16, 16), refusal=b""
        ),
        _unhandled(
            42,
            "set_device_state_fd",
            Protocol.DEVICE_STATE,
            (8, 8),
            _ONE,
            refusal=U64.pack(NO_FD | 1),
        ),
        _unhandled(43, "check_device_state", Protocol.DEVICE_STATE, refusal=_NO),
    )
}


class Refusal(Exception):  # noqa: N818 - the protocol's word for it
    """A request that is not done; why, as it is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
