/* Checksums and segmentation in software, and the header by which virtio, taps and
 * packet sockets tell what is left to do. */

/* The virtio-net header (virtio 1.2, 5.1.6), little-endian on the wire and here.
 * Taps and packet sockets use the first 10 bytes, in the host's order, which is the
 * same on every machine this is built for. */
struct virtio_net_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;     /* bytes of all headers: a hint */
    uint16_t gso_size;    /* payload bytes of each segment */
    uint16_t csum_start;  /* bytes from the frame's first */
    uint16_t csum_offset; /* bytes from csum_start */
    uint16_t num_buffers; /* only with mergeable buffers or VERSION_1 */
};

enum {
    VIRTIO_NET_HEADER_LEGACY = 10, /* bytes without num_buffers */
    VIRTIO_NET_HEADER_SIZE = 12,
    VIRTIO_NET_NEEDS_CSUM = 1, /* flags */
    VIRTIO_NET_DATA_VALID = 2
};

/* Set a packet's metadata from a header that somebody else wrote; the frame must be
 * in place, for the checksum is looked for in it. num_buffers is not read.
 * Returns 0; or -EINVAL, and the packet has no offload, when the checksum lies
 * outside the frame, the segments have no size, or their type is unknown (UFO, which
 * Linux ceased to make in 4.14, is). */
int packet_from_virtio(struct packet *packet, const struct virtio_net_header *header);

/* Write the header that says what a packet's metadata say; num_buffers becomes 1.
 * Returns 0; or -EINVAL, and the header asks for nothing, when the metadata do not
 * fit the frame: an app has cut it short. */
int packet_to_virtio(const struct packet *packet, struct virtio_net_header *header);

/* The 16-bit one's complement sum of n bytes (RFC 1071), complemented, in the order
 * of memory: store it as it is. */
uint16_t checksum(const uint8_t *data, uint32_t n);

/* Finish the checksum that PACKET_CSUM_PARTIAL leaves open, in software; a packet
 * without the flag is left alone. Not for a super-frame: cut that up instead.
 * False, and nothing is written: the checksum lies outside the frame; count it and
 * drop the packet. */
bool packet_finish_checksum(struct packet *packet);

/* Find out whether the checksum of TCP or UDP is unfinished, in a frame that comes with
 * no word of it, and say so in the metadata: its field holds the pseudo header's sum. A
 * finished one is that sum by chance (1 in 65536), and then it is what finishing makes of
 * it: so nothing is changed but, as often, an error passed over that is in the frame.
 * What may be in a tunnel is found there, one deep; not in fragments nor in frames that
 * do not end where IP does. The packet has no offload yet. */
bool packet_find_unfinished(struct packet *packet);

enum { SEGMENTS_MAX = 1024 }; /* more are never made of one super-frame */

/* Cut a super-frame (gso_type is set) into frames that are right by themselves:
 * lengths, IPv4 identification and checksum, TCP sequence and flags, TCP or UDP
 * checksum. VLAN tags, IPv4 options and IPv6 extension headers are copied. What is cut
 * may be in a tunnel of IP in IP (RFC 2003, 2473, 4213), one deep; each segment gets its
 * headers.
 *
 * Args:      out: room for max packets; they are the caller's afterwards, as the
 *            super-frame still is.
 * Returns:   how many, 1 at least; else nothing was made and it is
 *            -EINVAL   the frame is not what gso_type says, or cannot be cut
 *            -E2BIG    more than max or SEGMENTS_MAX segments
 *            -ENOMEM   the pool has run dry
 */
int packet_segment(struct freelist *freelist, const struct packet *packet,
                   struct packet **out, uint32_t max);

/* Whether there is IP in the frame's IP. A virtio-net header has no word for a super-frame
 * that is to be cut inside of a tunnel: it is cut up before anybody is told of it. */
bool packet_is_tunnelled(const struct packet *packet);

/* What packet_segment() would make of a super-frame. */
struct segments {
    uint32_t n;
    uint32_t length; /* bytes of each but the last */
    uint32_t last;   /* bytes of the last */
};

/* False: the frame is not a super-frame that can be cut. */
bool packet_count_segments(const struct packet *packet, struct segments *segments);

/* Keep the first n segments of a super-frame: it is as if its sender had had no more to
 * send. n is less than packet_count_segments() found, and not 0. */
void packet_keep_segments(struct packet *packet, uint32_t n);
