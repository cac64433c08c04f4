"""vhost-user: each request of the protocol, right and wrong; what others have learnt.

The table of requests is written down here a second time, from the protocol's own text,
so that the one of `snabb_py.virtio.message` is not its own judge. `LESSONS` and `RULES`
name the tests that show what is not to happen again and what a back end must check.
"""

import ast
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from snabb_py.virtio import message
from snabb_py.virtio.frontend import Guest, Refused
from snabb_py.virtio.message import ADDRESS, HEADER, REQUESTS, STATE, U64, Protocol
from tests.vhost_port import Bench, is_over, open_fds, ready

TESTS = Path(__file__).parents[1]
NRINGS = 4
#: An answer's size: there is none of its own; it may be anything.
NONE, ANY = -1, -2


class Row(NamedTuple):
    """A request as the protocol has it (QEMU, docs/interop/vhost-user.rst).

    Attributes:
        name: in small letters.
        size: of the payload; least, where it varies.
        reply: size of its own reply; NONE: acknowledged where that is asked for.
        fds: most file descriptors.
        ring: how a ring is named: "state", "address", "fd" or not at all.
        needs: the protocol feature; None: it may always be sent.
        served: this back end does it.
    """

    name: str
    size: int = 0
    reply: int = NONE
    fds: int = 0
    ring: str = ""
    needs: int | None = None
    served: bool = True


def no(  # noqa: PLR0913, PLR0917 - columns of the table
    name: str, size: int, reply: int, fds: int, needs: int, ring: str = ""
) -> Row:
    return Row(name, size, reply, fds, ring, needs, served=False)


ROWS = {
    1: Row("get_features", reply=8),
    2: Row("set_features", 8),
    3: Row("set_owner"),
    4: Row("reset_owner"),
    5: Row("set_mem_table", 8, fds=8),
    6: no("set_log_base", 8, 8, 1, 1),
    7: no("set_log_fd", 0, NONE, 1, 1),
    8: Row("set_vring_num", 8, ring="state"),
    9: Row("set_vring_addr", 40, ring="address"),
    10: Row("set_vring_base", 8, ring="state"),
    11: Row("get_vring_base", 8, reply=8, ring="state"),
    12: Row("set_vring_kick", 8, fds=1, ring="fd"),
    13: Row("set_vring_call", 8, fds=1, ring="fd"),
    14: Row("set_vring_err", 8, fds=1, ring="fd"),
    15: Row("get_protocol_features", reply=8),
    16: Row("set_protocol_features", 8),
    17: Row("get_queue_num", reply=8, needs=0),
    18: Row("set_vring_enable", 8, ring="state"),
    19: no("send_rarp", 8, NONE, 0, 2),
    20: Row("net_set_mtu", 8, needs=4),
    21: no("set_backend_req_fd", 0, NONE, 1, 5),
    22: no("iotlb_msg", 32, 8, 0, 5),
    23: no("set_vring_endian", 8, NONE, 0, 6, "state"),
    24: no("get_config", 12, ANY, 0, 9),
    25: no("set_config", 12, NONE, 0, 9),
    26: no("create_crypto_session", 0, ANY, 0, 7),
    27: no("close_crypto_session", 8, NONE, 0, 7),
    28: no("postcopy_advise", 0, ANY, 0, 8),
    29: no("postcopy_listen", 0, NONE, 0, 8),
    30: no("postcopy_end", 0, 8, 0, 8),
    31: no("get_inflight_fd", 20, 20, 0, 12),
    32: no("set_inflight_fd", 20, NONE, 1, 12),
    33: no("gpu_set_socket", 0, NONE, 1, 5),
    34: Row("reset_device", needs=13),
    35: no("vring_kick", 8, NONE, 0, 14, "state"),
    36: Row("get_max_mem_slots", reply=8, needs=15),
    37: Row("add_mem_reg", 40, fds=1, needs=15),
    38: Row("rem_mem_reg", 40, fds=1, needs=15),
    39: Row("set_status", 8, needs=16),
    40: Row("get_status", reply=8, needs=16),
    41: no("get_shared_object", 16, ANY, 0, 18),
    42: no("set_device_state_fd", 8, 8, 1, 19),
    43: no("check_device_state", 0, 8, 0, 19),
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ready(tmp_path / "s") as bench:
        yield bench


# -- requests ------------------------------------------------------------------


def test_the_table_is_the_protocols() -> None:
    for number, row in ROWS.items():
        request = REQUESTS[number]
        assert request.name == row.name
        assert request.sizes[0] <= row.size <= request.sizes[1], row
        assert request.fds[1] == row.fds, row
        assert request.is_question == (row.reply != NONE), row
        assert request.needs == row.needs, row
        assert request.is_handled == row.served, row
    assert list(ROWS) == list(REQUESTS) == list(range(1, 44))


class Answer(NamedTuple):
    """What became of a request: a reply's payload, or None; and the connection."""

    reply: bytes | None
    is_over: bool


def ask(bench: Bench, guest: Guest, number: int, body: bytes, nfds: int) -> Answer:
    """Send a request that asks for an answer; see what comes of it."""
    fds = [os.dup(0) for _ in range(nfds)]
    bench.wait(lambda: bench.port.is_connected)
    before = len(open_fds())
    flags = message.VERSION | message.NEED_REPLY
    guest.send(HEADER.pack(number, flags, len(body)) + body, fds)
    for _ in range(3):
        bench.turn()
    assert guest.socket
    reply = None
    guest.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        if data := guest.socket.recv(4096):
            answer, flags, size = HEADER.unpack_from(data)
            assert (answer, flags) == (number, message.VERSION | message.REPLY)
            reply = data[HEADER.size :]
            assert len(reply) == size, "one reply and no more"
    over = is_over(bench, guest)
    guest.socket.setblocking(True)
    kept = number in {12, 13, 14} and reply == U64.pack(0)
    # One connection less, when it is over.
    assert len(open_fds()) <= before + kept
    for fd in fds:
        os.close(fd)
    return Answer(reply, over)


def wrong_bodies(row: Row) -> Iterator[tuple[str, bytes, int]]:
    """Yield what is wrong, the body, the number of file descriptors."""
    good = bytes(row.size)
    yield "short", bytes(max(row.size - 1, 0)), 0
    yield "long", bytes(row.size + 1), 0
    yield "longest", bytes(message.LONGEST), 0
    for nfds in (row.fds + 1, 8, 30):
        yield f"{nfds} fds", good, nfds
    indices = (NRINGS, 0xFF, 2**32 - 1)
    for index in indices:
        if row.ring == "state":
            yield f"ring {index}", STATE.pack(index, 1), 0
        elif row.ring == "address":
            yield f"ring {index}", ADDRESS.pack(index, 0, 0, 0, 0, 0), 0
        elif row.ring == "fd":
            yield f"ring {index}", U64.pack(index | message.NO_FD), 0
            yield f"bits {index}", U64.pack(index << 9 | message.NO_FD), 0


@pytest.mark.parametrize("number", ROWS, ids=lambda n: ROWS[n].name)
@pytest.mark.parametrize("has_ack", [True, False], ids=["acknowledged", "silent"])
def test_a_wrong_request_has_the_answer_that_the_protocol_demands(
    bench: Bench, number: int, has_ack: bool
) -> None:
    row = ROWS[number]
    protocol = message.PROTOCOL_FEATURES
    if not has_ack:
        protocol &= ~message.bits(Protocol.REPLY_ACK)
    for what, body, nfds in wrong_bodies(row):
        if what in {"short", "long"} and row.name == "set_mem_table":
            continue  # it varies: test_vhost_user.py
        if what == "short" and row.size == 0:
            continue
        with bench.guest(protocol=protocol) as guest:
            bench.wait(lambda: not bench.port.is_connected)
            guest.negotiate()
            answer = ask(bench, guest, number, body, nfds)
            check_refusal(row, answer, has_ack=has_ack)


def check_refusal(row: Row, answer: Answer, *, has_ack: bool) -> None:
    if row.reply != NONE and not row.served:
        # Its own reply says no; who waits for it does not wait for ever.
        assert answer.reply is not None, row
        assert row.reply in {ANY, len(answer.reply)}, row
        if row.reply == 8:
            assert answer.reply != bytes(8), row
        assert not answer.is_over
    elif row.reply != NONE:
        assert answer == Answer(None, True), row  # there is no such reply as no
    elif has_ack:
        assert answer.reply is not None, row
        assert answer.reply != bytes(8), row
        assert not answer.is_over
    else:
        # Without a word a front end would go on as if all were well; what it sends
        # without having been allowed to changes nothing.
        assert answer == Answer(None, row.served), row


@pytest.mark.parametrize("number", ROWS, ids=lambda n: ROWS[n].name)
def test_a_request_before_anything_was_negotiated(bench: Bench, number: int) -> None:
    row = ROWS[number]
    with bench.guest() as guest:
        guest.connect()
        # Until REPLY_ACK is agreed on, nobody may ask for an acknowledgement.
        answer = ask(bench, guest, number, bytes(row.size), 0)
    if row.needs is not None and row.reply != NONE:
        has_refusal = not row.served
        assert (answer.reply is not None, answer.is_over) == (
            has_refusal,
            not has_refusal,
        )
    elif row.reply != NONE:
        assert answer.reply is not None
        assert len(answer.reply) == row.reply
    else:
        # What is missing in it (a file descriptor, a region) ends the connection.
        is_empty = row.name in {
            *("set_mem_table", "set_vring_num"),
            *("set_vring_kick", "set_vring_call", "set_vring_err"),
        }
        assert answer == Answer(None, is_empty)


@pytest.mark.parametrize("number", ROWS, ids=lambda n: ROWS[n].name)
def test_a_request_whose_feature_was_not_agreed_on(bench: Bench, number: int) -> None:
    row = ROWS[number]
    if row.needs is None:
        return
    with bench.guest(protocol=message.bits(Protocol.REPLY_ACK)) as guest:
        guest.negotiate()
        answer = ask(bench, guest, number, bytes(row.size), 0)
    check_refusal(row, answer, has_ack=True)
    assert bench.counted["refused-unsupported-messages"] == 1


def test_what_would_be_logged_or_in_flight_stays_the_front_ends(bench: Bench) -> None:
    """Endless inflight, log and crypto requests with file descriptors leak nothing."""
    names = {row.name: number for number, row in ROWS.items()}
    with bench.guest() as guest:
        guest.negotiate()
        before = len(open_fds())
        for _ in range(50):
            for name, body, nfds in (
                (
                    "get_inflight_fd",
                    message.INFLIGHT.pack(2**64 - 1, 1, 0xFFFF, 256),
                    1,
                ),
                (
                    "set_inflight_fd",
                    message.INFLIGHT.pack(4096, 2**64 - 1, 0xFFFF, 1),
                    1,
                ),
                ("set_log_base", U64.pack(2**64 - 1) + U64.pack(4096), 1),
                ("set_log_fd", b"", 1),
                ("create_crypto_session", b"\xff" * 4000, 0),
                ("set_device_state_fd", bytes(8), 1),
                ("set_backend_req_fd", b"", 1),
            ):
                answer = ask(bench, guest, names[name], body, nfds)
                assert answer.reply != U64.pack(0)
                assert not answer.is_over
        assert len(open_fds()) == before
    assert bench.counted == {"refused-unsupported-messages": 350}


def test_the_ring_size_stays_while_the_ring_runs(bench: Bench) -> None:
    with bench.guest() as guest:
        guest.start()
        with pytest.raises(Refused):
            guest.request("set_vring_num", STATE.pack(0, 32768))
        assert bench.port.device.pairs[0].struct.rx.size == 256


# -- lessons -------------------------------------------------------------------

HERE = "conformance/test_vhost_user.py"
MESSAGES, RINGS = "unit/test_vhost_user.py", "unit/test_virtq.py"
OFFLOADS, LAWS = "unit/test_vhost_offloads.py", "property/test_virtq_laws.py"
CORE, NETWORKS = "unit/test_offload.py", "unit/test_net_device.py"
REFUSED = (
    f"{HERE}::test_what_would_be_logged_or_in_flight_stays_the_front_ends",
    f"{HERE}::test_a_wrong_request_has_the_answer_that_the_protocol_demands",
)

#: What was wrong in other back ends, and where it is shown that it is not here.
LESSONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "CVE-2018-1059": (
        "a range is in the guest's memory as a whole, or in regions that adjoin",
        (
            f"{RINGS}::test_buffers_over_regions_that_adjoin",
            f"{RINGS}::test_a_table_in_many_regions",
            f"{RINGS}::test_a_broken_ring_stops_alone",
        ),
    ),
    "CVE-2019-14818": (
        "messages that are repeated replace; every file descriptor is closed",
        (
            f"{MESSAGES}::test_repeated_messages_replace_and_free",
            f"{MESSAGES}::test_file_descriptors_that_nobody_wants_are_closed",
        ),
    ),
    "CVE-2020-10722": ("a log's size and offset are added with care", REFUSED),
    "CVE-2020-10723": (
        "a ring's index is checked after it was taken out of its word",
        (f"{MESSAGES}::test_wrong_arguments", REFUSED[1]),
    ),
    "CVE-2020-10724": ("a length comes before what it is of (crypto)", REFUSED),
    "CVE-2020-10725": (
        "an address that cannot be translated is a result, not a fault",
        (f"{RINGS}::test_a_broken_ring_stops_alone",),
    ),
    "CVE-2020-10726": ("endless GET_INFLIGHT_FD", REFUSED),
    "CVE-2020-14374": ("copied, then checked; loops have an end (crypto)", REFUSED),
    "CVE-2021-3839": ("queues in flight are ours to count", REFUSED),
    "CVE-2022-0669": ("file descriptors beside INFLIGHT_FD are closed", REFUSED),
    "CVE-2022-2132": (
        "a header may be spread over any number of descriptors",
        (f"{RINGS}::test_a_header_in_pieces",),
    ),
    "CVE-2024-11614": (
        "offloads reach no byte behind the packet",
        (
            f"{OFFLOADS}::test_a_header_that_does_not_fit",
            f"{CORE}::test_finish_checksum_stays_inside",
        ),
    ),
    "CVE-2026-86561": (
        "a region's size is judged by its file before it is mapped",
        (
            f"{MESSAGES}::test_a_region_that_cannot_be",
            f"{MESSAGES}::test_a_guest_has_a_part_of_the_addresses_alone",
        ),
    ),
    "CVE-2026-86563": ("a log's offset counts once", REFUSED),
    "CVE-2026-86565": (
        "a ring's size stays as it is while something was made to its measure",
        (
            f"{HERE}::test_the_ring_size_stays_while_the_ring_runs",
            f"{MESSAGES}::test_a_running_ring_stays_as_it_is",
        ),
    ),
    "CVE-2026-86566": (
        "a first descriptor to write to may be shorter than the header",
        (f"{RINGS}::test_a_runt_to_write_to",),
    ),
    "CVE-2026-93683": (
        "what is read of a table is read once, and then judged",
        (
            f"{RINGS}::test_a_broken_ring_stops_alone",
            f"{LAWS}::test_a_guest_hurts_nobody_but_itself",
        ),
    ),
    "CVE-2026-86845": ("crypto: sessions, indices, errors that loop", REFUSED),
    "CVE-2026-100236": (
        "segmentation trusts its own look at the headers alone",
        (
            f"{CORE}::test_any_frame_is_cut_or_refused",
            f"{OFFLOADS}::test_a_super_frame_that_is_all_headers",
            f"{OFFLOADS}::test_a_header_that_does_not_fit",
        ),
    ),
}

#: What a back end must check, whatever comes.
RULES: dict[str, tuple[str, ...]] = {
    "payload sizes are exact, file descriptors counted": (REFUSED[1],),
    "features are a part of what was offered": (f"{MESSAGES}::test_wrong_arguments",),
    "a ring's size is a power of two, 1 to 32768": (
        f"{MESSAGES}::test_wrong_arguments",
    ),
    "size, base and address change when the ring is stopped": (
        f"{MESSAGES}::test_a_running_ring_stays_as_it_is",
    ),
    "a ring is in one region, aligned": (
        f"{MESSAGES}::test_a_ring_that_is_not_in_memory",
    ),
    "regions do not overlap, their sums do not run over": (
        f"{MESSAGES}::test_regions_that_overlap",
        f"{MESSAGES}::test_a_region_that_cannot_be",
    ),
    "only what is an eventfd is signalled, and nobody waits for it": (
        f"{MESSAGES}::test_only_eventfds_notify",
        f"{RINGS}::test_an_eventfd_that_is_full_and_blocks_holds_nobody_up",
    ),
    "no more buffers are pending than a ring has places; chains end": (
        f"{RINGS}::test_a_broken_ring_stops_alone",
        f"{RINGS}::test_a_chain_longer_than_any_frame_needs",
    ),
    "a turn has an end, in the rings and in the messages": (
        f"{RINGS}::test_long_chains_take_turns_with_other_ports",
        f"{RINGS}::test_long_chains_to_write_to_cost_their_own_packets",
        f"{MESSAGES}::test_a_flood_of_messages_leaves_others_their_turn",
        f"{MESSAGES}::test_a_turn_is_short_when_messages_take_long",
    ),
    "a malformed packet is dropped and its buffer used; the ring goes on": (
        f"{RINGS}::test_a_frame_of_no_length_is_dropped_and_used",
        f"{OFFLOADS}::test_a_header_that_does_not_fit",
    ),
    "memory that goes away hurts its guest alone": (
        f"{RINGS}::test_memory_that_goes_away",
        f"{NETWORKS}::test_other_ports_do_not_notice",
    ),
    "GET_VRING_BASE stops one ring, SET_VRING_ENABLE switches one": (
        f"{MESSAGES}::test_get_vring_base_stops_that_ring_alone",
        f"{MESSAGES}::test_with_them_it_waits_for_enable",
    ),
    "509 slots": (f"{MESSAGES}::test_509_slots",),
    "half a message, byte by byte, several at once, and never the rest": (
        f"{MESSAGES}::test_a_message_byte_by_byte",
        f"{MESSAGES}::test_several_messages_at_once",
        f"{MESSAGES}::test_the_rest_of_a_message_does_not_come",
        f"{MESSAGES}::test_the_front_end_goes_in_mid_message",
    ),
    "replies that nobody reads": (f"{MESSAGES}::test_a_front_end_that_does_not_read",),
}


def names_in(file: str) -> set[str]:
    """Return the names of a file's tests."""
    tree = ast.parse((TESTS / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("rule", [*LESSONS, *RULES])
def test_every_rule_has_its_tests(rule: str) -> None:
    nodes = LESSONS[rule][1] if rule in LESSONS else RULES[rule]
    assert nodes
    for node in nodes:
        file, _, name = node.partition("::")
        assert name in names_in(file), node
