/* The data structures of the engine: packets, links, apps, workers.
 *
 * Read by the C compiler and by cffi: no preprocessor, no attributes, no inline
 * functions here. Operations on these structures are in engine.h, layouts are
 * asserted there too.
 *
 * The contract of the data plane:
 *   - pull brings packets in from outside, push moves what is on the inputs.
 *   - after transmit or free a packet is no longer yours.
 *   - nothing blocks, raises or logs: count the reason and drop.
 *   - one worker owns an app, its links and its freelist; nobody else touches them
 *     while they are part of a running plan.
 *   - times are ns on CLOCK_MONOTONIC.
 */

/* ---- packets ------------------------------------------------------------- */

enum {
    PACKET_HEADROOM = 256,     /* bytes in front of a fresh packet's data */
    PACKET_SMALL_SIZE = 10240, /* most bytes of a frame in a small slot */
    PACKET_LARGE_SIZE = 67584, /* the same for segmentation offload: 66 KiB */
    /* Bytes of a whole slot: struct packet, headroom, data. Both are odd multiples
     * of 64, so that neighbours fall into different cache sets (a power of two
     * makes copies 3.5 times slower). */
    PACKET_SMALL_STRIDE = 10560,
    PACKET_LARGE_STRIDE = 67904,
    PACKET_SMALL = 0, /* slot classes */
    PACKET_LARGE = 1,
    PACKET_NCLASSES = 2
};

enum {                       /* packet.flags */
    PACKET_CSUM_PARTIAL = 1, /* the checksum at csum_start + csum_offset is unfinished:
                                it holds the pseudo header's sum (virtio NEEDS_CSUM) */
    PACKET_CSUM_VALID = 2    /* whoever received it has verified the checksum */
};

enum { /* packet.gso_type: the values of virtio_net_hdr (virtio 1.2, 5.1.6) */
    PACKET_GSO_NONE = 0,
    PACKET_GSO_TCPV4 = 1,
    PACKET_GSO_TCPV6 = 4,
    PACKET_GSO_UDP_L4 = 5,
    PACKET_GSO_ECN = 128 /* or'ed to a TCP type: the first segment keeps CWR */
};

/* A packet: one cache line of metadata at the start of its slot. Everything from
 * gso_type on is meaningful only where flags or gso_type say so. */
struct packet {
    uint8_t *data;        /* first byte of the Ethernet frame */
    uint32_t length;      /* bytes from data on, without FCS */
    uint16_t flags;       /* PACKET_CSUM_* */
    uint8_t gso_type;     /* PACKET_GSO_*: a super-frame to be cut into segments */
    uint8_t slot_class;   /* PACKET_SMALL or PACKET_LARGE; constant */
    uint16_t gso_size;    /* payload bytes of each segment */
    uint16_t csum_start;  /* bytes from data to where summing begins */
    uint16_t csum_offset; /* bytes from csum_start to the checksum field */
    uint16_t reserved0;
    uint32_t hash;        /* of the flow, when the card computed one */
    uint32_t reserved1;
    uint64_t rx_time;     /* ns, when whoever received it took the time */
    uint64_t iova;        /* address of this struct as a device sees it */
    uint64_t reserved2[2];
};

enum {
    POOL_CHUNK = 256,         /* packets that change hands at once */
    FREELIST_CAPACITY = 2048  /* a worker has room for so many of its own */
};

struct chunk {
    uint32_t next; /* index + 1 of the chunk below on its stack, 0: none */
    uint32_t npackets;
    uint64_t reserved[7];
    struct packet *packets[256];
};

/* The packets of all workers: one mapping, small slots first, then large ones.
 * Free packets that no worker holds lie in chunks on lock-free stacks; a stack's
 * head is (tag << 32 | index + 1), the tag defeats ABA. */
struct pool {
    uint8_t *base;
    struct packet *first_large; /* address bound: at or above it a slot is large */
    uint32_t npackets[2];       /* by class */
    uint32_t shares[2];         /* by class: what a freelist keeps of it at most */
    uint32_t nchunks;
    uint32_t nfresh; /* chunks that were ever in use: chunks[0..nfresh) */
    struct chunk *chunks;
    uint64_t reserved1[2];
    uint64_t empty;        /* stack of chunks that hold nothing */
    uint64_t reserved2[7]; /* each head on a cache line of its own */
    uint64_t full_small;
    uint64_t reserved3[7];
    uint64_t full_large;
    uint64_t reserved4[7];
};

struct stack {
    uint32_t npackets;
    uint32_t share; /* with more than these, half of it goes back to the pool */
    struct packet *packets[2048];
};

/* One worker's own free packets, last in first out: the warmest first. */
struct freelist {
    struct pool *pool;
    struct packet *first_large;
    struct stack classes[2];
};

/* ---- links --------------------------------------------------------------- */

enum { LINK_CAPACITY = 1024 };

/* One cache line in shared memory; names and order in engine/counter.py. */
struct link_counters {
    uint64_t txpackets; /* put on the link */
    uint64_t txbytes;
    uint64_t rxpackets; /* taken off the link */
    uint64_t rxbytes;
    uint64_t txdrop; /* not put on: the link was full */
    uint64_t reserved[3];
};

/* A ring of packets between two apps of one worker. Cursors run freely and are
 * reduced modulo the capacity. Invariants: 0 <= write - read <= LINK_CAPACITY;
 * txbytes - rxbytes is the sum of the lengths on the ring: an app must not change
 * the length of a packet that it has transmitted. */
struct link {
    uint32_t read;
    uint32_t write;
    struct link_counters *counters;
    struct freelist *freelist; /* of the worker that owns the link */
    uint64_t reserved[5];
    struct packet *ring[1024];
};

/* ---- apps ---------------------------------------------------------------- */

struct app;

/* What an app waits for before its worker sleeps; laid out as struct pollfd. */
struct wake {
    int fd;
    short events;
    short revents;
};

enum {             /* app_ops.arm answers */
    ARM_READY = 0, /* wake says what will end the wait */
    ARM_BUSY = 1,  /* work has come meanwhile: do not sleep */
    ARM_NEVER = 2  /* this app cannot be waited for: poll it */
};

/* The app class. Any function may be NULL.
 *   pull, push  return how many packets they moved; 0 lets the worker idle.
 *   tick        is called at 1 kHz.
 *   retire      frees every packet that the app holds and returns how many; the
 *               app has left the network.
 *   arm         readies a wake-up; called when nothing moved, before sleeping.
 *   held        how many packets the app holds now; its worker stands still. */
struct app_ops {
    uint32_t (*pull)(struct app *app);
    uint32_t (*push)(struct app *app);
    void (*tick)(struct app *app);
    uint32_t (*retire)(struct app *app);
    int (*arm)(struct app *app, struct wake *wake);
    uint32_t (*held)(const struct app *app);
};

/* An app in the network. config is immutable and replaced whole by a hand-over;
 * state belongs to the app. input and output have as many entries as the class
 * declares ports (or as many as are linked, when it takes any number); an entry is
 * NULL where an optional port is not linked. */
struct app {
    const struct app_ops *ops;
    void *state;
    const void *config;
    struct link **input;
    struct link **output;
    uint32_t ninput;
    uint32_t noutput;
    uint64_t *counters; /* in shared memory, named by the class */
    struct worker *worker;
};

/* ---- workers ------------------------------------------------------------- */

enum {
    HISTOGRAM_SUBBITS = 2, /* 4 buckets to the octave */
    HISTOGRAM_BUCKETS = 256
};

struct worker_counters { /* names and order in engine/counter.py */
    uint64_t breaths;
    uint64_t idle_breaths; /* nothing moved */
    uint64_t sleeps;       /* for a set time */
    uint64_t waits;        /* armed, for an event */
    uint64_t sleep_ns;     /* spent in either */
    uint64_t handovers;
    uint64_t drop_reconfigure; /* packets of links and apps that were taken away */
    uint64_t longest_gap_ns;   /* between two breaths with work, since the start */
    uint64_t free_small;       /* in the worker's own freelist, at the last tick */
    uint64_t free_large;
    uint64_t busy_ns; /* in breaths with work, to the begin of the next breath */
    uint64_t reserved[5];
};

struct step {
    uint32_t (*run)(struct app *app);
    struct app *app;
};

/* What an app becomes at a hand-over. */
struct binding {
    struct app *app;
    const struct app_ops *ops;
    void *state;
    const void *config;
    struct link **input;
    struct link **output;
    uint32_t ninput;
    uint32_t noutput;
};

/* The order of a breath, immutable once published, and what changes on the way to
 * it. Python owns the arrays and keeps them until the next plan is acknowledged. */
struct plan {
    struct step *pulls; /* the internal ones first */
    struct step *pushes;
    struct app **ticks;
    struct app **arms; /* all apps that can arm */
    struct binding *bindings;
    struct app **retired_apps;
    struct link **retired_links;
    struct link **links; /* all links of this plan */
    struct wake *wakes;  /* narms + 1 entries of scratch */
    uint32_t npulls;
    uint32_t ninternal;
    uint32_t npushes;
    uint32_t nticks;
    uint32_t narms;
    uint32_t nbindings;
    uint32_t nretired_apps;
    uint32_t nretired_links;
    uint32_t nlinks;
    uint32_t can_wait; /* every pulling app can arm */
};

enum { WORKER_BURST = 128 }; /* packets that a pull brings in by default */

/* A worker: the thread that called worker_run(). Written by Python: next, stop,
 * draining, pause, busy, burst. Written by the worker: the rest. */
struct worker {
    uint64_t now;  /* ns, start of this breath */
    uint32_t burst; /* most packets that one pull brings in */
    uint32_t busy;  /* never sleep */
    struct freelist *freelist;
    struct plan *plan;
    struct app *current; /* whose turn it is; NULL between breaths */
    struct worker_counters *counters;
    uint64_t *gaps; /* histogram of ns between breaths */
    int wake_fd;    /* eventfd: ends a sleep */
    uint32_t idle;  /* breaths without work in a row */
    uint64_t idle_since;
    uint64_t next_tick;
    uint64_t clock_tsc; /* anchor of the clock: this counter was this time */
    uint64_t clock_ns;
    uint64_t clock_mult; /* ns per count << 32; 0: not calibrated yet */
    /* Modelled time: each breath takes so many ns, however long it really took, and the
     * worker never sleeps. 0: the clock's time. Set before it starts. */
    uint64_t breath_ns;
    uint64_t reserved0[2];
    struct plan *next; /* published plan, NULL once taken */
    uint64_t taken;    /* plans taken so far */
    uint32_t stop;
    uint32_t draining; /* 1: only what is in the network still moves */
    uint32_t drained;  /* rounds of a draining network in which nothing moved */
    uint32_t running;
    uint32_t pause;  /* stand still between two breaths */
    uint32_t paused; /* it does */
    uint64_t reserved1[3];
};

/* ---- functions for Python ------------------------------------------------ */

/* Lay slots out over memory (pool_memory_needed() bytes), small ones first, and put
 * all on the stacks. A slot never crosses a 2 MiB boundary relative to memory.
 * chunks: zeroed, pool_chunks_needed() of them. iovas: of each 2 MiB page as a
 * device sees it, or NULL where that is the address itself. nworkers: freelists that
 * draw on it. */
void pool_init(struct pool *pool, uint8_t *memory, const uint64_t *iovas,
               uint32_t nsmall, uint32_t nlarge, uint32_t nworkers,
               struct chunk *chunks, uint32_t nchunks);
uint64_t pool_memory_needed(uint32_t nsmall, uint32_t nlarge);
uint32_t pool_chunks_needed(uint32_t nsmall, uint32_t nlarge, uint32_t nworkers);
/* Slot i of a class, whoever has it. */
struct packet *pool_packet(const struct pool *pool, uint32_t slot_class, uint32_t i);
/* Packets on the stacks; exact only while no worker runs. */
uint32_t pool_count(const struct pool *pool, uint32_t slot_class);
/* Give packets of any class back from a thread that owns no freelist. */
void pool_return(struct pool *pool, struct packet **packets, uint32_t npackets);

void freelist_init(struct freelist *freelist, struct pool *pool);
/* Give everything back to the pool. */
void freelist_flush(struct freelist *freelist);

/* Run until worker->stop; blocks all signals of the calling thread, names it and
 * pins it to cpu (-1: anywhere). Returns 0, or -errno when it could not be pinned. */
int worker_run(struct worker *worker, int cpu, const char *name);
/* Publish a plan; the worker takes it at its next breath. */
void worker_publish(struct worker *worker, struct plan *plan);
/* End a sleep of the worker. */
void worker_wake(struct worker *worker);
/* Plans taken so far, with acquire: what earlier plans referred to is free. */
uint64_t worker_taken(const struct worker *worker);
/* Take a published plan back. Returns 1, or 0 when the worker has taken it. */
int worker_retract(struct worker *worker);
void worker_stop(struct worker *worker);
/* Make the worker stand still (1) or go on (0); worker_is_paused() tells when it
 * does, with acquire. */
void worker_pause(struct worker *worker, int pause);
int worker_is_paused(const struct worker *worker);
void worker_drain(struct worker *worker, int draining);
/* Rounds in a row in which a draining network moved nothing. */
uint32_t worker_drained(const struct worker *worker);

/* For Python apps and tests; the C forms are inline in engine.h. */
struct packet *engine_packet_alloc(struct freelist *freelist, uint32_t length);
void engine_packet_free(struct freelist *freelist, struct packet *packet);
struct packet *engine_packet_clone(struct freelist *freelist, const struct packet *packet);
uint32_t engine_link_receive(struct link *link, struct packet **packets, uint32_t npackets);
uint32_t engine_link_transmit(struct link *link, struct packet **packets, uint32_t npackets);
uint32_t engine_link_move(struct link *from, struct link *to, uint32_t npackets);
uint32_t engine_link_discard(struct link *link, uint32_t npackets);
uint32_t engine_app_held(const struct app *app);
uint32_t engine_histogram_bucket(uint64_t value);
uint64_t engine_now(void);
/* Memory that starts on a cache line, for ffi.new_allocator(). */
void *engine_alloc(size_t size);
void engine_free(void *memory);
