/* vhost-user network ports: packets into and out of the guest's buffers.
 *
 * A burst goes through its buffers several times: where is the descriptor, where the
 * buffer, then the bytes; each round prefetches for the next one. The commonest packet
 * by far, one without offloads in one descriptor, is handled in line; all others by
 * functions of their own.
 */
#include <errno.h>

#include "snabb_py/virtio/net_device.h"

#include "snabb_py/engine/wire.h"

enum {
    LINE = 64,
    AHEAD = 8, /* packets whose metadata are prefetched */
    SHOWN = 16, /* packets that a waiting guest is shown at once */
    /* What a burst of buffers that are not plain may cost: looks (virtq_pieces), and
     * bytes by the WORTH. The rest waits for the next breath, when others had their
     * turn. */
    WORK_MAX = 8192,
    WORTH = 256,
    /* Plain packets in a row that make it likely that there are more. */
    STRETCH = 16,
    FRAME_MIN = WIRE_ETHERNET_SIZE
};

/* Of a buffer, which may begin anywhere; once, see READ_ONCE(). */
struct __attribute__((packed, may_alias)) unaligned {
    uint64_t word;
};

static inline uint64_t read_word(const uint8_t *from)
{
    return ((const volatile struct unaligned *)(const volatile void *)from)->word;
}

/* What a burst has used, not shown to the guest yet. */
struct used_list {
    uint32_t n;
    uint32_t work; /* see WORK_MAX */
    struct virtq_used used[VIRTQ_BURST_MAX];
};

static inline void use(struct used_list *list, uint32_t head, uint32_t length)
{
    list->used[list->n++] = (struct virtq_used){head, length};
}

static void finish(struct vhost_pair *pair, struct virtq *q, const struct used_list *list)
{
    if (list->n) {
        virtq_use(q, list->used, list->n);
        if (unlikely(q->is_armed))
            virtq_disarm(q);
    }
    if (unlikely(q->broken))
        vhost_note_broken(pair, q);
}

/* Copy n bytes and no more: what lies behind is the guest's. From 16 bytes on in pieces
 * that overlap at the end. */
static inline void copy_exactly(uint8_t *restrict to, const uint8_t *restrict from,
                                uint32_t n)
{
    if (likely(n >= 32)) {
        uint32_t i = 0;
        for (; unlikely(i + LINE <= n); i += LINE)
            memcpy(to + i, from + i, LINE);
        if (n - i > 32)
            memcpy(to + i, from + i, 32);
        memcpy(to + n - 32, from + n - 32, 32);
    } else {
        memcpy(to, from, n);
    }
}

/* ---- pieces -------------------------------------------------------------- */

/* Where one is in the pieces of a buffer. */
struct cursor {
    const struct virtq_pieces *pieces;
    uint32_t i;
    uint32_t offset;
};

/* The next bytes that lie together, up to *n of them; sets *n. NULL: the end. */
static uint8_t *advance(struct cursor *cursor, uint32_t *n)
{
    while (cursor->i < cursor->pieces->n) {
        const struct virtq_piece *piece = &cursor->pieces->pieces[cursor->i];
        if (cursor->offset < piece->length) {
            uint8_t *data = piece->data + cursor->offset;
            *n = min_u32(*n, piece->length - cursor->offset);
            cursor->offset += *n;
            return data;
        }
        cursor->i++;
        cursor->offset = 0;
    }
    return NULL;
}

/* A header may be spread over any number of descriptors (CVE-2022-2132). */
static void copy_out(struct cursor *cursor, const void *from, uint32_t length)
{
    const uint8_t *p = from;
    for (uint32_t n = length; length > 0; p += n, length -= n, n = length) {
        uint8_t *to = advance(cursor, &n);
        if (!to)
            return;
        memcpy(to, p, n);
    }
}

static void copy_in(struct cursor *cursor, void *to, uint32_t length)
{
    uint8_t *p = to;
    for (uint32_t n = length; length > 0; p += n, length -= n, n = length) {
        const uint8_t *from = advance(cursor, &n);
        if (!from)
            return;
        memcpy(p, from, n);
    }
}

/* ---- to the guest -------------------------------------------------------- */

/* There will never be more buffers than are ready now. */
static bool is_all(const struct virtq *q, uint32_t ready)
{
    return ready == min_u32(q->size, VIRTQ_BURST_MAX);
}

/* Put one packet into as many buffers as it takes, behind those of the list; `ready` are
 * there. Returns 0; -EAGAIN: too few yet; or the counter of why it never will go. */
static int put_frame(struct vhost_pair *pair, const struct packet *packet,
                     const struct virtio_net_header *header, struct used_list *list,
                     uint32_t ready)
{
    struct virtq *q = &pair->rx;
    struct virtq_pieces pieces;
    struct virtio_net_header written = *header;
    uint32_t needed = pair->header_size + packet->length, first = list->n, at = first;
    uint32_t left = needed;
    virtq_begin(&pieces);
    list->work += packet->length / WORTH;
    /* All buffers are found before any is written to: what does not fit leaves no
     * trace, and the guest never sees half a packet. */
    while (left > 0) {
        if (at == ready)
            return first == 0 && is_all(q, ready) ? VHOST_DROP_RX_TOO_LONG : -EAGAIN;
        if (list->work > WORK_MAX)
            return -EAGAIN;
        uint64_t before = pieces.length;
        uint32_t head = virtq_head(q, at), looked = pieces.looks;
        if (!virtq_gather(q, head, true, &pieces))
            return -EIO;
        list->work += pieces.looks - looked;
        uint64_t room = pieces.length - before;
        uint32_t length = room < left ? (uint32_t)room : left;
        list->used[at++] = (struct virtq_used){head, length};
        left -= length;
        if (left > 0 && (!pair->is_merging || pieces.n > VIRTQ_CHAIN_MAX))
            return VHOST_DROP_RX_TOO_LONG;
    }
    struct cursor cursor = {.pieces = &pieces};
    written.num_buffers = (uint16_t)(at - first);
    copy_out(&cursor, &written, pair->header_size);
    copy_out(&cursor, packet->data, packet->length);
    list->n = at;
    return 0;
}

static bool is_accepted(uint32_t accepts, const struct packet *packet)
{
    switch (packet->gso_type) {
    case PACKET_GSO_NONE:
        return true;
    case PACKET_GSO_TCPV4:
        return accepts & ACCEPTS_TSO4;
    case PACKET_GSO_TCPV6:
        return accepts & ACCEPTS_TSO6;
    case PACKET_GSO_TCPV4 | PACKET_GSO_ECN:
        return (accepts & ACCEPTS_TSO4) && (accepts & ACCEPTS_ECN);
    case PACKET_GSO_TCPV6 | PACKET_GSO_ECN:
        return (accepts & ACCEPTS_TSO6) && (accepts & ACCEPTS_ECN);
    default:
        return false;
    }
}

/* A frame that the guest takes as it is, apart from its checksum. */
static int put_accepted(struct vhost_pair *pair, struct packet *packet,
                        struct used_list *list, uint32_t ready)
{
    struct virtio_net_header header;
    if (!(pair->accepts & ACCEPTS_CSUM)) {
        if (!packet_finish_checksum(packet))
            return VHOST_DROP_RX_BAD_OFFLOAD;
        packet->flags = 0;
    }
    if (packet_write_virtio(packet, &header))
        return VHOST_DROP_RX_BAD_OFFLOAD;
    return put_frame(pair, packet, &header, list, ready);
}

/* A super-frame for a guest that takes none. All of its segments, or none: what went
 * half way would go twice. */
static int put_segments(struct vhost_pair *pair, struct freelist *freelist,
                        const struct packet *packet, struct used_list *list,
                        uint32_t ready)
{
    struct packet *segments[SEGMENTS_MAX];
    uint32_t start = list->n;
    int n = packet_segment(freelist, packet, segments, SEGMENTS_MAX), rc = 0;
    if (n < 0)
        return n == -ENOMEM ? VHOST_DROP_RX_NO_PACKET : VHOST_DROP_RX_BAD_OFFLOAD;
    for (int i = 0; i < n && rc == 0; i++)
        rc = put_accepted(pair, segments[i], list, ready);
    packet_free_burst(freelist, segments, (uint32_t)n);
    if (rc == -EAGAIN && start == 0 && is_all(&pair->rx, ready))
        rc = VHOST_DROP_RX_TOO_LONG;
    if (rc)
        list->n = start;
    else
        vhost_count(pair, VHOST_RX_PACKETS, (uint64_t)n - 1); /* and one by the caller */
    return rc;
}

static int put_any(struct vhost_pair *pair, struct freelist *freelist,
                   struct packet *packet, struct used_list *list, uint32_t ready)
{
    if (!is_accepted(pair->accepts, packet))
        return put_segments(pair, freelist, packet, list, ready);
    return put_accepted(pair, packet, list, ready);
}

/* A packet does not fit in all that the guest has given: it may give more, or not. */
static bool has_waited(struct vhost_pair *pair)
{
    if (pair->is_stuck)
        return pair->stuck_ticks >= VHOST_STUCK_TICKS;
    pair->is_stuck = 1;
    pair->stuck_ticks = 0;
    return false;
}

/* The first packets for which one descriptor each suffices and there is nothing to
 * finish: finds where they go. Returns how many. */
static inline uint32_t find_room(struct vhost_pair *pair, struct packet **packets,
                                 uint32_t n, struct used_list *list, uint8_t **to)
{
    struct virtq *q = &pair->rx;
    struct virtq_used *used = &list->used[list->n];
    uint32_t header = pair->header_size, size = q->size;
    for (uint32_t i = 0; i < n; i++) {
        used[i].id = virtq_head(q, list->n + i);
        __builtin_prefetch(&q->desc[used[i].id & (size - 1)]);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (i + AHEAD < n)
            __builtin_prefetch(packets[i + AHEAD]);
        /* From here on: the index is in the table. */
        if (unlikely(used[i].id >= size))
            return i;
        struct virtq_desc desc = virtq_read(&q->desc[used[i].id]);
        uint32_t length = header + packets[i]->length;
        to[i] = virtq_peek(q, &desc, length);
        if (unlikely(!to[i] || desc.flags != VIRTQ_WRITE || desc.length < length ||
                     !packet_is_plain(packets[i])))
            return i;
        used[i].length = length;
        prefetch_to_write(to[i]);
        prefetch_to_write(to[i] + LINE);
    }
    return n;
}

HOT static uint32_t put_burst(struct vhost_pair *pair, struct freelist *freelist,
                              struct packet **packets, uint32_t n, uint64_t *bytes)
{
    struct virtq *q = &pair->rx;
    struct used_list list;
    uint8_t *to[VIRTQ_BURST_MAX];
    uint32_t ready = virtq_ready(q, min_u32(n, q->size)), done = 0, sent = 0;
    uint64_t sum = 0, lost = 0;
    const struct virtio_net_header plain = {.num_buffers = 1};
    uint32_t stretch = VIRTQ_BURST_MAX;
    list.n = list.work = 0;
    while (done < n && list.n < ready && list.work <= WORK_MAX) {
        uint32_t run = min_u32(min_u32(n - done, ready - list.n), stretch);
        run = find_room(pair, packets + done, run, &list, to);
        for (uint32_t i = 0; i < run; i++) {
            const struct packet *packet = packets[done + i];
            if (likely(pair->header_size == VIRTIO_NET_HEADER_SIZE))
                memcpy(to[i], &plain, VIRTIO_NET_HEADER_SIZE);
            else
                memcpy(to[i], &plain, VIRTIO_NET_HEADER_LEGACY);
            copy_exactly(to[i] + pair->header_size, packet->data, packet->length);
            sum += packet->length;
        }
        list.n += run;
        done += run;
        sent += run;
        if (likely(done == n || list.n == ready))
            break;
        /* Merged buffers and segments may take more of them than there are packets. */
        ready = virtq_ready(q, min_u32(q->size, VIRTQ_BURST_MAX));
        struct packet *packet = packets[done];
        uint32_t length = packet->length;
        bool is_super = packet->gso_type != PACKET_GSO_NONE, is_first = list.work == 0;
        int rc = put_any(pair, freelist, packet, &list, ready);
        stretch = run >= STRETCH ? VIRTQ_BURST_MAX : STRETCH;
        bool is_endless = is_first && list.work > WORK_MAX;
        if (rc == -EAGAIN && list.n == 0 && (is_endless || has_waited(pair)))
            rc = VHOST_DROP_RX_TOO_LONG;
        if (rc < 0) /* broken, or to be tried again */
            break;
        done++;
        sum += length;
        if (rc > 0) {
            vhost_count(pair, (uint32_t)rc, 1);
            lost += length;
            continue;
        }
        sent++;
        pair->counters[VHOST_RX_SUPER_FRAMES] +=
            is_super && is_accepted(pair->accepts, packet);
    }
    if (unlikely(pair->is_stuck) && done)
        pair->is_stuck = 0;
    finish(pair, q, &list);
    packet_free_burst(freelist, packets, done);
    vhost_count(pair, VHOST_RX_PACKETS, sent);
    vhost_count(pair, VHOST_RX_BYTES, sum - lost);
    *bytes += sum;
    return done;
}

/* The packets of a burst that the guest is shown before the others. One that keeps up - it
 * has given back most of its buffers, and looks for more - begins with the first while
 * we still write the rest (bench vhost loop with DPDK: 5.6 -> 8.3 Mpps). One that lags
 * behind is disturbed once a burst. */
static inline uint32_t first_part(const struct virtq *q, uint32_t n)
{
    uint32_t available = (uint16_t)(q->seen - q->next);
    return available > q->size / 2 ? min_u32(n, SHOWN) : n;
}

uint32_t vhost_to_guest(struct vhost_pair *pair, struct freelist *freelist,
                        struct packet **packets, uint32_t n, uint64_t *bytes)
{
    uint32_t first = first_part(&pair->rx, n);
    uint32_t done = put_burst(pair, freelist, packets, first, bytes);
    if (done == first && done < n)
        done += put_burst(pair, freelist, packets + done, n - done, bytes);
    return done;
}

/* ---- from the guest ------------------------------------------------------ */

/* A packet of what the pieces hold; NULL, and it is counted. */
static struct packet *take_frame(struct vhost_pair *pair, struct freelist *freelist,
                                 const struct virtq_pieces *pieces)
{
    struct virtio_net_header header = {0};
    if (pieces->length < pair->header_size + FRAME_MIN) {
        vhost_count(pair, VHOST_DROP_TX_TOO_SHORT, 1);
        return NULL;
    }
    if (pieces->length - pair->header_size > PACKET_LARGE_SIZE) {
        vhost_count(pair, VHOST_DROP_TX_TOO_LONG, 1);
        return NULL;
    }
    struct packet *packet =
        packet_alloc(freelist, (uint32_t)pieces->length - pair->header_size);
    if (!packet) {
        vhost_count(pair, VHOST_DROP_TX_NO_PACKET, 1);
        return NULL;
    }
    struct cursor cursor = {.pieces = pieces};
    copy_in(&cursor, &header, pair->header_size);
    copy_in(&cursor, packet->data, packet->length);
    if (packet_read_virtio(packet, &header)) {
        vhost_count(pair, VHOST_DROP_TX_BAD_OFFLOAD, 1);
        packet_free(freelist, packet);
        return NULL;
    }
    return packet;
}

/* A buffer that takes more than one look. False: the ring is broken. */
static bool take_any(struct vhost_pair *pair, struct freelist *freelist, uint32_t head,
                     struct packet **packet, uint32_t *work)
{
    struct virtq_pieces pieces;
    virtq_begin(&pieces);
    if (!virtq_gather(&pair->tx, head, false, &pieces))
        return false;
    *packet = take_frame(pair, freelist, &pieces);
    *work += pieces.looks + (*packet ? (*packet)->length / WORTH : 0);
    return true;
}

/* Find where up to n buffers begin: those that are a single descriptor in known memory,
 * with room to read whole lines; the others are NULL.
 *
 * A frame's first line is taken away from the guest, though it is only read, and demoted
 * when it has been: the guest soon writes another frame there, and waits less for a line
 * that nobody has than for one that we share (bench vhost tx with DPDK as the guest:
 * 17.0 -> 20.7 Mpps; either half of it alone does nothing). */
static inline void find_frames(struct vhost_pair *pair, uint32_t n,
                               struct virtq_used *used, const uint8_t **from,
                               uint32_t *lengths)
{
    struct virtq *q = &pair->tx;
    uint32_t header = pair->header_size, size = q->size;
    for (uint32_t i = 0; i < n; i++) {
        used[i] = (struct virtq_used){virtq_head(q, i), 0};
        __builtin_prefetch(&q->desc[used[i].id & (size - 1)]);
    }
    for (uint32_t i = 0; i < n; i++) {
        from[i] = NULL;
        /* From here on: the index is in the table. */
        if (unlikely(used[i].id >= size))
            continue;
        struct virtq_desc desc = virtq_read(&q->desc[used[i].id]);
        lengths[i] = desc.length - header;
        if (unlikely(desc.flags || desc.length < header + FRAME_MIN ||
                     desc.length > header + PACKET_SMALL_SIZE))
            continue;
        from[i] = virtq_peek(q, &desc, desc.length + LINE);
        __builtin_prefetch(from[i]);
        prefetch_to_write(from[i] + LINE);
    }
}

/* The header of a frame in one piece: each byte of it is read once. False: it asks for
 * what is not possible. */
static inline bool read_header(struct packet *packet, const uint8_t *from,
                               uint64_t first)
{
    struct virtio_net_header header;
    memcpy(&header, &first, sizeof(first));
    memcpy(&header.csum_offset, from + sizeof(first), sizeof(header.csum_offset));
    header.num_buffers = 0;
    return !packet_read_virtio(packet, &header);
}

HOT uint32_t vhost_from_guest(struct vhost_pair *pair, struct freelist *freelist,
                              struct link *out, uint32_t n)
{
    struct virtq *q = &pair->tx;
    struct used_list list;
    const uint8_t *from[VIRTQ_BURST_MAX];
    uint32_t lengths[VIRTQ_BURST_MAX], header = pair->header_size;
    struct packet *packets[VIRTQ_BURST_MAX];
    uint32_t kept = 0, spare;
    uint64_t bytes = 0;
    if (n == 0) {
        if (unlikely(q->broken))
            vhost_note_broken(pair, q);
        return 0;
    }
    spare = freelist_reserve(freelist, PACKET_SMALL, n);
    if (unlikely(spare < n)) {
        vhost_count(pair, VHOST_TX_NO_PACKET, 1);
        n = spare;
    }
    find_frames(pair, n, list.used, from, lengths);
    /* Copied, for what is long or odd uses the freelist, too. */
    copy_pointers(packets, freelist_take(freelist, PACKET_SMALL, n), n);
    /* packets[0..kept) are taken, those from i on are fresh, and between lies what has
     * to go back: `spare` of it at the end. */
    uint32_t i = 0, work = 0;
    spare = 0;
    struct packet *unused[VIRTQ_BURST_MAX];
    for (; i < n; i++) {
        struct packet *packet = packets[i];
        if (likely(from[i])) {
            uint64_t first = read_word(from[i]);
            packet_fresh(packet, PACKET_SMALL, lengths[i]);
            packet_copy_data(packet->data, from[i] + header, lengths[i]);
            demote(from[i] + LINE);
            if (unlikely(first & 0xffff) && !read_header(packet, from[i], first)) {
                vhost_count(pair, VHOST_DROP_TX_BAD_OFFLOAD, 1);
                unused[spare++] = packet;
                continue;
            }
        } else {
            unused[spare++] = packet;
            if (unlikely(work > WORK_MAX ||
                         !take_any(pair, freelist, list.used[i].id, &packet, &work)))
                break;
            if (!packet)
                continue;
            pair->counters[VHOST_TX_SUPER_FRAMES] += packet->gso_type != PACKET_GSO_NONE;
        }
        bytes += packet->length;
        packets[kept++] = packet;
    }
    list.n = i;
    if (unlikely(i < n)) { /* broken or enough: those behind were not looked at */
        packet_free_burst(freelist, packets + i + 1, n - i - 1);
        n = i;
    }
    if (unlikely(spare))
        packet_free_burst(freelist, unused, spare);
    finish(pair, q, &list);
    if (unlikely(q->enabled == VIRTQ_DISCARDS)) {
        /* Disabled: to be processed without effect. */
        packet_free_burst(freelist, packets, kept);
        vhost_count(pair, VHOST_DROP_TX_DISABLED, kept);
        return n;
    }
    link_transmit_known(out, packets, kept, bytes);
    vhost_count(pair, VHOST_TX_PACKETS, kept);
    vhost_count(pair, VHOST_TX_BYTES, bytes);
    return n;
}
