/* What the kernel and we hand each other: rings, and packets by their addresses. */
#ifndef SNABB_PY_APPS_XDP_H
#define SNABB_PY_APPS_XDP_H

#include <linux/if_xdp.h>

#include "snabb_py/engine/engine.h"

#include "snabb_py/apps/xdp_abi.h"

enum {
    XDP_RING_MASK = XDP_RING_SIZE - 1,
    XDP_CHUNK_OFFSET = sizeof(struct packet), /* of a slot's chunk */
    XDP_KERNEL_HEADROOM = 256                 /* in front of a frame in its chunk */
};

_Static_assert((XDP_RING_SIZE & XDP_RING_MASK) == 0, "a power of two");
_Static_assert((int)XDP_KERNEL_HEADROOM == (int)PACKET_HEADROOM,
               "a frame comes to a fresh packet's data");
_Static_assert((int)XDP_FRAME_MAX == XDP_CHUNK_SIZE - XDP_KERNEL_HEADROOM,
               "what is left of a chunk");
_Static_assert((int)PACKET_SMALL_STRIDE >= (int)XDP_CELL_SIZE,
               "no two slots begin in one cell");
_Static_assert((int)XDP_CHUNK_SIZE <= PACKET_HEADROOM + PACKET_SMALL_SIZE,
               "a chunk lies within a slot");

#ifndef XDP_PKT_CONTD /* linux/if_xdp.h of 6.6 */
#define XDP_PKT_CONTD (1 << 0)
#endif

#define XDP_ADDRESS_MASK ((1ull << XSK_UNALIGNED_BUF_OFFSET_SHIFT) - 1)

/* ---- rings --------------------------------------------------------------- */

/* Entries that the kernel has produced. Acquire: what is in them is read after. */
static inline uint32_t xdp_readable(const struct xdp_ring *ring)
{
    return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - ring->cursor;
}

/* Release: the kernel sees the entries that we have written when it sees the cursor. */
static inline void xdp_produce(struct xdp_ring *ring)
{
    __atomic_store_n(ring->producer, ring->cursor, __ATOMIC_RELEASE);
}

/* Release: we have read the entries before the kernel may overwrite them. */
static inline void xdp_consume(struct xdp_ring *ring)
{
    __atomic_store_n(ring->consumer, ring->cursor, __ATOMIC_RELEASE);
}

static inline bool xdp_needs_wakeup(const struct xdp_ring *ring)
{
    return __atomic_load_n(ring->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP;
}

static inline uint64_t *xdp_addresses(const struct xdp_ring *ring)
{
    return ring->slots;
}

static inline struct xdp_desc *xdp_descriptors(const struct xdp_ring *ring)
{
    return ring->slots;
}

/* ---- who has a packet ---------------------------------------------------- */

/* The kernel's name of a packet: where its chunk begins in the UMEM. */
static inline uint64_t xdp_address(const struct xdp_socket *socket,
                                  const struct packet *packet)
{
    return (uint64_t)((const uint8_t *)packet - socket->umem) + XDP_CHUNK_OFFSET;
}

static inline void xdp_give(struct xdp_socket *socket, uint64_t address)
{
    uint64_t cell = address / XDP_CELL_SIZE;
    socket->held[cell / 64] |= 1ull << cell % 64;
}

/* The packet of an address that the kernel gives back; NULL: it had no such packet. */
static inline struct packet *xdp_take_back(struct xdp_socket *socket, uint64_t address)
{
    address &= XDP_ADDRESS_MASK;
    uint64_t cell = address / XDP_CELL_SIZE, bit = 1ull << cell % 64;
    if (unlikely(address >= socket->umem_size || !(socket->held[cell / 64] & bit)))
        return NULL;
    socket->held[cell / 64] &= ~bit;
    return (struct packet *)(void *)(socket->umem + address - XDP_CHUNK_OFFSET);
}

#endif
