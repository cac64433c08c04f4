"""What a front end's requests do: one connection's state, from its first to its last.

Each handler is named in `message.REQUESTS`; the payload's size and the number of file
descriptors have been checked. It returns the reply of its own, or None; a reply that
depends on the worker is a function, called when that has taken what was published.

Imports its siblings.
"""

from collections.abc import Callable
from typing import Final

from snabb_py._native import lib
from snabb_py.virtio import message
from snabb_py.virtio.device import Device, Pair, check_eventfd
from snabb_py.virtio.guest_memory import Region
from snabb_py.virtio.message import STATE, U64, Feature, Protocol, Refusal

Answer = bytes | Callable[[], bytes] | None

MTU_MIN, MTU_MAX = 68, 65535
#: Bits that say nothing about how a running ring is to be read.
_RUNNING: Final = message.bits(Feature.PROTOCOL_FEATURES)


class Session:
    """A front end's session with a device.

    Args:
        device: reset by whoever ends the session.
        features: what is offered, `message.Feature` bits.
    """

    def __init__(self, device: Device, features: int) -> None:
        self.device = device
        self.offered = features
        self.protocol = 0
        self.status = 0
        self.mtu: int | None = None

    def has(self, feature: Protocol) -> bool:
        """Return whether a protocol feature was negotiated."""
        return bool(self.protocol >> feature & 1)

    def handle(self, number: int, body: bytes, fds: list[int]) -> Answer:
        """Do what a request asks for.

        Args:
            number: of the request.
            body: the payload.
            fds: what came along; those that are kept are taken out.

        Raises:
            Refusal: it is not done.
        """
        request = message.REQUESTS.get(number)
        if request is None or not request.is_handled:
            raise Refusal("unsupported")
        if request.needs is not None and not self.has(request.needs):
            raise Refusal("unsupported")
        least, most = request.sizes
        if not least <= len(body) <= most:
            raise Refusal("bad-size")
        if not request.fds[0] <= len(fds) <= request.fds[1]:
            raise Refusal("bad-fds")
        handler: Callable[[bytes, list[int]], Answer] = getattr(self, request.name)
        return handler(body, fds)

    # -- features --------------------------------------------------------------

    def get_features(self, _body: bytes, _fds: list[int]) -> Answer:
        """Offer features."""
        return U64.pack(self.offered)

    def set_features(self, body: bytes, _fds: list[int]) -> Answer:
        """Take what the guest's driver has chosen; running rings go on as they are."""
        (features,) = U64.unpack(body)
        if features & ~self.offered:
            raise Refusal("bad-features")
        device = self.device
        if device.has_guest and (features ^ device.features) & ~_RUNNING:
            raise Refusal("bad-state")
        device.features = features
        device.publish(device.pairs)
        return None

    def get_protocol_features(self, _body: bytes, _fds: list[int]) -> Answer:
        """Offer features of the protocol."""
        return U64.pack(message.PROTOCOL_FEATURES)

    def set_protocol_features(self, body: bytes, _fds: list[int]) -> Answer:
        """Take what the front end has chosen of them."""
        (features,) = U64.unpack(body)
        if features & ~message.PROTOCOL_FEATURES:
            raise Refusal("bad-features")
        self.protocol = features
        return None

    def set_owner(self, _body: bytes, _fds: list[int]) -> Answer:
        """Begin: there is nothing to do."""
        return None

    def reset_owner(self, _body: bytes, _fds: list[int]) -> Answer:
        """Disable all rings; deprecated, and old front ends mean no more than that."""
        for pair in self.device.pairs:
            for ring in pair.rings:
                ring.is_enabled = False
        self.device.publish(self.device.pairs)
        return None

    def get_queue_num(self, _body: bytes, _fds: list[int]) -> Answer:
        """Tell how many pairs there are."""
        return U64.pack(len(self.device.pairs))

    def net_set_mtu(self, body: bytes, _fds: list[int]) -> Answer:
        """Take the MTU that the guest has been told."""
        (mtu,) = U64.unpack(body)
        if not MTU_MIN <= mtu <= MTU_MAX:
            raise Refusal("bad-mtu")
        self.mtu = mtu
        return None

    def reset_device(self, _body: bytes, _fds: list[int]) -> Answer:
        """Stop everything; the session goes on."""
        self.device.reset()
        self.status = 0
        return None

    def set_status(self, body: bytes, _fds: list[int]) -> Answer:
        """Take the driver's status; 0 resets the device."""
        (status,) = U64.unpack(body)
        if status > 0xFF:  # noqa: PLR2004 - a register of one byte
            raise Refusal("bad-status")
        self.status = status
        if status == 0:
            self.device.reset()
        return None

    def get_status(self, _body: bytes, _fds: list[int]) -> Answer:
        """Tell the status as it was set."""
        return U64.pack(self.status)

    # -- memory ----------------------------------------------------------------

    def set_mem_table(self, body: bytes, fds: list[int]) -> Answer:
        """Replace all of the guest's memory."""
        (n, _) = message.TABLE.unpack_from(body)
        if not 1 <= n <= message.TABLE_REGIONS or len(body) != 8 + 32 * n:
            raise Refusal("bad-size")
        if len(fds) != n:
            raise Refusal("bad-fds")
        regions: list[Region] = []
        try:
            for fd, fields in zip(
                fds, message.REGION.iter_unpack(body[8:]), strict=True
            ):
                start, size, user, offset = fields
                regions.append(Region(start, size, user, offset, fd))
            self.device.set_table(regions)
        except Refusal:
            for region in regions:  # no worker has seen them
                region.close()
            raise
        return None

    def get_max_mem_slots(self, _body: bytes, _fds: list[int]) -> Answer:
        """Tell how many regions there may be."""
        return U64.pack(message.MEMORY_SLOTS)

    def add_mem_reg(self, body: bytes, fds: list[int]) -> Answer:
        """Add a region to the guest's memory."""
        regions = self.device.table.regions
        if len(regions) >= message.MEMORY_SLOTS:
            raise Refusal("bad-memory")
        _, start, size, user, offset = message.SINGLE_REGION.unpack(body)
        region = Region(start, size, user, offset, fds[0])
        try:
            self.device.set_table([*regions, region])
        except Refusal:
            region.close()
            raise
        return None

    def rem_mem_reg(self, body: bytes, _fds: list[int]) -> Answer:
        """Take a region away; where it is in the file does not matter."""
        start, size, user = message.SINGLE_REGION.unpack(body)[1:4]
        regions = self.device.table.regions
        rest = [r for r in regions if (r.start, r.size, r.user) != (start, size, user)]
        if len(rest) == len(regions):
            raise Refusal("bad-memory")
        self.device.set_table(rest)
        return None

    # -- rings -----------------------------------------------------------------

    def set_vring_num(self, body: bytes, _fds: list[int]) -> Answer:
        """Take a ring's size."""
        pair, which, size = self._state(body)
        ring = pair.rings[which]
        if not 1 <= size <= lib.VIRTQ_SIZE_MAX or size & (size - 1):
            raise Refusal("bad-ring-size")
        if ring.is_running and ring.size != size:
            raise Refusal("bad-state")
        ring.size = size
        return None

    def set_vring_addr(self, body: bytes, _fds: list[int]) -> Answer:
        """Take where a ring is, in the front end's own addresses."""
        index, _, desc, used, avail, _ = message.ADDRESS.unpack(body)
        pair, which = self.device.ring(index)
        ring, addresses = pair.rings[which], (desc, avail, used)
        if ring.is_running and ring.addresses != addresses:
            raise Refusal("bad-state")
        before, ring.addresses = ring.addresses, addresses
        try:
            self._start(pair, which)
        except Refusal:
            ring.addresses = before
            raise
        return None

    def set_vring_base(self, body: bytes, _fds: list[int]) -> Answer:
        """Take where to begin; what the ring itself says is better (virtq.c)."""
        pair, which, base = self._state(body)
        if pair.rings[which].is_running:
            raise Refusal("bad-state")
        pair.rings[which].base = base & 0xFFFF
        return None

    def get_vring_base(self, body: bytes, _fds: list[int]) -> Answer:
        """Stop a ring, this one alone, and tell where it is to go on."""
        pair, which, _ = self._state(body)
        (index, _) = STATE.unpack(body)
        ring = pair.rings[which]
        if not ring.is_running:
            return STATE.pack(index, ring.base)
        self.device.stop(pair, which)
        self.device.publish([pair])

        def tell() -> bytes:
            ring.base = pair.cursor(which)
            return STATE.pack(index, ring.base)

        return tell

    def set_vring_enable(self, body: bytes, _fds: list[int]) -> Answer:
        """Let packets through, or not."""
        pair, which, value = self._state(body)
        if value > 1:
            raise Refusal("bad-state")
        pair.rings[which].is_enabled = bool(value)
        self.device.publish([pair])
        return None

    def set_vring_kick(self, body: bytes, fds: list[int]) -> Answer:
        """Take what the guest kicks with: the ring may start."""
        pair, which = self._take_fd(body, fds, "kick")
        pair.rings[which].is_kickable = True
        self._start(pair, which)
        return None

    def set_vring_call(self, body: bytes, fds: list[int]) -> Answer:
        """Take what interrupts the guest."""
        pair, _ = self._take_fd(body, fds, "call")
        self.device.publish([pair])
        return None

    def set_vring_err(self, body: bytes, fds: list[int]) -> Answer:
        """Take what tells that a ring is broken."""
        pair, _ = self._take_fd(body, fds, "err")
        self.device.publish([pair])
        return None

    def _state(self, body: bytes) -> tuple[Pair, int, int]:
        index, number = STATE.unpack(body)
        return *self.device.ring(index), number

    def _take_fd(self, body: bytes, fds: list[int], kind: str) -> tuple[Pair, int]:
        (word,) = U64.unpack(body)
        if word & ~(message.RING_MASK | message.NO_FD):
            raise Refusal("bad-index")
        pair, which = self.device.ring(word & message.RING_MASK)
        if len(fds) != (not word & message.NO_FD):
            raise Refusal("bad-fds")
        fd = -1
        if fds:
            check_eventfd(fds[0])
            fd = fds.pop()
        self.device.set_fd(pair, which, kind, fd)
        return pair, which

    def _start(self, pair: Pair, which: int) -> None:
        """Start a ring that has all it needs and does not run."""
        ring = pair.rings[which]
        if ring.is_running or not ring.can_start:
            return
        ring.is_running = True
        ring.start += 1
        # That it was disabled says nothing of the new start; that it is enabled, some
        # say before.
        ring.is_enabled = ring.is_enabled or None
        try:
            self.device.publish([pair])
        except Refusal:
            ring.is_running = False
            raise
