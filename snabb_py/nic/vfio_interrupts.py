"""The interrupts of a card that a vfio-user client is told of by eventfds.

The client hands in an eventfd for each vector; the card signals them. INTx can be
masked, too, and there may be an eventfd by which KVM says that it was taken.

Source: vfio-user protocol specification, VFIO_USER_DEVICE_SET_IRQS; linux/vfio.h.
"""

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from snabb_py.nic.vfio_message import (
    IRQ_ACTION,
    IRQ_DATA,
    NIRQS,
    SET_IRQS,
    Irq,
    IrqSet,
    Refusal,
)

#: Called with a file descriptor and what to do when it becomes readable; None: nothing
#: any more.
Watch = Callable[[int, Callable[[], None] | None], None]


class InterruptCard(Protocol):
    """A card's interrupts; its methods are safe on any thread."""

    def set_interrupt(self, index: int, vector: int, fd: int) -> None:
        """Say which eventfd, the caller's, an interrupt signals; -1: none."""

    def trigger(self, index: int, vector: int) -> None:
        """Signal the eventfd now. The client shares it: this must not wait for him."""

    def unmask_intx(self) -> None:
        """The interrupt was taken; it may come again while its cause lasts."""


class Request(NamedTuple):
    """What a client wants done with some vectors of one type."""

    kind: int
    action: int
    data: int
    vectors: Sequence[int]
    is_all: bool


def parse(body: memoryview, counts: Sequence[int], nfds: int) -> Request:
    """Return what a SET_IRQS message says.

    Args:
        body: of the message, at least its fixed part.
        counts: how many vectors each type has.
        nfds: file descriptors that came along.

    Raises:
        Refusal: it makes no sense.
    """
    argsz, flags, index, start, count = SET_IRQS.unpack_from(body)
    action, data = flags & IRQ_ACTION, flags & IRQ_DATA
    if (
        flags & ~(IRQ_ACTION | IRQ_DATA)
        or action.bit_count() != 1
        or data.bit_count() != 1
    ):
        raise Refusal(errno.EINVAL, "flags")
    if argsz < SET_IRQS.size or index >= NIRQS or start + count > counts[index]:
        raise Refusal(errno.EINVAL, "argument")
    # Nothing of nothing stands for all there are, to be switched off.
    is_all = count == 0
    if is_all and (start or flags != IrqSet.TRIGGER | IrqSet.NONE):
        raise Refusal(errno.EINVAL, "argument")
    if nfds and (data != IrqSet.EVENTFD or nfds != count):
        raise Refusal(errno.EINVAL, "fds")
    vectors: Sequence[int] = range(start, start + count)
    if data == IrqSet.BOOL:
        booleans = body[SET_IRQS.size :]
        if len(booleans) != count:
            raise Refusal(errno.EINVAL, "size")
        vectors = [v for v, meant in zip(vectors, booleans, strict=True) if meant]
    return Request(index, action, data, vectors, is_all)


def make_harmless(fd: int) -> None:
    """Make sure that signalling a client's file descriptor does not wait.

    A pipe would once it is full, and so would an eventfd that the client has filled.

    Raises:
        Refusal: it is no eventfd.
    """
    link = Path(f"/proc/self/fd/{fd}").readlink()
    if not str(link).startswith("anon_inode:[eventfd"):
        raise Refusal(errno.EINVAL, "fds")
    os.set_blocking(fd, False)


class Interrupts:
    """The eventfds that one client has given.

    Args:
        card: what signals them.
        counts: how many vectors each type has.
        watch: see `Watch`.
    """

    def __init__(
        self, card: InterruptCard, counts: Sequence[int], watch: Watch
    ) -> None:
        self._card = card
        self._counts = counts
        self._watch = watch
        self._eventfds: dict[tuple[int, int], int] = {}
        self._unmask_fd = -1
        self._is_intx_masked = False

    def close(self) -> None:
        """Take all of them from the card and close them."""
        for index, vector in list(self._eventfds):
            self._assign(index, [vector], [])
        self._set_unmask_fd([])

    def set(self, body: memoryview, fds: list[int]) -> None:
        """Carry out a SET_IRQS message.

        Args:
            body: of the message, at least its fixed part.
            fds: what came along; what is taken out is kept.

        Raises:
            Refusal: it cannot be done; nothing was changed.
        """
        request = parse(body, self._counts, len(fds))
        for fd in fds:
            make_harmless(fd)
        if request.action == IrqSet.TRIGGER:
            if request.is_all:
                self._assign(request.kind, range(self._counts[request.kind]), [])
            elif request.data == IrqSet.EVENTFD:
                self._assign(request.kind, request.vectors, fds)
            else:
                self._trigger(request.kind, request.vectors)
        elif request.kind != Irq.INTX:
            raise Refusal(errno.ENOTSUP, "unsupported")
        elif request.data != IrqSet.EVENTFD:
            if request.vectors:
                self._mask_intx(masked=request.action == IrqSet.MASK)
        elif request.action == IrqSet.UNMASK:
            self._set_unmask_fd(fds)
        else:
            raise Refusal(errno.ENOTSUP, "unsupported")

    def _assign(self, index: int, vectors: Iterable[int], fds: list[int]) -> None:
        """Give each vector the next of the file descriptors; none left: none."""
        for vector in vectors:
            fd = fds.pop(0) if fds else -1
            if index <= Irq.MSIX:
                self._card.set_interrupt(index, vector, fd)
            # Only now: the card signals the old one until it has the new one.
            old = self._eventfds.pop((index, vector), -1)
            if old >= 0:
                os.close(old)
            if fd >= 0:
                self._eventfds[index, vector] = fd
            if index == Irq.INTX:
                self._is_intx_masked = False

    def _trigger(self, index: int, vectors: Iterable[int]) -> None:
        for vector in vectors:
            self._card.trigger(index, vector)

    def _mask_intx(self, *, masked: bool) -> None:
        fd = self._eventfds.get((Irq.INTX, 0), -1)
        if masked != self._is_intx_masked:
            self._is_intx_masked = masked
            self._card.set_interrupt(Irq.INTX, 0, -1 if masked else fd)
        if not masked:
            self._card.unmask_intx()

    def _set_unmask_fd(self, fds: list[int]) -> None:
        """Watch what tells that INTx was taken; KVM signals it without the client."""
        if self._unmask_fd >= 0:
            self._watch(self._unmask_fd, None)
            os.close(self._unmask_fd)
        self._unmask_fd = fds.pop(0) if fds else -1
        if self._unmask_fd >= 0:
            self._watch(self._unmask_fd, self._unmasked)

    def _unmasked(self) -> None:
        try:
            # Whatever its flags are by now, and whoever reads it too: not waiting.
            os.preadv(self._unmask_fd, [bytearray(8)], -1, os.RWF_NOWAIT)
        except OSError:
            return
        self._mask_intx(masked=False)
