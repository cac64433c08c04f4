/* vhost-user network ports, the app: who has which ring; see net_device_abi.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "snabb_py/virtio/net_device.h"

#include "snabb_py/engine/wire.h"

enum { /* feature bits, virtio 1.2, 5.1.3 and 6 */
    GUEST_CSUM = 1,
    GUEST_TSO4 = 7,
    GUEST_TSO6 = 8,
    GUEST_ECN = 9,
    MRG_RXBUF = 15,
    VERSION_1 = 32
};

enum {
    GATHER = 64,          /* buffers that make a good burst */
    GATHER_MAX_NS = 4000, /* they are waited for so long */
    GATHER_HOLDOFF = 1024 /* bursts until it is tried again, once it was in vain */
};

static void notify(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof(one));
    (void)ignored;
}

/* ---- hand-over ----------------------------------------------------------- */

static uint32_t find_accepts(uint64_t features)
{
    uint32_t accepts = 0;
    /* Segments without checksums do not exist (virtio 1.2, 5.1.3.1). */
    if (!(features >> GUEST_CSUM & 1))
        return 0;
    accepts = ACCEPTS_CSUM;
    accepts |= features >> GUEST_TSO4 & 1 ? ACCEPTS_TSO4 : 0;
    accepts |= features >> GUEST_TSO6 & 1 ? ACCEPTS_TSO6 : 0;
    accepts |= features >> GUEST_ECN & 1 ? ACCEPTS_ECN : 0;
    return accepts;
}

static void take(struct vhost_pair *pair)
{
    struct vhost_setup *setup = __atomic_exchange_n(&pair->next, NULL, __ATOMIC_ACQUIRE);
    if (!setup)
        return;
    virtq_apply(&pair->rx, &setup->rx, setup->memory, setup->features);
    virtq_apply(&pair->tx, &setup->tx, setup->memory, setup->features);
    pair->is_merging = setup->features >> MRG_RXBUF & 1;
    bool is_modern = setup->features >> VERSION_1 & 1;
    pair->header_size = is_modern || pair->is_merging ? VIRTIO_NET_HEADER_SIZE
                                                      : VIRTIO_NET_HEADER_LEGACY;
    pair->accepts = find_accepts(setup->features);
    pair->gathering_since = 0;
    pair->holdoff = GATHER_HOLDOFF;
    /* Release: whoever sees this may free what the one before referred to. */
    __atomic_store_n(&pair->taken, setup, __ATOMIC_RELEASE);
    notify(pair->event_fd);
}

static bool acquire(struct vhost_pair *pair, uint32_t owner)
{
    uint32_t nobody = VHOST_NOBODY;
    return __atomic_compare_exchange_n(&pair->owner, &nobody, owner, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

void vhost_settle(struct vhost_pair *pair)
{
    if (!acquire(pair, VHOST_PORT))
        return; /* its worker takes it, or says that it has left */
    take(pair);
    __atomic_store_n(&pair->owner, VHOST_NOBODY, __ATOMIC_SEQ_CST);
}

void vhost_publish(struct vhost_pair *pair, struct vhost_setup *setup)
{
    __atomic_store_n(&pair->next, setup, __ATOMIC_SEQ_CST);
    notify(pair->poke_fd);
    vhost_settle(pair);
}

struct vhost_setup *vhost_taken(const struct vhost_pair *pair)
{
    return __atomic_load_n(&pair->taken, __ATOMIC_ACQUIRE);
}

/* Interrupts for what was used since the last breath began. */
static inline void signal_guest(struct vhost_pair *pair)
{
    virtq_signal(&pair->rx);
    virtq_signal(&pair->tx);
}

void vhost_leave(struct vhost_pair *pair)
{
    if (__atomic_load_n(&pair->owner, __ATOMIC_ACQUIRE) == VHOST_WORKER)
        signal_guest(pair);
    __atomic_store_n(&pair->owner, VHOST_NOBODY, __ATOMIC_SEQ_CST);
    /* What was published to us meanwhile is the port's to take. */
    notify(pair->event_fd);
}

/* The worker's at the beginning of its turn. False: the port is changing the pair, for
 * it has only just become ours. */
static inline bool enter(struct vhost_pair *pair)
{
    if (unlikely(__atomic_load_n(&pair->owner, __ATOMIC_RELAXED) != VHOST_WORKER) &&
        !acquire(pair, VHOST_WORKER))
        return false;
    if (unlikely(__atomic_load_n(&pair->next, __ATOMIC_RELAXED)))
        take(pair);
    return true;
}

void vhost_note_broken(struct vhost_pair *pair, struct virtq *q)
{
    vhost_count(pair, VHOST_BROKEN_AVAIL_RINGS + q->broken - 1, 1);
    virtq_signal(q);
    q->size = 0;
    if (q->err_fd >= 0)
        event_signal_send(q->signal, q->err_fd);
    notify(pair->event_fd);
}

/* ---- to the guest -------------------------------------------------------- */

static bool is_up(const struct virtq *q)
{
    return q->size && q->enabled == VIRTQ_ENABLED;
}

/* Packets of a flow stay together; the two directions of one as well. */
static uint32_t flow_hash(const struct packet *packet)
{
    struct wire_ip ip;
    /* Not packet->hash: who sets it is not known here. */
    if (!wire_parse_ip(packet->data, packet->length, &ip))
        return 0;
    uint32_t size = ip.version == 4 ? 4 : 16, sum = ip.protocol;
    for (uint32_t i = 0; i < size; i += 4)
        sum += load_be32(packet->data + ip.source + i) +
               load_be32(packet->data + ip.destination + i);
    if ((ip.protocol == WIRE_TCP || ip.protocol == WIRE_UDP) && !ip.is_fragment &&
        wire_has(packet->length, ip.payload, 4))
        sum += (uint32_t)load_be16(packet->data + ip.payload) +
               load_be16(packet->data + ip.payload + 2);
    return sum * 0x9e3779b1u; /* golden ratio, Knuth: the upper bits are good */
}

static uint32_t push_one(struct app *app, struct vhost_pair *pair)
{
    struct link *in = app->input[0];
    struct packet *packets[LINK_CAPACITY];
    uint32_t n = link_readable(in);
    uint64_t bytes = 0;
    link_peek(in, packets, n);
    n = vhost_to_guest(pair, app->worker->freelist, packets, n, &bytes);
    link_consume(in, n, bytes);
    return n;
}

/* Several queues: each gets its flows. One that is full drops what is its own. */
static uint32_t push_many(struct app *app, struct vhost_pair **pairs, uint32_t npairs)
{
    struct link *in = app->input[0];
    struct packet *packets[LINK_CAPACITY], *sorted[LINK_CAPACITY];
    uint8_t which[LINK_CAPACITY];
    uint32_t ends[VHOST_PAIRS_MAX] = {0}, starts[VHOST_PAIRS_MAX];
    uint32_t n = link_receive_burst(in, packets, LINK_CAPACITY);
    for (uint32_t i = 0; i < n; i++) {
        which[i] = (uint8_t)(((uint64_t)flow_hash(packets[i]) * npairs) >> 32);
        ends[which[i]]++;
    }
    for (uint32_t k = 0, sum = 0; k < npairs; k++) {
        starts[k] = sum;
        sum += ends[k];
        ends[k] = starts[k];
    }
    for (uint32_t i = 0; i < n; i++)
        sorted[ends[which[i]]++] = packets[i];
    for (uint32_t k = 0; k < npairs; k++) {
        uint32_t all = ends[k] - starts[k];
        uint64_t bytes = 0;
        uint32_t done = vhost_to_guest(pairs[k], app->worker->freelist,
                                       sorted + starts[k], all, &bytes);
        packet_free_burst(app->worker->freelist, sorted + starts[k] + done, all - done);
        vhost_count(pairs[k], VHOST_DROP_RX_RING_FULL, all - done);
    }
    return n;
}

static uint32_t vhost_push(struct app *app)
{
    struct vhost_net *net = app->state;
    struct link *in = app->input[0];
    struct vhost_pair *up[VHOST_PAIRS_MAX];
    uint32_t nup = 0;
    if (!in)
        return 0;
    for (uint32_t i = 0; i < net->npairs; i++)
        if (enter(net->pairs[i]) && is_up(&net->pairs[i]->rx))
            up[nup++] = net->pairs[i];
    if (link_readable(in) == 0)
        return 0;
    if (likely(nup == 1))
        return push_one(app, up[0]);
    if (nup > 1)
        return push_many(app, up, nup);
    uint32_t n = link_discard(in, LINK_CAPACITY);
    vhost_count(net->pairs[0], VHOST_DROP_RX_DOWN, n);
    return n;
}

/* ---- from the guest ------------------------------------------------------ */

/* Leave a few buffers for more to come? A guest that sends all the time is faster when it
 * is disturbed less often: its lines and ours change hands once a burst (bench vhost tx:
 * 27 -> 38 Mpps). One that waits for what it has sent is not to wait for us: after a
 * trial in vain there is none for long. */
static bool is_gathering(struct vhost_pair *pair, uint32_t n, uint64_t now)
{
    if (n == 0 || n >= min_u32(GATHER, pair->tx.size / 4)) {
        pair->gathering_since = 0;
        return false;
    }
    if (pair->holdoff) {
        pair->holdoff--;
        return false;
    }
    if (pair->gathering_since == 0)
        pair->gathering_since = now;
    if (now - pair->gathering_since < GATHER_MAX_NS)
        return true;
    pair->gathering_since = 0;
    pair->holdoff = GATHER_HOLDOFF;
    return false;
}

static uint32_t vhost_pull(struct app *app)
{
    struct vhost_net *net = app->state;
    struct link *out = app->output[0];
    uint32_t moved = 0;
    for (uint32_t i = 0; i < net->npairs; i++) {
        struct vhost_pair *pair = net->pairs[i];
        if (!enter(pair))
            continue;
        signal_guest(pair);
        if (!out || pair->tx.size == 0 || pair->tx.enabled == VIRTQ_WAITS)
            continue;
        uint32_t most = min_u32(app->worker->burst, link_writable(out));
        uint32_t ready = virtq_ready(&pair->tx, most);
        if (unlikely(most >= GATHER && is_gathering(pair, ready, app->worker->now)))
            continue;
        moved += vhost_from_guest(pair, app->worker->freelist, out, ready);
    }
    return moved;
}

/* ---- the rest ------------------------------------------------------------ */

static void vhost_tick(struct app *app)
{
    const struct vhost_net *net = app->state;
    for (uint32_t i = 0; i < net->npairs; i++) {
        struct vhost_pair *pair = net->pairs[i];
        /* A network that is drained does not pull. */
        if (enter(pair))
            signal_guest(pair);
        pair->counters[VHOST_INTERRUPTS] = pair->rx.ncalls + pair->tx.ncalls;
        pair->stuck_ticks += pair->is_stuck;
    }
    for (uint32_t k = 0; k < VHOST_NCOUNTERS; k++) {
        uint64_t sum = 0;
        for (uint32_t i = 0; i < net->npairs; i++)
            sum += net->pairs[i]->counters[k];
        app->counters[k] = sum;
    }
}

/* Let a pair's guest wake us. False: there is work already. */
static bool arm_pair(struct app *app, struct vhost_pair *pair)
{
    struct epoll_event events[3];
    if (!enter(pair))
        return false;
    signal_guest(pair);
    /* Edge-triggered: what has happened until now is forgotten, and looked at now. */
    epoll_wait(pair->epoll_fd, events, 3, 0);
    if (__atomic_load_n(&pair->next, __ATOMIC_SEQ_CST))
        return false;
    bool is_free = app->output[0] && link_writable(app->output[0]);
    if (is_free && pair->tx.size && pair->tx.enabled != VIRTQ_WAITS &&
        !virtq_arm(&pair->tx))
        return false;
    /* Kicks for room matter only where something waits for it. */
    bool has_waiting = app->input[0] && link_readable(app->input[0]);
    return !has_waiting || !is_up(&pair->rx) || virtq_arm(&pair->rx);
}

static int vhost_arm(struct app *app, struct wake *wake)
{
    const struct vhost_net *net = app->state;
    for (uint32_t i = 0; i < net->npairs; i++)
        if (!arm_pair(app, net->pairs[i]))
            return ARM_BUSY;
    *wake = (struct wake){.fd = net->epoll_fd, .events = POLLIN};
    return ARM_READY;
}

static uint32_t vhost_retire(struct app *app)
{
    const struct vhost_net *net = app->state;
    for (uint32_t i = 0; i < net->npairs; i++)
        if (__atomic_load_n(&net->pairs[i]->owner, __ATOMIC_RELAXED) == VHOST_WORKER)
            vhost_leave(net->pairs[i]);
    return 0; /* it holds no packets between its turns */
}

const struct app_ops vhost_net_ops = {
    .pull = vhost_pull,
    .push = vhost_push,
    .tick = vhost_tick,
    .retire = vhost_retire,
    .arm = vhost_arm,
};
