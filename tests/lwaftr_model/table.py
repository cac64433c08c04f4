"""The binding table: RFC 7597 5.1's port sets, looked up one after another."""

from tests.lwaftr_model.settings import Softwire


class Table:
    """Softwires by address and PSID.

    By default an address's excluded ports are those whose first `offset` bits are 0;
    an address that is not shared has none (RFC 7597 5.1: "address sharing"). Snabb
    excludes the ports below 2 ** offset, also there.
    """

    def __init__(self, softwires: tuple[Softwire, ...], *, compat: bool) -> None:
        self.compat = compat
        self.sharing: dict[bytes, tuple[int, int]] = {}
        self.softwires: dict[tuple[bytes, int], Softwire] = {}
        for softwire in softwires:
            parameters = (softwire.psid_length, softwire.offset)
            self.sharing.setdefault(softwire.ipv4, parameters)
            self.softwires.setdefault((softwire.ipv4, softwire.psid), softwire)

    def manages(self, ipv4: bytes) -> bool:
        return ipv4 in self.sharing

    def lookup(self, ipv4: bytes, port: int) -> Softwire | None:
        if ipv4 not in self.sharing:
            return None
        length, offset = self.sharing[ipv4]
        if self.compat:
            excluded = offset > 0 and port < 1 << offset
        else:
            excluded = length > 0 and offset > 0 and port >> (16 - offset) == 0
        if excluded:
            return None
        psid = port >> (16 - length - offset) & ((1 << length) - 1)
        return self.softwires.get((ipv4, psid))
