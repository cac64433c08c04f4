/* Around an XDP socket: made, handed to the worker and back, its packets reclaimed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "snabb_py/apps/xdp.h"

/* ---- system calls -------------------------------------------------------- */

static int result_of(long value)
{
    return value < 0 ? -errno : (int)value;
}

int xdp_bpf(int command, const void *attributes, uint32_t size)
{
    return result_of(syscall(SYS_bpf, command, attributes, size));
}

int xdp_register(int fd, const uint8_t *memory, uint64_t size)
{
    struct xdp_umem_reg umem = {
        .addr = (uint64_t)(uintptr_t)memory,
        .len = size,
        .chunk_size = XDP_CHUNK_SIZE,
        .flags = XDP_UMEM_UNALIGNED_CHUNK_FLAG,
    };
    return result_of(setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)));
}

int xdp_bind(int fd, uint32_t ifindex, uint32_t queue, uint16_t flags)
{
    struct sockaddr_xdp address = {
        .sxdp_family = AF_XDP,
        .sxdp_flags = flags,
        .sxdp_ifindex = ifindex,
        .sxdp_queue_id = queue,
    };
    return result_of(bind(fd, (struct sockaddr *)&address, sizeof(address)));
}

/* ---- hand-over ----------------------------------------------------------- */

void xdp_leave(struct xdp_socket *socket)
{
    __atomic_store_n(&socket->leave, 1, __ATOMIC_RELEASE);
}

uint32_t xdp_has_left(const struct xdp_socket *socket)
{
    return __atomic_load_n(&socket->left, __ATOMIC_ACQUIRE);
}

void xdp_renew(struct xdp_socket *socket)
{
    socket->leave = 0;
    socket->is_down = 0;
    socket->is_dry = 0;
    socket->nreceiving = 0;
    socket->nsending = 0;
    socket->next_statistics = 0;
    memset(socket->statistics, 0, sizeof(socket->statistics));
    /* Release: the worker sees the new rings when it sees this. */
    __atomic_store_n(&socket->left, 0, __ATOMIC_RELEASE);
}

void xdp_set_longest(struct xdp_socket *socket, uint32_t longest)
{
    __atomic_store_n(&socket->longest, longest, __ATOMIC_RELAXED);
}

uint32_t xdp_unsent(const struct xdp_socket *socket)
{
    const struct xdp_ring *ring = &socket->transmit;
    return ring->cursor - __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
}

void xdp_reclaim(struct xdp_socket *socket, struct pool *pool)
{
    for (uint32_t slot_class = 0; slot_class < PACKET_NCLASSES; slot_class++)
        for (uint32_t i = 0; i < pool->npackets[slot_class]; i++) {
            struct packet *packet = pool_packet(pool, slot_class, i);
            if (xdp_take_back(socket, xdp_address(socket, packet)))
                pool_return(pool, &packet, 1);
        }
    socket->nreceiving = socket->nsending = 0;
}
