/* Header fields that vary from packet to packet. fields_layout.c finds where they lie,
 * fields.c has the loops, fields.py says who may ask for what.
 *
 * Packets are those of flows, 0 to nflows - 1 in turn. From a flow to the next every range
 * moves on by one, and no two flows are the same: after as many steps as a range and those
 * before it have in common, both would be where they began, so it passes over a place then.
 * Flows themselves do that with regard to the templates of a Generator: each flow comes in
 * each template.
 */

enum { /* what a range is of: the outermost header of its kind */
    FIELD_DST_MAC,
    FIELD_SRC_MAC,
    FIELD_VLAN, /* the first tag's control information */
    FIELD_SRC_IP,
    FIELD_DST_IP,
    FIELD_SRC_PORT,
    FIELD_DST_PORT,
    FIELD_KINDS
};

enum { FIELD_IN_IP_SUM = 1, FIELD_IN_L4_SUM = 2 };

/* How something goes round: n places, one passed over after each `period` steps, and all
 * from the beginning after `rounds` of these. */
struct field_cycle {
    uint64_t n;
    uint64_t period;
    uint64_t rounds;
};

/* Where it is. index < n; 0 < left <= period; round < rounds. */
struct field_count {
    uint64_t index;
    uint64_t left;
    uint64_t round;
};

struct field_range {
    struct field_cycle cycle;
    uint64_t first; /* its least value; of an IPv6 address the lower half */
    uint32_t size;  /* bytes: 2, 4, 6 or 8 */
    uint32_t sums;  /* FIELD_IN_*: checksums that cover it */
};

struct fields {
    struct field_cycle flows;
    struct field_range ranges[7];
    uint32_t nranges;
    uint32_t is_uniform; /* all layouts have the same places and checksums */
};

struct fields_state {
    struct field_count flow;
    struct field_count counts[7]; /* of the ranges */
};

struct field_place {
    uint16_t offset; /* in the frame; even */
    uint8_t size;    /* as in its range */
    uint8_t sums;
};

enum { /* what a part of a window is of: a range, or a checksum */
    FIELD_IP_CHECKSUM = FIELD_KINDS,
    FIELD_L4_CHECKSUM,
    FIELD_SOURCES
};

struct field_part {
    uint8_t source; /* its number */
    int8_t shift;   /* bits that it lies behind the window's begin; < 0: in front */
};

/* Eight bytes of a frame that are written at once. */
struct field_window {
    uint64_t base;   /* what does not vary of them */
    uint16_t offset; /* in the frame; even */
    uint16_t nparts;
    struct field_part parts[4]; /* those that lie in it, even if only in part */
};

/* Where a frame has its fields, its checksums without them, and the windows that cover
 * them all. */
struct field_layout {
    struct field_place places[7]; /* of the ranges */
    uint16_t ip_checksum;         /* offsets; 0: there is none */
    uint16_t l4_checksum;
    uint32_t is_udp; /* whose checksum is never 0 (RFC 768) */
    uint32_t ip_sum; /* less than 2^17 */
    uint32_t l4_sum;
    uint32_t nwindows;
    struct field_window windows[9]; /* FIELD_SOURCES: each begins at one that is new */
};

/* Find a field in a frame. Returns 0; -1: the frame has no such header. */
int fields_find(const uint8_t *frame, uint32_t length, uint32_t kind,
                struct field_place *place);
/* Sum a frame up, whose first `nplaces` places are known, apart from these, and cover all
 * that varies with windows. Not summed: a UDP checksum over IPv4 that is 0, for that means
 * none (RFC 768), and what lies behind the IP header of a fragment. */
void fields_lay_out(const uint8_t *frame, uint32_t length, uint32_t nplaces,
                    struct field_layout *layout);
/* Write the first flow into a frame. */
void fields_begin(const struct fields *fields, const struct field_layout *layout,
                  uint8_t *frame);
/* Go to a packet's flow; packets are counted from 0. */
void fields_seek(const struct fields *fields, struct fields_state *state, uint64_t number);
