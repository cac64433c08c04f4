/* Packets from and to an interface of the kernel, through a packet socket.
 *
 * Sources: packet(7); Documentation/networking/packet_mmap.rst. Both ways a virtio-net
 * header goes with each frame (PACKET_VNET_HDR): super-frames and unfinished checksums
 * stay what they are, and the interface's settings need not be touched. But a super-frame
 * inside of a tunnel, as a sending stack makes them and GRO does, has a header that does
 * not say so, and that the kernel itself refuses: it is cut up here.
 *
 * Receiving: a ring in memory shared with the kernel, version 2 of its layout (version 3
 * hands over whole blocks, after a time-out of a millisecond or more). Against
 * recvmmsg() it takes half the time of this CPU (60-byte frames over veth: 0.43 against
 * 0.94 us a packet, waking up included) and a quarter off the sender's.
 *
 * Sending: sendmmsg(), not the ring that the kernel has for this too. Over veth the ring
 * is within 6 % of it with frames of 60 and 1514 bytes and takes 1.7 times as long with
 * super-frames (9.9 against 5.8 us). Besides, its pages become part of the packet, and a
 * slot is reported free as soon as a driver orphans the packet, as veth does: what keeps
 * the next packet from overwriting one that is still on its way is a copy that the
 * receiving side happens to make (6.18: no corruption seen). PACKET_QDISC_BYPASS is not
 * used: 4 %, and captures on the interface would not see what we send.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include "snabb_py/apps/rawsocket.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

enum {
    TX_BURST = 64,
    /* In front of a frame in its slot: kernel's header, address, virtio-net header. */
    RX_HEADERS = (int)(sizeof(struct tpacket2_hdr) + sizeof(struct sockaddr_ll)) +
                 VIRTIO_NET_HEADER_LEGACY,
    STATISTICS_NS = 10000000, /* kernel drops are asked for so often at most */
    SUSPECT_MAX = 2
};

_Static_assert(sizeof(struct tpacket2_hdr) % TPACKET_ALIGNMENT == 0,
               "the address comes right behind the header");

_Static_assert(RAWSOCKET_BLOCK_FRAMES * RAWSOCKET_FRAME_SIZE <= RAWSOCKET_BLOCK_SIZE &&
                   (RAWSOCKET_BLOCK_FRAMES + 1) * RAWSOCKET_FRAME_SIZE >
                       RAWSOCKET_BLOCK_SIZE,
               "the kernel puts as many frames into a block as fit");
_Static_assert(RAWSOCKET_FRAME_SIZE % TPACKET_ALIGNMENT == 0, "packet_mmap.rst");

/* ---- receive ------------------------------------------------------------- */

static struct tpacket2_hdr *frame_at(const struct rawsocket *socket, uint32_t cursor)
{
    uint32_t block = cursor / RAWSOCKET_BLOCK_FRAMES;
    uint32_t frame = cursor % RAWSOCKET_BLOCK_FRAMES;
    return (struct tpacket2_hdr *)(void *)(socket->ring +
                                           (size_t)block * RAWSOCKET_BLOCK_SIZE +
                                           (size_t)frame * RAWSOCKET_FRAME_SIZE);
}

static bool is_outgoing(const struct tpacket2_hdr *header)
{
    const struct sockaddr_ll *address = (const void *)(header + 1);
    return address->sll_pkttype == PACKET_OUTGOING;
}

/* The frame, which begins with `from`, with the VLAN tag that the kernel took out. */
static void copy_tagged(uint8_t *to, const uint8_t *from, uint32_t length,
                        const struct tpacket2_hdr *header)
{
    uint16_t type = header->tp_status & TP_STATUS_VLAN_TPID_VALID
                        ? header->tp_vlan_tpid
                        : WIRE_VLAN;
    memcpy(to, from, ETHERNET_TYPE);
    store_be16(to + ETHERNET_TYPE, type);
    store_be16(to + ETHERNET_TYPE + 2, header->tp_vlan_tci);
    memcpy(to + ETHERNET_TYPE + WIRE_TAG_SIZE, from + ETHERNET_TYPE,
           length - ETHERNET_TYPE);
}

/* A frame of the ring as a packet, or NULL and the reason counted. */
static struct packet *receive(struct app *app, const struct tpacket2_hdr *header)
{
    struct freelist *freelist = app->output[0]->freelist;
    uint32_t mac = header->tp_mac, length = header->tp_snaplen;
    uint32_t tag = header->tp_status & TP_STATUS_VLAN_VALID ? WIRE_TAG_SIZE : 0;
    if (unlikely(header->tp_len > length || length < WIRE_ETHERNET_SIZE ||
                 length + tag > PACKET_LARGE_SIZE || mac < RX_HEADERS ||
                 !wire_has(RAWSOCKET_FRAME_SIZE, mac, length))) {
        app->counters[RAWSOCKET_DROP_RX_TRUNCATED]++;
        return NULL;
    }
    /* Headers and frame lie within the slot from here on. */
    const uint8_t *data = (const uint8_t *)header + mac;
    struct packet *packet = packet_alloc(freelist, length + tag);
    if (unlikely(!packet)) {
        app->counters[RAWSOCKET_DROP_RX_NO_PACKET]++;
        return NULL;
    }
    if (unlikely(tag))
        copy_tagged(packet->data, data, length, header);
    else
        packet_copy_data(packet->data, data, length);
    struct virtio_net_header offload;
    memcpy(&offload, data - VIRTIO_NET_HEADER_LEGACY, VIRTIO_NET_HEADER_LEGACY);
    /* The kernel has counted without the tag. */
    offload.csum_start = (uint16_t)(offload.csum_start + tag);
    if (unlikely(packet_read_virtio(packet, &offload))) {
        app->counters[RAWSOCKET_DROP_RX_BAD_OFFLOAD]++;
        packet_free(freelist, packet);
        return NULL;
    }
    return packet;
}

/* Packets that a frame may become: one, or all segments of a super-frame. */
static uint32_t most_packets(const struct tpacket2_hdr *header)
{
    struct virtio_net_header offload;
    if (unlikely(header->tp_mac < RX_HEADERS)) /* receive() drops it */
        return 1;
    memcpy(&offload, (const uint8_t *)header + header->tp_mac - VIRTIO_NET_HEADER_LEGACY,
           VIRTIO_NET_HEADER_LEGACY);
    if (likely(offload.gso_type == PACKET_GSO_NONE || offload.gso_size == 0))
        return 1;
    return min_u32(header->tp_snaplen / offload.gso_size + 1, SEGMENTS_MAX);
}

/* A super-frame as others can do with it: itself, or cut up where it is in a tunnel.
 * Returns how many packets there are. */
static uint32_t unravel(struct app *app, struct packet *packet, struct packet **packets)
{
    struct freelist *freelist = app->output[0]->freelist;
    app->counters[RAWSOCKET_RX_SUPER_FRAMES]++;
    packets[0] = packet;
    if (!packet_is_tunnelled(packet))
        return 1;
    int n = packet_segment(freelist, packet, packets, SEGMENTS_MAX);
    packet_free(freelist, packet);
    if (n < 0) {
        app->counters[n == -ENOMEM ? RAWSOCKET_DROP_RX_NO_PACKET
                                   : RAWSOCKET_DROP_RX_BAD_OFFLOAD]++;
        return 0;
    }
    app->counters[RAWSOCKET_RX_SUPER_FRAMES_CUT]++;
    return (uint32_t)n;
}

static bool has_frame(const struct rawsocket *socket)
{
    /* Acquire: the kernel has written the frame before it says so. */
    return __atomic_load_n(&frame_at(socket, socket->cursor)->tp_status,
                           __ATOMIC_ACQUIRE) &
           TP_STATUS_USER;
}

/* Ask the kernel what it dropped, and find out whether the ring is jammed.
 *
 * A frame whose kind of segmentation the virtio-net header cannot express makes Linux
 * hold its slot forever (tpacket_rcv() leaves the bit in rx_owner_map; seen on 6.18 with
 * a UFO frame, as a virtual machine behind a tap may send): all frames after it are
 * dropped as if the ring were full, while we find it empty. Only a new ring helps, and
 * making one takes too long to be done here. */
static void read_statistics(struct app *app)
{
    struct rawsocket *socket = app->state;
    struct tpacket_stats statistics;
    socklen_t size = sizeof(statistics);
    socket->next_statistics = app->worker->now + STATISTICS_NS;
    uint32_t received = socket->received;
    socket->received = 0;
    if (getsockopt(socket->fd, SOL_PACKET, PACKET_STATISTICS, &statistics, &size))
        return;
    if (statistics.tp_drops && !received && !has_frame(socket)) {
        socket->suspect_drops += statistics.tp_drops;
        if (++socket->suspect < SUSPECT_MAX)
            return; /* its CPU may have been taken away while it filled the slot */
        app->counters[RAWSOCKET_DROP_RX_KERNEL_RING_JAMMED] += socket->suspect_drops;
        app->counters[RAWSOCKET_RX_RING_RENEWED]++;
        socket->suspect_drops = 0;
        socket->suspect = 0;
        /* Release: we have left the ring. */
        __atomic_store_n(&socket->jammed, 1, __ATOMIC_RELEASE);
        return;
    }
    app->counters[RAWSOCKET_DROP_RX_KERNEL_RING_FULL] +=
        statistics.tp_drops + socket->suspect_drops;
    socket->suspect_drops = 0;
    socket->suspect = 0;
}

uint32_t rawsocket_is_jammed(const struct rawsocket *socket)
{
    return __atomic_load_n(&socket->jammed, __ATOMIC_ACQUIRE);
}

void rawsocket_renew(struct rawsocket *socket, uint8_t *ring, uint32_t nframes)
{
    socket->ring = ring;
    socket->nframes = nframes;
    socket->cursor = 0;
    /* Release: the worker sees the new ring when it sees this. */
    __atomic_store_n(&socket->jammed, 0, __ATOMIC_RELEASE);
}

/* Without an output frames are taken off all the same: a later output must not begin
 * with old ones. */
static uint32_t rawsocket_pull(struct app *app)
{
    struct rawsocket *socket = app->state;
    struct link *out = app->output[0];
    struct packet *burst[LINK_CAPACITY];
    if (unlikely(rawsocket_is_jammed(socket)))
        return 0;
    uint32_t most = out ? app->worker->burst : TX_BURST;
    uint32_t room = out ? link_writable(out) : LINK_CAPACITY;
    uint32_t taken = 0, n = 0, status = 0;
    uint64_t bytes = 0;
    for (; taken < most && has_frame(socket); taken++) {
        struct tpacket2_hdr *header = frame_at(socket, socket->cursor);
        if (unlikely(n + most_packets(header) > room))
            break;
        socket->cursor =
            socket->cursor + 1 == socket->nframes ? 0 : socket->cursor + 1;
        __builtin_prefetch(frame_at(socket, socket->cursor), 1);
        status |= header->tp_status;
        struct packet *packet =
            out && !is_outgoing(header) ? receive(app, header) : NULL;
        if (likely(packet)) {
            uint32_t first = n;
            burst[n] = packet;
            n += likely(packet->gso_type == PACKET_GSO_NONE)
                     ? 1
                     : unravel(app, packet, burst + n);
            for (; first < n; first++)
                bytes += burst[first]->length;
        }
        /* Release: we have read the slot before the kernel may fill it again. */
        __atomic_store_n(&header->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
    }
    if (n)
        link_transmit_known(out, burst, n, bytes);
    app->counters[RAWSOCKET_RX_PACKETS] += n;
    app->counters[RAWSOCKET_RX_BYTES] += bytes;
    socket->received += taken;
    /* LOSING says that there are drops to be asked for; on an empty ring there may be. */
    if (unlikely(status & TP_STATUS_LOSING || taken == 0) &&
        app->worker->now >= socket->next_statistics)
        read_statistics(app);
    return taken;
}

/* ---- transmit ------------------------------------------------------------ */

/* One message: a packet behind its virtio-net header. The header goes into the
 * packet's headroom where that is large enough: one piece costs the kernel 20 to 90 ns
 * less than two. */
static void fill_message(struct msghdr *message, struct iovec iov[2],
                         struct virtio_net_header *header, struct packet *packet)
{
    uint8_t *data = packet->data;
    uint32_t length = packet->length;
    *message = (struct msghdr){.msg_iov = iov, .msg_iovlen = 1};
    if (likely(packet_headroom(packet) >= VIRTIO_NET_HEADER_LEGACY)) {
        memcpy(data - VIRTIO_NET_HEADER_LEGACY, header, VIRTIO_NET_HEADER_LEGACY);
        iov[0] = (struct iovec){data - VIRTIO_NET_HEADER_LEGACY,
                                length + VIRTIO_NET_HEADER_LEGACY};
        return;
    }
    iov[0] = (struct iovec){header, VIRTIO_NET_HEADER_LEGACY};
    iov[1] = (struct iovec){data, length};
    message->msg_iovlen = 2;
}

/* Take n packets off the input: they were sent, or a drop of that name. */
static void finish(struct app *app, uint32_t n, uint32_t counter)
{
    struct link *in = app->input[0];
    if (counter != RAWSOCKET_TX_PACKETS) {
        app->counters[counter] += link_discard(in, n);
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct packet *packet = *link_slot(in, in->read + i);
        app->counters[RAWSOCKET_TX_BYTES] += packet->length;
        app->counters[RAWSOCKET_TX_SUPER_FRAMES] += packet->gso_type != PACKET_GSO_NONE;
    }
    app->counters[RAWSOCKET_TX_PACKETS] += link_discard(in, n);
}

/* The kernel refused the first packet. Returns how many were dropped for it, 0: wait.
 * ENOBUFS is a drop: the queue of an interface that only we fill makes us wait by
 * EAGAIN long before it is full, so it is shared or has a filter, which may want this
 * very packet never. */
static uint32_t refuse(struct app *app, int error)
{
    switch (error) {
    case EAGAIN:
    case EINTR:
        return 0;
    case ENETDOWN:
    case ENXIO:
    case ENODEV: {
        uint32_t n = link_readable(app->input[0]);
        finish(app, n, RAWSOCKET_DROP_TX_INTERFACE_DOWN);
        return n;
    }
    case ENOBUFS:
    case ENOMEM:
        finish(app, 1, RAWSOCKET_DROP_TX_REFUSED);
        return 1;
    case EMSGSIZE:
        finish(app, 1, RAWSOCKET_DROP_TX_TOO_LONG);
        return 1;
    default:
        finish(app, 1, RAWSOCKET_DROP_TX_ERROR);
        return 1;
    }
}

/* Send up to n packets of the input. Returns how many left it, 0: wait. */
static uint32_t send_burst(struct app *app, uint32_t n)
{
    const struct rawsocket *socket = app->state;
    struct mmsghdr messages[TX_BURST];
    struct iovec iov[TX_BURST][2];
    struct virtio_net_header headers[TX_BURST];
    struct packet *packets[TX_BURST];
    link_peek(app->input[0], packets, n);
    for (uint32_t i = 0; i < n; i++) {
        if (unlikely(packet_write_virtio(packets[i], &headers[i]))) {
            if (i == 0) {
                finish(app, 1, RAWSOCKET_DROP_TX_BAD_OFFLOAD);
                return 1;
            }
            n = i;
            break;
        }
        fill_message(&messages[i].msg_hdr, iov[i], &headers[i], packets[i]);
    }
    int sent = sendmmsg(socket->fd, messages, n, MSG_DONTWAIT);
    /* After the interface has been down, one call reports that though it is up. */
    if (unlikely(sent < 0 && errno == ENETDOWN))
        sent = sendmmsg(socket->fd, messages, n, MSG_DONTWAIT);
    if (unlikely(sent < 0))
        return refuse(app, errno);
    finish(app, (uint32_t)sent, RAWSOCKET_TX_PACKETS);
    return (uint32_t)sent;
}

static uint32_t rawsocket_push(struct app *app)
{
    struct link *in = app->input[0];
    uint32_t moved = 0, waiting, left;
    if (!in)
        return 0;
    while ((waiting = link_readable(in)) != 0) {
        left = send_burst(app, min_u32(waiting, TX_BURST));
        if (left == 0)
            break;
        moved += left;
    }
    return moved;
}

/* ---- sleep --------------------------------------------------------------- */

static int rawsocket_arm(struct app *app, struct wake *wake)
{
    struct rawsocket *socket = app->state;
    const struct link *in = app->input[0], *out = app->output[0];
    short events = 0;
    if (unlikely(wake->revents & POLLERR)) {
        /* Pending since the interface went down; asking for it clears it. */
        int error;
        socklen_t size = sizeof(error);
        getsockopt(socket->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    }
    if (!rawsocket_is_jammed(socket) && (!out || link_writable(out))) {
        if (has_frame(socket))
            return ARM_BUSY;
        events = POLLIN;
    }
    if (in && link_readable(in))
        events |= POLLOUT;
    *wake = (struct wake){.fd = socket->fd, .events = events};
    return ARM_READY;
}

const struct app_ops rawsocket_ops = {
    .pull = rawsocket_pull,
    .push = rawsocket_push,
    .arm = rawsocket_arm,
};
