"""The table of requests is whole, and says what the protocol says."""

import inspect

import pytest

from snabb_py.virtio import message
from snabb_py.virtio.message import REQUESTS, Feature, Protocol
from snabb_py.virtio.session import Session


def test_every_request_of_the_protocol_is_there() -> None:
    assert sorted(REQUESTS) == list(range(1, 44))
    assert all(number == request.number for number, request in REQUESTS.items())


def test_names_are_told_apart() -> None:
    assert len({request.name for request in REQUESTS.values()}) == len(REQUESTS)


def test_there_is_a_method_for_each_that_is_handled_and_for_no_other() -> None:
    handled = {request.name for request in REQUESTS.values() if request.is_handled}
    methods = {
        name
        for name, method in inspect.getmembers(Session, inspect.isfunction)
        if [*inspect.signature(method).parameters][1:] in (
            ["_body", "_fds"], ["body", "_fds"], ["body", "fds"]
        )
    }  # fmt: skip
    assert methods == handled


def test_nothing_is_offered_that_is_not_handled() -> None:
    for request in REQUESTS.values():
        if request.needs is not None and not request.is_handled:
            assert not message.PROTOCOL_FEATURES >> request.needs & 1, request.name


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=lambda r: r.name)
def test_sizes_fit_and_questions_can_be_refused(request_: message.Request) -> None:
    least, most = request_.sizes
    assert 0 <= least <= most <= message.LONGEST
    assert 0 <= request_.fds[0] <= request_.fds[1] <= message.MOST_FDS
    # One that is not handled has an answer for whoever waits for it.
    assert request_.is_handled or request_.is_question == (request_.refusal is not None)


def test_sizes_of_payloads() -> None:
    assert message.HEADER.size == 12
    assert message.STATE.size == message.U64.size == 8
    assert message.ADDRESS.size == message.SINGLE_REGION.size == 40
    assert message.TABLE.size + 8 * message.REGION.size == 264
    assert message.INFLIGHT.size == 20


def test_what_is_offered_never_changes() -> None:
    # A front end that comes back after a restart refuses another set.
    assert message.FEATURES == 0x9_7860_BB8B
    assert message.PROTOCOL_FEATURES == 0x1_A019
    assert message.FEATURES >> Feature.VERSION_1 & 1
    assert message.PROTOCOL_FEATURES >> Protocol.MQ & 1
