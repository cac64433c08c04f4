/* Packets from and to the kernel's network stack, through a tap.
 *
 * Source: Documentation/networking/tuntap.rst. With IFF_VNET_HDR a virtio-net header of
 * 10 bytes goes in front of each frame: super-frames and unfinished checksums stay what
 * they are. One system call moves one packet: a tap has no other way.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "snabb_py/apps/tap.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

_Static_assert(sizeof(((struct tap *)0)->overflow) ==
                   PACKET_LARGE_SIZE - PACKET_SMALL_SIZE,
               "a small packet and the overflow hold as much as a large packet");

uint32_t tap_is_detached(const struct tap *tap)
{
    return __atomic_load_n(&tap->detached, __ATOMIC_ACQUIRE);
}

void tap_attached(struct tap *tap)
{
    __atomic_store_n(&tap->detached, 0, __ATOMIC_RELEASE);
}

/* ---- receive ------------------------------------------------------------- */

/* What read() said when it was not a frame. True: a frame is gone, go on reading. */
static bool explain_read(struct app *app, int error)
{
    struct tap *tap = app->state;
    if (error == EINVAL) {
        /* Segmentation that the header cannot express; the kernel has dropped it. */
        app->counters[TAP_DROP_RX_BAD_OFFLOAD]++;
        return true;
    }
    if (error == EBADFD) /* the interface was deleted */
        __atomic_store_n(&tap->detached, 1, __ATOMIC_RELEASE);
    return false;
}

/* The frame that was read into `packet`, and what did not fit there into the overflow,
 * in a slot of the class that it needs. NULL: there is none. */
static struct packet *settle(struct app *app, struct packet *packet, uint32_t length)
{
    struct tap *tap = app->state;
    struct freelist *freelist = app->output[0]->freelist;
    uint32_t needed = length <= PACKET_SMALL_SIZE ? PACKET_SMALL : PACKET_LARGE;
    /* Super-frames come in trains: a right guess saves a copy of 64 KiB. */
    tap->expected = needed;
    if (likely(packet->slot_class == needed)) {
        packet->length = length;
        return packet;
    }
    struct packet *other = packet_alloc(freelist, length);
    if (likely(other)) {
        uint32_t first = min_u32(length, PACKET_SMALL_SIZE);
        memcpy(other->data, packet->data, first);
        memcpy(other->data + first, tap->overflow, length - first);
    }
    packet_free(freelist, packet);
    return other;
}

/* Read one frame. Returns false when there is none; *result is NULL when there was one
 * and it was dropped, the reason counted. */
static bool receive(struct app *app, struct packet **result)
{
    struct tap *tap = app->state;
    struct freelist *freelist = app->output[0]->freelist;
    struct virtio_net_header header;
    *result = NULL;
    struct packet *packet = packet_alloc(
        freelist, tap->expected == PACKET_LARGE ? PACKET_LARGE_SIZE : PACKET_SMALL_SIZE);
    if (unlikely(!packet && tap->expected == PACKET_LARGE))
        packet = packet_alloc(freelist, PACKET_SMALL_SIZE);
    if (unlikely(!packet)) {
        /* Taken off all the same: the next one shall not be an old one. */
        if (read(tap->fd, tap->overflow, sizeof(tap->overflow)) < 0)
            return explain_read(app, errno);
        app->counters[TAP_DROP_RX_NO_PACKET]++;
        return true;
    }
    struct iovec iov[3] = {
        {&header, VIRTIO_NET_HEADER_LEGACY},
        {packet->data, packet->length},
        {tap->overflow, PACKET_LARGE_SIZE - packet->length},
    };
    ssize_t n = readv(tap->fd, iov, 3);
    if (unlikely(n < VIRTIO_NET_HEADER_LEGACY + WIRE_ETHERNET_SIZE ||
                 n >= VIRTIO_NET_HEADER_LEGACY + PACKET_LARGE_SIZE)) {
        packet_free(freelist, packet);
        if (n < 0)
            return explain_read(app, errno);
        app->counters[TAP_DROP_RX_TRUNCATED]++;
        return true;
    }
    /* A whole Ethernet header, and no more than a large packet holds. */
    packet = settle(app, packet, (uint32_t)n - VIRTIO_NET_HEADER_LEGACY);
    if (unlikely(!packet)) {
        app->counters[TAP_DROP_RX_NO_PACKET]++;
        return true;
    }
    if (unlikely(packet_read_virtio(packet, &header))) {
        app->counters[TAP_DROP_RX_BAD_OFFLOAD]++;
        packet_free(freelist, packet);
        return true;
    }
    app->counters[TAP_RX_SUPER_FRAMES] += packet->gso_type != PACKET_GSO_NONE;
    *result = packet;
    return true;
}

/* Without an output frames are taken off all the same: a later output must not begin
 * with old ones. */
static uint32_t discard(struct app *app)
{
    struct tap *tap = app->state;
    uint32_t n = 0;
    while (n < app->worker->burst) {
        if (read(tap->fd, tap->overflow, sizeof(tap->overflow)) < 0 &&
            !explain_read(app, errno))
            break;
        n++;
    }
    return n;
}

static uint32_t tap_pull(struct app *app)
{
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    if (unlikely(tap_is_detached(app->state)))
        return 0;
    if (!out)
        return discard(app);
    uint32_t most = min_u32(app->worker->burst, link_writable(out));
    uint32_t taken = 0, n = 0;
    uint64_t bytes = 0;
    while (taken < most && receive(app, &burst[n])) {
        taken++;
        if (likely(burst[n]))
            bytes += burst[n++]->length;
    }
    if (n)
        link_transmit_known(out, burst, n, bytes);
    app->counters[TAP_RX_PACKETS] += n;
    app->counters[TAP_RX_BYTES] += bytes;
    return taken;
}

/* ---- transmit ------------------------------------------------------------ */

/* Write one packet behind its virtio-net header, which goes into the packet's headroom
 * where that is large enough: one piece is quicker than two. */
static ssize_t write_packet(int fd, struct packet *packet,
                            struct virtio_net_header *header)
{
    if (likely(packet_headroom(packet) >= VIRTIO_NET_HEADER_LEGACY)) {
        uint8_t *start = packet->data - VIRTIO_NET_HEADER_LEGACY;
        memcpy(start, header, VIRTIO_NET_HEADER_LEGACY);
        return write(fd, start, packet->length + VIRTIO_NET_HEADER_LEGACY);
    }
    struct iovec iov[2] = {
        {header, VIRTIO_NET_HEADER_LEGACY},
        {packet->data, packet->length},
    };
    return writev(fd, iov, 2);
}

/* The counter of what became of a packet; TAP_NCOUNTERS: it is to wait. */
static uint32_t send_packet(struct app *app, struct packet *packet)
{
    struct tap *tap = app->state;
    struct virtio_net_header header;
    if (unlikely(packet_write_virtio(packet, &header)))
        return TAP_DROP_TX_BAD_OFFLOAD;
    if (likely(write_packet(tap->fd, packet, &header) >= 0))
        return TAP_TX_PACKETS;
    switch (errno) {
    case EAGAIN:
    case EINTR:
        return TAP_NCOUNTERS;
    case EBADFD: /* the interface was deleted */
        __atomic_store_n(&tap->detached, 1, __ATOMIC_RELEASE);
        return TAP_DROP_TX_INTERFACE_DOWN;
    case EIO:
        return TAP_DROP_TX_INTERFACE_DOWN;
    case ENOMEM:
    case ENOBUFS:
        return TAP_DROP_TX_REFUSED;
    default:
        return TAP_DROP_TX_ERROR;
    }
}

static uint32_t tap_push(struct app *app)
{
    struct link *in = app->input[0];
    uint32_t n = in ? link_readable(in) : 0, moved = 0;
    while (moved < n) {
        if (unlikely(tap_is_detached(app->state))) {
            app->counters[TAP_DROP_TX_INTERFACE_DOWN] += n - moved;
            return moved + link_discard(in, n - moved);
        }
        struct packet *packet = *link_slot(in, in->read);
        uint32_t counter = send_packet(app, packet);
        if (unlikely(counter == TAP_NCOUNTERS))
            break;
        app->counters[counter]++;
        if (likely(counter == TAP_TX_PACKETS)) {
            app->counters[TAP_TX_BYTES] += packet->length;
            app->counters[TAP_TX_SUPER_FRAMES] += packet->gso_type != PACKET_GSO_NONE;
        }
        moved += link_discard(in, 1);
    }
    return moved;
}

/* ---- sleep --------------------------------------------------------------- */

static int tap_arm(struct app *app, struct wake *wake)
{
    const struct tap *tap = app->state;
    const struct link *in = app->input[0], *out = app->output[0];
    short events = 0;
    if (!out || link_writable(out))
        events = POLLIN;
    if (in && link_readable(in))
        events |= POLLOUT;
    /* Without an interface the fd would be ready forever, with an error. */
    *wake = (struct wake){.fd = tap_is_detached(tap) ? -1 : tap->fd, .events = events};
    return ARM_READY;
}

const struct app_ops tap_ops = {
    .pull = tap_pull,
    .push = tap_push,
    .arm = tap_arm,
};
