/* Configurations, states and counters of the basic apps; ports in basic.py. */

enum { SEQUENCE_WINDOW = 4096 }; /* packets; how late one may still come */

struct source_config {
    const uint8_t *frame; /* readable up to the next multiple of 64 bytes */
    uint32_t size;
    uint32_t sequence; /* offset of a 64-bit number (network order), 0: none */
    uint64_t count;    /* packets to send, 0: without end */
    double rate;       /* packets per ns, 0: as fast as they are taken */
};

struct source_state {
    uint64_t sent;
    uint64_t since; /* ns; credit was last given */
    double credit;  /* packets */
};

extern const struct app_ops source_ops;

struct sink_config {
    uint32_t sequence; /* offset of the number to check, 0: check nothing */
};

enum {
    SINK_LOST,
    SINK_DUPLICATED,
    SINK_REORDERED,
    SINK_FOREIGN, /* too short to hold a number */
    SINK_NCOUNTERS
};

struct sink_state {
    uint64_t expected;
    uint64_t seen[64]; /* bit n % SEQUENCE_WINDOW: number n has come */
};

extern const struct app_ops sink_ops;

extern const struct app_ops forward_ops;
extern const struct app_ops join_ops; /* state: uint32_t, whose turn it is */

enum { TEE_DROP_NO_PACKET, TEE_NCOUNTERS };
extern const struct app_ops tee_ops;

extern const struct app_ops split_ops; /* state: uint32_t, whose turn it is */

struct repeater_state {
    struct packet **packets; /* room for limit of them */
    uint32_t limit;
    uint32_t npackets;
    uint32_t turn;
};

enum { REPEATER_DROP_FULL, REPEATER_NCOUNTERS };
extern const struct app_ops repeater_ops;

struct truncate_config {
    uint32_t length;
    uint32_t pad; /* shorter ones become as long, with zeros */
};
extern const struct app_ops truncate_ops;

struct sample_config {
    uint32_t n;
};

enum { SAMPLE_DROP_UNSAMPLED, SAMPLE_NCOUNTERS };
extern const struct app_ops sample_ops; /* state: uint32_t, packets since the last */

struct police_config {
    double rate;       /* bytes per ns */
    double burst;      /* bytes */
    uint32_t overhead; /* bytes on the wire beside the frame */
};

struct police_state {
    double tokens; /* bytes */
    uint64_t since; /* ns */
};

enum {
    POLICE_DROP_POLICED,
    POLICE_DROP_POLICED_SEGMENTS, /* of super-frames whose first ones passed */
    POLICE_NCOUNTERS
};
extern const struct app_ops police_ops;
