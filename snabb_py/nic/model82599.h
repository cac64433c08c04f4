/* The inside of the software 82599, for its own C files:
 *
 *     model82599.c        registers, configuration space, reset, time, the app
 *     model_phy.c         EEPROM, MDIO, SFP module, semaphores
 *     model_dma.c         the host's memory
 *     model_interrupt.c   causes, masks, moderation, messages
 *     model_receive.c     filters, pools, RSS, FIFO, receive descriptors
 *     model_transmit.c    transmit descriptors, offloads, local switch, pacing
 *     model_burst.c       bursts of plain frames, received and sent: the short way
 *
 * Sections are those of the 82599 data sheet (331520). Whoever calls a function that
 * takes a card has its lock, unless it says otherwise.
 */
#ifndef SNABB_PY_NIC_MODEL82599_H
#define SNABB_PY_NIC_MODEL82599_H

#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/event_signal.h"
#include "snabb_py/engine/guard.h"

#include "snabb_py/nic/model82599_abi.h"
#include "snabb_py/nic/registers.h"

#include "snabb_py/nic/model_phy.h"

enum {
    MODEL_NREGISTERS = MODEL_BAR_SIZE / 4,
    MODEL_BURST = 64,            /* frames that take the short way at once */
    MODEL_FILTER_CACHE = 64,     /* entries; destinations that are met again and again */
    MODEL_FIFO_ENTRIES = 8192,   /* 512 KiB of the smallest frames */
    MODEL_SCRATCH = 320 * 1024,  /* PAYLEN has 18 bits; headers and a bit more */
    MODEL_MIN_FRAME = 60,        /* without FCS: what the wire is padded to */
    MODEL_FCS = 4,
    MODEL_GAP = 20,              /* preamble and gap, bytes on the wire beside a frame */
    MODEL_MAC_CONTROL = 0x8808,  /* EtherType */
    /* The wire's time is in bits at 10 Gb/s: an uint64_t lasts for 58 years so, and for
     * 213 days of uptime in picoseconds. */
    MODEL_BITS_PER_NS = 10
};

/* A register of a receive queue: its block moves for queues from 64 on. */
static inline uint32_t rx_register(uint32_t first, uint32_t queue)
{
    return queue < 64 ? first + 0x40 * queue
                      : first - REG_RDBAL + REG_RDBAL_HIGH + 0x40 * (queue - 64);
}

static inline uint32_t tx_register(uint32_t first, uint32_t queue)
{
    return first + 0x40 * queue;
}

struct model_region {
    uint64_t iova;
    uint64_t last; /* the last byte: a region may end at 2^64 */
    uint8_t *address;
    struct guard_mapping mapping; /* none: it is the caller's */
    uint32_t flags;
};

/* Where the last access went: what the next one is tried with. */
struct model_window {
    uint64_t iova;
    uint64_t size; /* 0: nothing */
    uint8_t *address;
};

/* A descriptor in the host's memory. */
struct model_descriptor {
    uint64_t low;
    uint64_t high;
};

/* What the registers of a queue say, read once and again after they were written. */
struct model_rx_queue {
    uint32_t head; /* RDH says so at the end of a step */
    uint32_t n; /* descriptors */
    uint64_t ring;
    uint32_t size; /* bytes of a buffer; 0: of a kind that is not modelled */
    uint32_t slot; /* of the queue statistics */
    bool is_advanced;
    bool strip;
    bool drop;
    bool known;        /* the above is as the registers say */
    bool qde;          /* PFQDE */
    uint32_t bad_tail; /* + 1; counted once */
    uint32_t packets;  /* written in this step, not counted yet */
    uint64_t bytes;
    /* For bursts; looked at anew in each step, and after the long way was taken. */
    uint64_t step;
    uint64_t mapping; /* that ring_memory is of */
    struct model_descriptor *ring_memory; /* NULL: not in one piece */
    uint32_t limit; /* head may go up to here */
};

struct model_tx_context {
    uint64_t low;
    uint64_t high;
};

struct model_tx_queue {
    uint32_t head;
    bool refused;
    uint32_t bad_tail; /* + 1; counted once */
    uint32_t waiting;  /* tail + 1 at which the last frame was not complete */
    uint32_t rate;     /* RTTBCNRC */
    uint32_t weight;   /* RTTDT1C */
    uint64_t next;     /* bits; not before, by its rate limiter */
    struct model_tx_context contexts[2];
    uint64_t mapping; /* that ring_memory is of; 0: look again */
    struct model_descriptor *ring_memory; /* NULL: not in one piece */
};

/* A frame that waits for descriptors. */
struct model_fifo_entry {
    struct packet *packet;
    uint64_t pools; /* that it has still to be written to */
    bool loopback;
};

struct model_filter_entry {
    uint64_t key;
    uint64_t pools;
    uint64_t status; /* PIF, where a descriptor says so */
};

/* Frames by size, as PRC64.. and PTC64.. count them. */
struct model_tally {
    uint64_t packets;
    uint64_t bytes; /* with FCS */
    uint64_t multicast;
    uint64_t broadcast;
    uint64_t by_size[6];
    uint64_t all_packets; /* received, whatever the filters say */
    uint64_t all_bytes;
};

struct model_card {
    /* The lock: tickets, for a thread that waits must get its turn even beside a
     * worker that takes it again at once. */
    uint32_t next_ticket;
    uint32_t now_serving;

    uint64_t now;  /* ns, time of this step; 0: there was none */
    uint64_t last; /* ns, time of the pull before: what is sent now may have begun then */
    uint64_t step; /* from 1 */
    uint64_t born; /* ns; FRTIMER */
    uint64_t counters[MODEL_NCOUNTERS];

    /* DMA */
    struct model_region *regions; /* by iova */
    uint32_t nregions;
    uint32_t region_room;
    uint64_t mapping; /* counts changes of the regions; from 1 */
    struct model_window windows[2]; /* last read, last written */

    /* queues */
    uint64_t rx_enabled[2];
    uint64_t tx_enabled[2];
    uint32_t tx_turn; /* whose turn it is */
    struct model_rx_queue rx[MODEL_NQUEUES];
    struct model_tx_queue tx[MODEL_NQUEUES];
    uint64_t wire_free; /* bits: the last frame is through */
    uint64_t paused_until; /* bits: by a pause frame */
    bool xoff_sent;
    uint64_t xoff_again; /* ns: when the partner's pause would end */

    /* receive */
    uint64_t rx_causes[2]; /* queues that something was written to */
    uint64_t tx_causes[2];
    struct model_filter_entry filter_cache[MODEL_FILTER_CACHE];
    uint32_t fifo_read;
    uint32_t fifo_write;
    uint32_t fifo_bytes;
    bool fifo_flush; /* a reset: the worker empties it */
    struct model_fifo_entry *fifo;
    uint32_t (*rss_table)[256]; /* 36 byte positions of the Toeplitz hash */
    bool rss_stale;
    uint8_t *scratch;

    /* interrupts; bits of vectors as in EIMS_EX, other causes as in EICR */
    uint64_t vector_cause;
    uint64_t vector_pending;
    uint64_t vector_mask;
    uint64_t vector_automask;
    uint32_t other_cause;
    uint32_t other_pending;
    uint32_t other_mask;
    bool intx_masked;
    uint64_t vector_next[MODEL_NVECTORS]; /* ns: moderated until */
    uint64_t tcp_timer; /* ns: expires; 0: not running */
    int interrupt_fd[3][MODEL_NVECTORS];
    struct event_signal signal;

    /* waking the worker */
    int timer_fd;
    uint32_t armed;
    bool touched; /* the host did something since the last pull */
    bool polled; /* tails are written behind our back */

    bool unpaced;
    bool waits;
    bool one_by_one;
    bool plugged;
    bool was_up;
    bool negotiated; /* AUTOC.AN_RESTART since the reset */
    uint8_t mac[6];
    struct model_phy phy;
    uint32_t io_address;
    uint8_t config[MODEL_CONFIG_SIZE];
    uint8_t config_mask[MODEL_CONFIG_SIZE];
    uint8_t config_reset[MODEL_CONFIG_SIZE];
    uint8_t msix[MODEL_MSIX_SIZE];
    uint8_t access[MODEL_NREGISTERS];
    uint32_t alias[MODEL_NREGISTERS];
    uint32_t reset[MODEL_NREGISTERS];
    uint32_t mask[MODEL_NREGISTERS];
    uint32_t registers[MODEL_NREGISTERS];
};

static inline uint32_t *reg(struct model_card *card, uint32_t offset)
{
    return &card->registers[offset / 4];
}

static inline uint32_t get(const struct model_card *card, uint32_t offset)
{
    return card->registers[offset / 4];
}

/* A tail, which another thread may be writing. */
static inline uint32_t get_tail(const struct model_card *card, uint32_t offset)
{
    return __atomic_load_n(&card->registers[offset / 4], __ATOMIC_ACQUIRE);
}

static inline void count(struct model_card *card, uint32_t counter)
{
    card->counters[counter]++;
}

/* Statistics stick at their largest value (8.2.3.23). */
static inline void stat_add(struct model_card *card, uint32_t offset, uint64_t n)
{
    uint64_t sum = get(card, offset) + n;
    *reg(card, offset) = sum > UINT32_MAX ? UINT32_MAX : (uint32_t)sum;
}

/* A pair of low and high register; the high one has 4 bits. */
static inline void stat_add_pair(struct model_card *card, uint32_t low, uint64_t n)
{
    const uint64_t most = (1ull << 36) - 1;
    uint64_t sum = ((uint64_t)get(card, low + 4) << 32 | get(card, low)) + n;
    sum = sum > most ? most : sum;
    *reg(card, low) = (uint32_t)sum;
    *reg(card, low + 4) = (uint32_t)(sum >> 32);
}

static inline bool is_broadcast(const uint8_t *address)
{
    static const uint8_t all[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return memcmp(address, all, 6) == 0;
}

/* Note a good frame of `length` bytes without FCS. */
static inline void tally_frame(struct model_tally *tally, const uint8_t *frame, uint32_t length)
{
    uint32_t bytes = length + MODEL_FCS;
    tally->packets++;
    tally->bytes += bytes;
    tally->by_size[(bytes > 64) + (bytes > 127) + (bytes > 255) + (bytes > 511) +
                   (bytes > 1023)]++;
    if (unlikely(frame[0] & 1))
        *(is_broadcast(frame) ? &tally->broadcast : &tally->multicast) += 1;
}

/* A tail or head beyond a ring of n descriptors stops it, and is counted once for each
 * tail; *bad_tail: the last one, + 1. */
static inline bool ring_is_sound(struct model_card *card, uint32_t head, uint32_t tail,
                                 uint32_t n, uint32_t *bad_tail)
{
    if (likely(tail < n && head < n))
        return true;
    if (*bad_tail != tail + 1)
        count(card, MODEL_BAD_RING);
    *bad_tail = tail + 1;
    return false;
}

/* How long a frame without FCS keeps the wire busy. */
static inline uint64_t model_wire_bits(uint32_t length)
{
    return (uint64_t)(length + MODEL_FCS + MODEL_GAP) * 8;
}

/* The wire's minimum is 64 bytes with the FCS: a shorter frame is filled up. */
static inline void fill_up(struct packet *packet)
{
    if (unlikely(packet->length < MODEL_MIN_FRAME)) {
        memset(packet->data + packet->length, 0, MODEL_MIN_FRAME - packet->length);
        packet->length = MODEL_MIN_FRAME;
    }
}

/* CRC-32 of a reflected polynomial, bit by bit: for what hardly anybody asks. */
static inline uint32_t crc32_of(const uint8_t *data, uint32_t n, uint32_t polynomial)
{
    uint32_t crc = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) {
        crc ^= data[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
    }
    return ~crc;
}

static inline bool has_bit(const uint64_t *bits, uint32_t n)
{
    return bits[n / 64] >> n % 64 & 1;
}

static inline void set_bit(uint64_t *bits, uint32_t n, bool value)
{
    uint64_t bit = 1ull << n % 64;
    bits[n / 64] = value ? bits[n / 64] | bit : bits[n / 64] & ~bit;
}

/* ---- model82599.c -------------------------------------------------------- */

enum {
    CTRL_GIO_DIS = 1 << 2,
    CONFIG_COMMAND = 0x04,
    COMMAND_MASTER = 1 << 2,
    COMMAND_NO_INTX = 1 << 10
};

/* The device may read and write the host's memory: bus mastering is on in its
 * configuration space and the driver has not asked for quiet (CTRL.GIO_DIS). */
static inline bool model_is_master(const struct model_card *card)
{
    return card->config[CONFIG_COMMAND] & COMMAND_MASTER &&
           !(get(card, REG_CTRL) & CTRL_GIO_DIS);
}

static inline bool model_has_intx(const struct model_card *card)
{
    return !(card->config[CONFIG_COMMAND + 1] & COMMAND_NO_INTX >> 8);
}

bool model_link_is_up(const struct model_card *card);
/* ns; a host that runs in real time may ask while the worker sleeps. */
uint64_t model_now(const struct model_card *card);

/* ---- model_dma.c --------------------------------------------------------- */

uint8_t *dma_find(struct model_card *card, uint64_t iova, uint32_t flags, uint64_t *room);

/* The host's memory at an address, and in *room how many bytes follow it in one piece;
 * NULL: not mapped so, and counted. */
static inline uint8_t *dma_at(struct model_card *card, uint64_t iova, uint32_t flags,
                              uint64_t *room)
{
    const struct model_window *window = &card->windows[flags == MODEL_DMA_WRITE];
    uint64_t offset = iova - window->iova;
    if (likely(offset < window->size)) {
        *room = window->size - offset;
        return window->address + offset;
    }
    return dma_find(card, iova, flags, room);
}

/* The same for all of n bytes, n >= 1, which may be accessed in each of these ways; NULL:
 * they do not lie in one piece, or not so. Nothing is counted. */
uint8_t *dma_piece(struct model_card *card, uint64_t iova, uint64_t n, uint32_t flags);

/* The same one way, with a window that the caller keeps at hand. */
static inline uint8_t *dma_through(struct model_card *card, struct model_window *window,
                                   uint64_t iova, uint32_t n, uint32_t flags)
{
    uint64_t offset = iova - window->iova;
    if (likely(offset < window->size && window->size - offset >= n))
        return window->address + offset;
    uint8_t *at = dma_piece(card, iova, n, flags);
    *window = card->windows[flags == MODEL_DMA_WRITE];
    return at;
}

bool dma_read_slow(struct model_card *card, void *to, uint64_t iova, uint32_t n);
bool dma_write_slow(struct model_card *card, uint64_t iova, const void *from, uint32_t n);

/* Copy n bytes. False: a part is not mapped so; what is, was copied. */
static inline bool dma_read(struct model_card *card, void *to, uint64_t iova, uint32_t n)
{
    uint64_t room;
    const uint8_t *from = dma_at(card, iova, MODEL_DMA_READ, &room);
    if (likely(from && room >= n)) {
        memcpy(to, from, n);
        return true;
    }
    return from ? dma_read_slow(card, to, iova, n) : false;
}

static inline bool dma_write(struct model_card *card, uint64_t iova, const void *from,
                             uint32_t n)
{
    uint64_t room;
    uint8_t *to = dma_at(card, iova, MODEL_DMA_WRITE, &room);
    if (likely(to && room >= n)) {
        memcpy(to, from, n);
        return true;
    }
    return to ? dma_write_slow(card, iova, from, n) : false;
}

/* ---- model_interrupt.c --------------------------------------------------- */

/* A queue's event. */
void interrupt_queue(struct model_card *card, uint32_t queue, bool is_tx);
/* Other causes, as bits of EICR. */
void interrupt_other(struct model_card *card, uint32_t causes);
/* False: the register is none of theirs. Reading may have effects. */
bool interrupt_read(struct model_card *card, uint32_t offset, uint32_t *value);
bool interrupt_write(struct model_card *card, uint32_t offset, uint32_t value);
void interrupt_reset(struct model_card *card);
/* Send what may be sent now. */
void interrupt_step(struct model_card *card);
/* When moderation lets the next one go, ns; UINT64_MAX: none waits. */
uint64_t interrupt_next(const struct model_card *card);

/* ---- model_receive.c ----------------------------------------------------- */

/* A plain frame ends in the queue of its facts, as it is, if filters let it pass. */
bool receive_is_plain(const struct model_card *card);
/* Bytes of the longest frame without a tag, without FCS. */
uint32_t receive_longest(const struct model_card *card);
void receive_ask_filters(struct model_card *card, struct model_filter_entry *entry,
                         uint64_t key, const uint8_t *frame, int32_t vlan);

/* What the filters say of a frame to this address with this tag (-1: none). A cache in
 * front: the same few destinations come again and again, and 128 filters are a long
 * way. */
static inline const struct model_filter_entry *receive_filter(struct model_card *card,
                                                              const uint8_t *frame,
                                                              int32_t vlan)
{
    uint64_t address; /* 6 bytes of it; the frame has 14 at least */
    memcpy(&address, frame, sizeof(address));
    /* the tag without its priority, which no filter looks at */
    uint64_t tag = vlan < 0 ? 0 : ((uint64_t)vlan & 0x1fff) | 0x2000;
    uint64_t key = (address & 0xffffffffffff) | tag << 48 | 1ull << 63;
    struct model_filter_entry *entry =
        &card->filter_cache[key * 0x9e3779b97f4a7c15ull >> 58];
    if (unlikely(entry->key != key))
        receive_ask_filters(card, entry, key, frame, vlan);
    return entry;
}

/* Read what the registers say of a queue. */
void receive_learn(const struct model_card *card, uint32_t queue,
                   struct model_rx_queue *rx);
/* Descriptors that the card may use; 0 as well when the ring is none. */
uint32_t receive_available(struct model_card *card, uint32_t queue,
                           struct model_rx_queue *rx);
/* A frame has come from the wire; the packet is the model's then. */
void receive_frame(struct model_card *card, struct freelist *freelist,
                   struct packet *packet, struct model_tally *received);
/* A frame of one of this card's pools is for others of them. */
void receive_switched(struct model_card *card, struct freelist *freelist,
                      struct packet *packet, uint64_t pools);

enum { /* PFMRCTL: what a mirror rule watches */
    MIRROR_POOL = 1 << 0,
    MIRROR_UPLINK_IN = 1 << 1,
    MIRROR_UPLINK_OUT = 1 << 2,
    MIRROR_VLAN = 1 << 3
};

/* Pools that get a copy of what goes to these pools, and where `way` says the wire is
 * crossed (7.10.3.6). */
uint64_t receive_mirrors(const struct model_card *card, uint64_t pools, int32_t vlan,
                         uint32_t way);
/* Write waiting frames to queues that have descriptors again. Returns how many went. */
uint32_t receive_waiting(struct model_card *card, struct freelist *freelist);
void receive_count(struct model_card *card, const struct model_tally *tally);
/* Say how far the queues in rx_causes have come, and count what was written to them. */
void receive_settle(struct model_card *card);
void receive_flush(struct model_card *card, struct freelist *freelist);
/* The pools that a frame to this address and with this tag (-1: none) goes to; without
 * virtualisation bit 0 says whether it is accepted. */
uint64_t receive_pools(struct model_card *card, const uint8_t *frame, int32_t vlan);
/* Whether a pool owns the address: an exact filter says so. */
bool receive_owns(const struct model_card *card, const uint8_t *address, uint32_t pool);
uint64_t receive_owners(const struct model_card *card, const uint8_t *address);
/* Pools that are members of a VLAN. */
uint64_t receive_vlan_pools(const struct model_card *card, uint32_t vlan);
/* The tag of a frame in host order, -1: it has none. */
int32_t receive_tag(const struct model_card *card, const uint8_t *frame, uint32_t length);
void receive_filters_changed(struct model_card *card);
/* Send XOFF or XON when the FIFO's level asks for it. Returns frames sent. */
uint32_t receive_flow_control(struct model_card *card, struct freelist *freelist,
                              struct link *out, struct model_tally *tally);

static inline uint32_t fifo_waiting(const struct model_card *card)
{
    return card->fifo_write - card->fifo_read;
}

/* ---- model_transmit.c ---------------------------------------------------- */

enum { /* of a transmit descriptor's second word (7.2.3.2) */
    TX_EOP = 1 << 24,
    TX_IC = 1 << 26, /* legacy */
    TX_RS = 1 << 27,
    TX_DEXT = 1 << 29,
    TX_VLE = 1 << 30,
    TX_TSE = 1u << 31,
    TX_CONTEXT = 2, /* DTYP */
    TX_DATA = 3,
    TX_DD = 1
};

/* The descriptor is all of a frame to which nothing is to be done. */
static inline bool tx_is_plain(uint64_t high)
{
    const uint64_t checksums = 3ull << 40, type = 0xf << 20;
    return (high & (TX_EOP | TX_DEXT | TX_VLE | TX_TSE | checksums | type)) ==
           (TX_EOP | TX_DEXT | TX_DATA << 20);
}

/* Send what the queues hold and the wire takes. Returns how many descriptors. */
uint32_t transmit_step(struct model_card *card, struct freelist *freelist,
                       struct link *out, struct model_tally *sent);
void transmit_count(struct model_card *card, const struct model_tally *tally);
/* When there is something to send, ns: now, later, or UINT64_MAX. */
uint64_t transmit_next(const struct model_card *card);
/* A plain frame of this queue leaves on the wire as it is. */
bool transmit_is_plain(const struct model_card *card, uint32_t queue,
                       const struct link *out);
/* Count frames of a queue. */
void transmit_settle(struct model_card *card, uint32_t queue, uint32_t packets,
                     uint64_t bytes);
/* Bytes that frames are filled up to. */
uint32_t transmit_least(const struct model_card *card);
uint64_t transmit_ring(const struct model_card *card, uint32_t queue);
/* A descriptor is done with. */
void transmit_complete(struct model_card *card, uint32_t queue, uint64_t address,
                       uint64_t high, uint32_t next);

/* ---- model_burst.c ------------------------------------------------------- */

/* Receive the first of n frames, as far as they are plain and find descriptors; they
 * are the model's then. Returns how many; the next one must take the long way. */
uint32_t burst_receive(struct model_card *card, struct freelist *freelist,
                       struct packet **packets, uint32_t n, struct model_tally *received);
/* Send plain frames of a queue whose ring of n descriptors is sound, `most` at most and
 * as many as the wire takes now. Returns how many. */
uint32_t burst_transmit(struct model_card *card, struct link *out, uint32_t queue,
                        uint32_t n, uint32_t tail, uint32_t most,
                        struct model_tally *sent);

#endif
