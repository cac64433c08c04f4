/* Packets from and to a queue of an interface, through an XDP socket.
 *
 * Sources: Documentation/networking/af_xdp.rst; linux/if_xdp.h. Four rings are shared
 * with the kernel. We give it packets to fill (fill), it gives them back with frames
 * (receive); we give it packets to send (transmit), it gives them back when it is done
 * (completion). All lie in the engine's own memory, which is registered as it is, in
 * unaligned chunks: a slot's data are a chunk. The kernel leaves 256 bytes in front of a
 * frame, as many as a fresh packet has of headroom. Copies from and to memory of the
 * rings' own would make our part of a packet's time over veth 77 ns instead of 45 with
 * frames of 60 bytes, and 259 instead of 69 with 1514.
 *
 * XDP tells nothing of offloads. Of frames that a stack of this machine has sent over a
 * veth the checksum may be unfinished, and is found out; see packet_find_unfinished().
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "snabb_py/apps/xdp.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

enum {
    AHEAD = 4,        /* packets whose memory is prefetched */
    REFILL = 64,      /* packets that are missing before more are given */
    KICK_FRAMES = 32, /* that one call sends, in copy mode */
    STATISTICS_NS = 10000000
};

static inline void count(struct app *app, uint32_t counter, uint64_t n)
{
    app->counters[counter] += n;
}

/* Whether there are no rings: they were left, now if they are to be. What is on them to
 * be sent never will be. */
static bool is_away(struct app *app)
{
    struct xdp_socket *socket = app->state;
    if (unlikely(xdp_has_left(socket)))
        return true;
    if (likely(!__atomic_load_n(&socket->leave, __ATOMIC_ACQUIRE)))
        return false;
    count(app, XDP_DROP_TX_INTERFACE_DOWN, xdp_unsent(socket));
    /* Release: from here on we touch no ring. */
    __atomic_store_n(&socket->left, 1, __ATOMIC_RELEASE);
    return true;
}

/* ---- receive ------------------------------------------------------------- */

/* Give the kernel packets for frames to come, as many as are missing. */
static void refill(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct xdp_ring *ring = &socket->fill;
    struct freelist *freelist = app->worker->freelist;
    uint32_t wanted = XDP_RING_SIZE - socket->nreceiving;
    if (wanted < REFILL)
        return;
    wanted = min_u32(wanted, POOL_CHUNK);
    uint32_t n = freelist_reserve(freelist, PACKET_SMALL, wanted);
    socket->is_dry |= n < wanted;
    struct packet **packets = freelist_take(freelist, PACKET_SMALL, n);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t address = xdp_address(socket, packets[i]);
        xdp_give(socket, address);
        xdp_addresses(ring)[ring->cursor++ & XDP_RING_MASK] = address;
    }
    socket->nreceiving += n;
    xdp_produce(ring);
    if (n && xdp_needs_wakeup(ring))
        recvfrom(socket->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

/* A frame of the receive ring as a packet, or NULL and the reason counted. */
static inline struct packet *receive(struct app *app, const struct xdp_desc *descriptor)
{
    struct xdp_socket *socket = app->state;
    uint64_t address = descriptor->addr;
    uint32_t offset = (uint32_t)(address >> XSK_UNALIGNED_BUF_OFFSET_SHIFT);
    uint32_t length = descriptor->len;
    struct packet *packet = xdp_take_back(socket, address);
    if (unlikely(!packet)) {
        count(app, XDP_DROP_RX_BAD_DESCRIPTOR, 1);
        return NULL;
    }
    socket->nreceiving--;
    if (unlikely(offset > XDP_CHUNK_SIZE || length > XDP_CHUNK_SIZE - offset ||
                 length < WIRE_ETHERNET_SIZE ||
                 descriptor->options & XDP_PKT_CONTD)) {
        count(app, XDP_DROP_RX_BAD_DESCRIPTOR, 1);
        packet_free(app->worker->freelist, packet);
        return NULL;
    }
    /* The frame lies within the slot from here on. */
    packet_fresh(packet, PACKET_SMALL, length);
    packet->data = (uint8_t *)packet + XDP_CHUNK_OFFSET + offset;
    return packet;
}

static void find_unfinished(struct app *app, struct packet **packets, uint32_t n)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++)
        found += packet_find_unfinished(packets[i]);
    count(app, XDP_RX_UNFINISHED_CHECKSUMS, found);
}

/* What the kernel counted since it was asked last. */
static void read_statistics(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct xdp_statistics now;
    uint64_t *before = socket->statistics, news[6];
    socklen_t size = sizeof(now);
    _Static_assert(sizeof(now) == sizeof(news), "counters of 64 bits");
    socket->next_statistics = app->worker->now + STATISTICS_NS;
    if (getsockopt(socket->fd, SOL_XDP, XDP_STATISTICS, &now, &size) ||
        size != sizeof(now))
        return;
    const uint64_t values[6] = {now.rx_dropped,   now.rx_invalid_descs,
                                now.tx_invalid_descs, now.rx_ring_full,
                                now.rx_fill_ring_empty_descs, 0};
    for (uint32_t i = 0; i < 6; i++) {
        news[i] = values[i] - before[i];
        before[i] = values[i];
    }
    /* Without copies that is an attempt of the driver's, and no frame is lost yet. */
    uint64_t unfilled = socket->is_zero_copy ? 0 : news[4];
    count(app, XDP_RX_FILL_RING_EMPTY, news[4]);
    count(app, socket->is_dry ? XDP_DROP_RX_NO_PACKET : XDP_DROP_RX_KERNEL_RING_FULL,
          unfilled);
    count(app, XDP_DROP_RX_TOO_LONG, news[0] > unfilled ? news[0] - unfilled : 0);
    count(app, XDP_DROP_RX_BAD_DESCRIPTOR, news[1]);
    count(app, XDP_DROP_TX_ERROR, news[2]);
    count(app, XDP_DROP_RX_KERNEL_RING_FULL, news[3]);
    socket->is_dry = 0;
}

/* Without an output frames are taken off all the same: a later output must not begin
 * with old ones. */
static uint32_t xdp_pull(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    if (is_away(app))
        return 0;
    struct xdp_ring *ring = &socket->receive;
    uint32_t most = out ? min_u32(app->worker->burst, link_writable(out)) : POOL_CHUNK;
    uint32_t taken = min_u32(xdp_readable(ring), most), n = 0;
    uint64_t bytes = 0;
    const struct xdp_desc *slots = xdp_descriptors(ring);
    for (uint32_t i = 0; i < taken; i++) {
        const struct xdp_desc *ahead = &slots[(ring->cursor + AHEAD) & XDP_RING_MASK];
        __builtin_prefetch(
            socket->umem + (ahead->addr & XDP_ADDRESS_MASK) - XDP_CHUNK_OFFSET, 1);
        struct packet *packet = receive(app, &slots[ring->cursor++ & XDP_RING_MASK]);
        if (unlikely(!packet))
            continue;
        bytes += packet->length;
        burst[n++] = packet;
    }
    if (taken)
        xdp_consume(ring);
    refill(app);
    if (app->worker->now >= socket->next_statistics)
        read_statistics(app);
    if (!out) {
        packet_free_burst(app->worker->freelist, burst, n);
        return taken;
    }
    if (socket->is_checked)
        find_unfinished(app, burst, n);
    if (n)
        link_transmit_known(out, burst, n, bytes);
    count(app, XDP_RX_PACKETS, n);
    count(app, XDP_RX_BYTES, bytes);
    return taken;
}

/* ---- transmit ------------------------------------------------------------ */

/* Free what the kernel has sent. */
static void reap(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct xdp_ring *ring = &socket->completion;
    struct packet *burst[POOL_CHUNK];
    for (uint32_t left = xdp_readable(ring), n; left > 0; left -= n) {
        uint32_t npackets = 0;
        n = min_u32(left, POOL_CHUNK);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t address = xdp_addresses(ring)[ring->cursor++ & XDP_RING_MASK];
            struct packet *packet = xdp_take_back(socket, address);
            if (likely(packet))
                burst[npackets++] = packet;
        }
        packet_free_burst(app->worker->freelist, burst, npackets);
        socket->nsending -= npackets;
        xdp_consume(ring);
    }
}

static inline uint32_t room(const struct xdp_socket *socket)
{
    return XDP_RING_SIZE - socket->nsending;
}

/* Put a packet on the ring, which has room for it. */
static inline void put(struct app *app, const struct packet *packet)
{
    struct xdp_socket *socket = app->state;
    struct xdp_ring *ring = &socket->transmit;
    uint64_t address = xdp_address(socket, packet);
    uint64_t offset = packet_headroom(packet);
    xdp_descriptors(ring)[ring->cursor++ & XDP_RING_MASK] = (struct xdp_desc){
        .addr = address | offset << XSK_UNALIGNED_BUF_OFFSET_SHIFT,
        .len = packet->length,
    };
    xdp_give(socket, address);
    socket->nsending++;
    app->counters[XDP_TX_PACKETS]++;
    app->counters[XDP_TX_BYTES] += packet->length;
}

static bool drop(struct app *app, struct packet *packet, uint32_t counter)
{
    count(app, counter, 1);
    packet_free(app->worker->freelist, packet);
    return true;
}

/* Send the segments of a super-frame. False: there is no room for all of them yet. */
static bool send_super(struct app *app, struct packet *packet, uint32_t longest)
{
    struct packet *burst[SEGMENTS_MAX];
    struct segments segments;
    if (!packet_count_segments(packet, &segments) || segments.n > SEGMENTS_MAX)
        return drop(app, packet, XDP_DROP_TX_BAD_OFFLOAD);
    if ((segments.n > 1 ? segments.length : segments.last) > longest)
        return drop(app, packet, XDP_DROP_TX_TOO_LONG);
    if (segments.n > room(app->state))
        return false;
    int n = packet_segment(app->worker->freelist, packet, burst, SEGMENTS_MAX);
    if (n < 0)
        return drop(app, packet,
                    n == -ENOMEM ? XDP_DROP_TX_NO_PACKET : XDP_DROP_TX_BAD_OFFLOAD);
    for (int i = 0; i < n; i++)
        put(app, burst[i]);
    count(app, XDP_TX_SUPER_FRAMES, 1);
    packet_free(app->worker->freelist, packet);
    return true;
}

/* Send a packet, finished in software. False: there is no room for it yet. */
static inline bool send_packet(struct app *app, struct packet *packet, uint32_t longest)
{
    const struct xdp_socket *socket = app->state;
    if (unlikely(packet->gso_type != PACKET_GSO_NONE))
        return send_super(app, packet, longest);
    if (unlikely(packet->length > longest))
        return drop(app, packet, XDP_DROP_TX_TOO_LONG);
    if (unlikely(packet->length < WIRE_ETHERNET_SIZE))
        return drop(app, packet, XDP_DROP_TX_ERROR);
    if (unlikely(room(socket) == 0))
        return false;
    if (unlikely(packet->flags & PACKET_CSUM_PARTIAL) && !packet_finish_checksum(packet))
        return drop(app, packet, XDP_DROP_TX_BAD_OFFLOAD);
    put(app, packet);
    return true;
}

/* Move packets from the input to the ring. Returns how many left the input. */
static uint32_t send_burst(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct link *in = app->input[0];
    struct packet *packets[LINK_CAPACITY];
    uint32_t n = link_readable(in), sent = 0;
    uint32_t longest = __atomic_load_n(&socket->longest, __ATOMIC_RELAXED);
    uint64_t bytes = 0;
    link_peek(in, packets, n);
    for (; sent < n; sent++) {
        if (sent + AHEAD < n)
            __builtin_prefetch(packets[sent + AHEAD], 1);
        uint32_t length = packets[sent]->length;
        if (!send_packet(app, packets[sent], longest))
            break;
        bytes += length;
    }
    if (sent) {
        link_consume(in, sent, bytes);
        xdp_produce(&socket->transmit);
    }
    return sent;
}

/* Have the kernel send what is on the ring. In copy mode a call sends a few frames, and
 * EAGAIN means that there are more, or that the kernel holds as much of ours as it likes.
 */
static void kick(struct app *app)
{
    struct xdp_socket *socket = app->state;
    socket->is_down = 0;
    for (uint32_t left = xdp_unsent(socket), i = 0; i < left; i += KICK_FRAMES) {
        if (!xdp_needs_wakeup(&socket->transmit) ||
            sendto(socket->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0)
            return;
        if (errno == EBUSY && !socket->is_zero_copy)
            count(app, XDP_DROP_TX_REFUSED, 1);
        else if (errno != EAGAIN) {
            socket->is_down = errno == ENETDOWN || errno == ENXIO;
            return;
        }
    }
}

static uint32_t xdp_push(struct app *app)
{
    struct xdp_socket *socket = app->state;
    struct link *in = app->input[0];
    uint32_t moved = 0;
    bool is_gone = is_away(app);
    if (!is_gone) {
        reap(app);
        if (in && !socket->is_down)
            moved = send_burst(app);
        kick(app);
    }
    if (unlikely(is_gone || socket->is_down) && in && link_readable(in)) {
        uint32_t n = link_discard(in, LINK_CAPACITY);
        count(app, XDP_DROP_TX_INTERFACE_DOWN, n);
        moved += n;
    }
    return moved;
}

static uint32_t xdp_held(const struct app *app)
{
    const struct xdp_socket *socket = app->state;
    return socket->nreceiving + socket->nsending;
}

/* ---- sleep --------------------------------------------------------------- */

static int xdp_arm(struct app *app, struct wake *wake)
{
    struct xdp_socket *socket = app->state;
    const struct link *in = app->input[0], *out = app->output[0];
    *wake = (struct wake){.fd = -1};
    if (is_away(app))
        return ARM_READY;
    /* No event tells that the kernel would take more: its word for it is that half the
     * ring is free. */
    if (xdp_unsent(socket) || (in && link_readable(in)))
        return ARM_NEVER;
    if (!out || link_writable(out)) {
        if (xdp_readable(&socket->receive))
            return ARM_BUSY;
        *wake = (struct wake){.fd = socket->fd, .events = POLLIN};
    }
    return ARM_READY;
}

const struct app_ops xdp_ops = {
    .pull = xdp_pull,
    .push = xdp_push,
    .arm = xdp_arm,
    .held = xdp_held,
};
