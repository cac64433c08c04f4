/* Split virtqueues, the device's side (virtio 1.2, 2.7).
 *
 * Rings and buffers lie in the guest's memory: it is hostile, and changes while we look.
 * Each field is read once and checked once; what it says afterwards is not asked. What
 * breaks the rules of the ring stops the ring, and nothing else.
 *
 * Buffers are used in the order in which they were made available, and all that a burst
 * takes is used when it ends: one cursor tells both, and used.idx is where to go on after
 * a restart, whatever became of us.
 */

enum {
    VIRTQ_SIZE_MAX = 32768,
    VIRTQ_BURST_MAX = 1024, /* buffers that one burst takes */
    VIRTQ_CHAIN_MAX = 1024, /* descriptors of a buffer; QEMU's bound, too */
    VIRTQ_NEXT = 1,         /* flags of a descriptor */
    VIRTQ_WRITE = 2,
    VIRTQ_INDIRECT = 4
};

enum { /* why a ring was stopped */
    VIRTQ_OK,
    VIRTQ_BAD_AVAIL,     /* more buffers than the ring has places */
    VIRTQ_BAD_HEAD,      /* no such descriptor */
    VIRTQ_BAD_NEXT,      /* the same within a chain */
    VIRTQ_BAD_CHAIN,     /* a loop, or as long as none should be */
    VIRTQ_BAD_INDIRECT,  /* no whole table, one inside another, or not negotiated */
    VIRTQ_BAD_DIRECTION, /* to be written where we read, or the reverse */
    VIRTQ_BAD_ADDRESS,   /* not in the guest's memory */
    VIRTQ_NREASONS
};

enum { /* virtq_setup.enabled */
    VIRTQ_WAITS,   /* nobody has said yet: what is on the ring stays there */
    VIRTQ_ENABLED,
    VIRTQ_DISCARDS  /* disabled: nothing comes, and what is sent goes nowhere */
};

struct virtq_desc {
    uint64_t address; /* in the guest */
    uint32_t length;
    uint16_t flags;
    uint16_t next;
};

struct virtq_used {
    uint32_t id; /* first descriptor of the chain */
    uint32_t length;
};

/* A piece of the guest's memory, and where we have it. */
struct guest_region {
    uint64_t start; /* physical address in the guest */
    uint64_t size;
    uint8_t *host;
    uint64_t reserved;
};

/* All of it, by rising address, without overlaps; immutable. */
struct guest_memory {
    struct guest_region *regions;
    uint32_t nregions;
    uint32_t reserved;
};

/* What a front end has set up; immutable. Python has checked that all three parts lie in
 * the guest's memory as a whole, and are aligned. */
struct virtq_setup {
    struct virtq_desc *desc;
    uint16_t *avail; /* flags, idx, ring[size], used_event */
    uint16_t *used;  /* flags, idx, struct virtq_used[size], avail_event */
    uint32_t size;   /* a power of two; 0: the ring is stopped */
    uint32_t enabled; /* VIRTQ_WAITS... */
    uint32_t start; /* counts the starts: another number, another ring */
    int32_t call_fd; /* non-blocking eventfds; -1: none */
    int32_t err_fd;
    uint32_t reserved;
};

/* A ring, the worker's. */
struct virtq {
    struct virtq_desc *desc;
    uint16_t *avail;
    uint16_t *used;
    const struct guest_memory *memory;
    struct guest_region hit; /* of the last address: most are near it */
    uint32_t size;           /* 0: stopped */
    uint16_t next;           /* cursor: the first buffer that is not used yet */
    uint16_t seen;           /* avail.idx as it was last read */
    uint16_t told;           /* next, when it was last decided about an interrupt */
    uint16_t reserved0;
    uint32_t has_event_index;
    uint32_t has_indirect;
    uint32_t enabled;
    uint32_t is_armed; /* the guest was asked for kicks */
    uint32_t broken;   /* VIRTQ_BAD_* */
    uint32_t start;
    int32_t call_fd;
    int32_t err_fd;
    uint32_t reserved1;
    uint64_t ncalls; /* interrupts sent */
    struct event_signal *signal; /* what interrupts the guest */
};
