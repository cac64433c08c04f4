/* Configuration, state and counters of Pace; ports in pace.py. */

struct pace_config {
    double per_packet; /* ns that a packet takes, */
    double per_byte;   /* and each of its bytes on the wire */
    double catch_up;   /* ns behind its rate that it makes up for */
    uint64_t count;    /* packets that pass, 0: all */
};

enum {
    PACE_MISSED_LATE, /* packets that had been due when none came, or none was taken */
    PACE_NCOUNTERS
};

struct pace_state {
    uint64_t passed;
    uint64_t since; /* ns; credit was last given */
    double credit;  /* ns; a packet may pass when it is not negative */
    double lost;    /* ns that are not made up for, of packets that have not come yet */
    uint64_t begun; /* ns; the first packet passed, */
    uint64_t last;  /* and the last ones */
    uint64_t before; /* packets that had passed before these */
};

extern const struct app_ops pace_ops;
