/* The data path of vhost-user network ports: queue pairs, and the app that serves some.
 *
 * Python (net_device.py, session.py) talks to the front end and publishes what it wants;
 * C moves packets, and takes that at its next breath.
 */

enum { /* counters of a pair; names in net_device.py */
    VHOST_RX_PACKETS, /* put into the guest's buffers */
    VHOST_RX_BYTES,
    VHOST_RX_SUPER_FRAMES, /* of rx-packets: to be cut up by the guest */
    VHOST_TX_PACKETS,      /* that the guest has sent */
    VHOST_TX_BYTES,
    VHOST_TX_SUPER_FRAMES,
    VHOST_INTERRUPTS,
    VHOST_TX_NO_PACKET,     /* times the pool was dry; they wait in the ring */
    VHOST_DROP_RX_DOWN,     /* no guest, or its ring does not run */
    VHOST_DROP_RX_RING_FULL, /* of several: one queue must not hold up the others */
    VHOST_DROP_RX_TOO_LONG,  /* the guest's buffers are too small */
    VHOST_DROP_RX_BAD_OFFLOAD,
    VHOST_DROP_RX_NO_PACKET, /* none to cut a super-frame into */
    VHOST_DROP_TX_DISABLED,
    VHOST_DROP_TX_TOO_SHORT, /* no whole header and Ethernet header */
    VHOST_DROP_TX_TOO_LONG,  /* over 66 KiB */
    VHOST_DROP_TX_BAD_OFFLOAD,
    VHOST_DROP_TX_NO_PACKET, /* a long one, and no large packet for it */
    VHOST_BROKEN_AVAIL_RINGS, /* in the order of VIRTQ_BAD_* */
    VHOST_BROKEN_HEAD_RINGS,
    VHOST_BROKEN_NEXT_RINGS,
    VHOST_BROKEN_CHAIN_RINGS,
    VHOST_BROKEN_INDIRECT_RINGS,
    VHOST_BROKEN_DIRECTION_RINGS,
    VHOST_BROKEN_ADDRESS_RINGS,
    VHOST_NCOUNTERS
};

/* What the front end has set up of a pair; immutable once published. */
struct vhost_setup {
    struct virtq_setup rx; /* to the guest */
    struct virtq_setup tx; /* from the guest */
    struct guest_memory *memory;
    uint64_t features; /* negotiated */
};

enum { VHOST_PAIRS_MAX = 128 };

enum { /* vhost_pair.owner */
    VHOST_NOBODY,
    VHOST_WORKER,
    VHOST_PORT
};

/* A queue pair. The worker's, apart from the last cache line. */
struct vhost_pair {
    struct virtq rx;
    struct virtq tx;
    uint32_t header_size;
    uint32_t accepts; /* ACCEPTS_*: what the guest takes unfinished */
    uint32_t is_merging;
    /* A packet waits for more buffers than the guest has given, and all of these are
     * free: so many ticks. */
    uint32_t is_stuck;
    uint32_t stuck_ticks;
    int32_t event_fd; /* eventfd: a setup was taken, a ring broke; Python listens */
    int32_t epoll_fd; /* of kicks and poke_fd, edge-triggered; pairs must not share it */
    int32_t poke_fd;  /* eventfd: there is something to take */
    uint64_t counters[25];
    uint64_t reserved0[3];
    /* Written by whoever publishes and whoever takes. */
    struct vhost_setup *next;  /* published, NULL once taken */
    struct vhost_setup *taken; /* the one in force: what earlier ones meant is free */
    uint32_t owner;            /* who takes */
    uint32_t reserved1[11];
};

/* An app's state: the pairs that it serves. */
struct vhost_net {
    struct vhost_pair **pairs;
    uint32_t npairs;
    int32_t epoll_fd; /* of the pairs' */
};

/* Input 0 goes to the guest, what it sends comes from output 0. */
extern const struct app_ops vhost_net_ops;

/* Publish a setup. A worker that has the pair takes it at its next breath; otherwise it
 * is taken now. event_fd tells when. */
void vhost_publish(struct vhost_pair *pair, struct vhost_setup *setup);
/* Take what is published, if no worker has the pair. */
void vhost_settle(struct vhost_pair *pair);
/* The setup in force, with acquire. */
struct vhost_setup *vhost_taken(const struct vhost_pair *pair);
/* The worker that had the pair has ended, and will not come back. */
void vhost_leave(struct vhost_pair *pair);
