/* Cutting datagrams that are longer than the MTU; see fragment.c. */

enum {
    /* The longest frame, cut for the smallest MTU of IPv4 (68, RFC 791) behind the
     * longest header (60): 8 bytes each. */
    FRAGMENTS_MAX = 1280
};

/* Cut an untagged frame of one IPv4 datagram. What lies behind its total length is
 * padding and goes away.
 *
 * Args:      mtu: bytes from the IPv4 header on.
 *            id: of the fragments; a datagram that is a fragment keeps its own.
 *            copy_all: options that belong in the first fragment alone (RFC 791, 3.1:
 *            the copied flag is 0) go into all, as Snabb has it.
 *            out: room for max packets. They are the caller's; the packet is the first
 *            of them.
 * Returns:   how many, 1 at least (it was short enough); else nothing has changed, the
 *            packet is still the caller's, and it is
 *            -EMSGSIZE  too long, and it must not be fragmented
 *            -EINVAL    no such datagram, a super-frame, or no fragment fits the MTU
 *            -E2BIG     more than max
 *            -ENOMEM    the pool has run dry
 */
int fragment_ipv4(struct freelist *freelist, struct packet *packet, uint32_t mtu,
                  uint16_t id, bool copy_all, struct packet **out, uint32_t max);

/* The same for IPv6, as its source (RFC 8200, 4.5): extension headers, if any, are
 * cut with the payload. Never -EMSGSIZE. */
int fragment_ipv6(struct freelist *freelist, struct packet *packet, uint32_t mtu,
                  uint32_t id, struct packet **out, uint32_t max);
