/* Configurations, states and counters of Generator and Checker; ports in traffic.py.
 *
 * The stamp, all in network order:
 *
 *     bytes  -24..-17  time, ns on CLOCK_MONOTONIC  (only with TRAFFIC_MAGIC_TIMED)
 *            -16..-15  magic
 *            -14..-13  balance
 *            -12..-9   stream
 *             -8..-1   number, counted from 0 in each stream
 *
 * Balance makes the one's complement sum of the stamp's 16-bit words 0xffff, which adds
 * nothing to a sum (RFC 1071): wherever it lies, every checksum over a frame whose
 * stamp is zeros is right with the stamp in it too, that of UDP inside a tunnel and
 * that of the tunnel. So nothing has to be updated for each packet (RFC 1624 would, once
 * for every checksum that covers the stamp), and a stamp proves itself: a damaged one
 * is known without any other checksum.
 *
 * The stamp lies at the end of the outermost IP packet, as its own length has it; in a
 * frame without IP, at the frame's end. From there it is found whatever happened on the
 * way: VLAN tags and IP tunnels come and go in front of the packet, padding to the
 * least size of a frame goes behind it, and the length of IP tells where it ends. An
 * offset from the frame's begin would move with each tag; one from the begin of the
 * payload needs all headers parsed, extension headers and tunnels too, and is gone in
 * all fragments but the first (the end is in all but one as well, but the last one
 * is the one that completes a packet). A search through the frame is slow, and finds
 * stamps in what only quotes a packet: an ICMP error, which is none of the stream's
 * packets. What adds a trailer (ESP) hides the stamp. */

enum {
    TRAFFIC_MAGIC = 0x5abb,
    TRAFFIC_MAGIC_TIMED = 0x5abc,
    TRAFFIC_STAMP_SIZE = 16,
    TRAFFIC_TIMED_STAMP_SIZE = 24,
    TRAFFIC_MAX_STREAMS = 64, /* that one Checker tells apart */
    TRAFFIC_WINDOW = 4096     /* packets; how late one of a stream may still come */
};

/* Where the stamp of a frame ends: offset of the byte behind it. 0: the frame has an
 * IP header that contradicts itself or the frame's length, or is not all there. */
uint32_t traffic_end(const uint8_t *frame, uint32_t length);

/* ---- Generator ----------------------------------------------------------- */

/* A frame's turn: one word, so that what is sent needs little more of the cache than
 * its frames. */
struct generator_turn {
    uint32_t place;  /* of the frame in the config's, in units of 64 bytes */
    uint16_t length; /* without FCS, up to PACKET_SMALL_SIZE */
    uint16_t stamp;  /* offset of its magic, 0: no stamp; GENERATOR_TIMED */
};

enum { GENERATOR_TIMED = 0x8000 }; /* 8 bytes in front of the stamp are the time */

struct generator_config {
    const struct generator_turn *order; /* sent in this order, round and round */
    const uint8_t *frames; /* each readable up to the next multiple of 64 bytes */
    const double *costs;   /* ns that the rate gives each turn; NULL: as fast as taken */
    const struct field_layout *const *layouts; /* of each turn; NULL: nothing varies */
    uint32_t norder;       /* 1 at least */
    uint32_t stream;
    const struct fields *fields; /* NULL: none varies */
    uint64_t count;  /* packets to send of the stream, 0: without end */
    double mean;     /* ns, of the costs in order; 0: as fast as taken */
    double catch_up; /* ns behind its rate that it makes up for at least */
};

/* Why packets were not sent in time; by name in the counters. */
enum {
    GENERATOR_MISSED_NO_ROOM,
    GENERATOR_MISSED_NO_PACKET,
    GENERATOR_MISSED_LATE, /* the worker had too much else to do, or slept too long */
    GENERATOR_NCOUNTERS
};

struct generator_state {
    uint64_t sent;   /* of the stream */
    uint64_t number; /* of the next stamp */
    uint64_t begun;  /* ns; the stream's first turn */
    uint64_t last;   /* ns; that of the last packets so far */
    uint64_t before; /* packets sent of the stream before these */
    uint64_t since;  /* ns; credit was last given */
    double credit;   /* ns; a packet may go when it is not negative */
    double missed;   /* packets, less than one, not counted yet */
    uint32_t turn;   /* in the order */
    uint32_t reason; /* GENERATOR_MISSED_*: what held the last pull up */
    uint32_t stream; /* that sent, number and begun belong to */
    uint32_t is_started;
    uint32_t is_resting; /* all have been sent */
    const struct generator_config *config; /* that turn and fields are of */
    struct fields_state fields;
};

extern const struct app_ops generator_ops;

/* ---- Checker ------------------------------------------------------------- */

struct checker_config {
    uint32_t verify; /* checksums */
};

enum {
    CHECKER_LOST,
    CHECKER_DUPLICATED,
    CHECKER_REORDERED,
    CHECKER_FOREIGN,         /* no stamp */
    CHECKER_BAD_STAMP,       /* out of balance, or its number is absurd */
    CHECKER_UNKNOWN_STREAM,  /* one more than TRAFFIC_MAX_STREAMS */
    CHECKER_BAD_IP_CHECKSUM, /* of the IPv4 header, outer or inner */
    CHECKER_BAD_L4_CHECKSUM,
    CHECKER_NCOUNTERS
};

/* One stream; its packets are those of good stamps, duplicates included. */
struct checker_stream {
    uint32_t id;
    uint32_t is_used;
    uint64_t packets;
    uint64_t bytes; /* of frames, without FCS */
    uint64_t lost;
    uint64_t duplicated;
    uint64_t reordered;
    uint64_t expected; /* number */
    uint64_t reserved;
    uint64_t seen[64]; /* bit n % TRAFFIC_WINDOW: number n has come */
};

/* A stream's place is found from its id by linear probing: places up to the first one
 * that is not used belong to others. */
struct checker_state {
    struct checker_stream streams[64];
    uint64_t latency[256]; /* histogram, ns, of stamps with a time */
    uint64_t longest;      /* ns, of these */
};

extern const struct app_ops checker_ops;
