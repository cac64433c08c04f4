/* vhost-user network ports: what net_device.c's halves share; see net_device_abi.h. */
#ifndef SNABB_PY_VIRTIO_NET_DEVICE_H
#define SNABB_PY_VIRTIO_NET_DEVICE_H

#include "snabb_py/engine/offload.h"

#include "snabb_py/virtio/virtq.h"

#include "snabb_py/virtio/net_device_abi.h"

_Static_assert(sizeof(((struct vhost_pair *)0)->counters) ==
                   VHOST_NCOUNTERS * sizeof(uint64_t),
               "counters");
_Static_assert(VHOST_NCOUNTERS - VHOST_BROKEN_AVAIL_RINGS == VIRTQ_NREASONS - 1,
               "a counter for each reason");
_Static_assert(offsetof(struct vhost_pair, next) % 64 == 0,
               "what others write is away from what the worker writes");

enum { /* vhost_pair.accepts */
    ACCEPTS_CSUM = 1,
    ACCEPTS_TSO4 = 2,
    ACCEPTS_TSO6 = 4,
    ACCEPTS_ECN = 8
};

/* Ticks that a packet waits for a guest that has room, but not enough. */
enum { VHOST_STUCK_TICKS = 100 };

static inline void vhost_count(struct vhost_pair *pair, uint32_t counter, uint64_t n)
{
    pair->counters[counter] += n;
}

/* Stop a ring that has been found broken; the port's event_fd tells Python. */
void vhost_note_broken(struct vhost_pair *pair, struct virtq *q);

/* Put packets into the guest's buffers, in order, until these run out. What was taken is
 * freed, delivered or not. Returns how many, and adds their bytes. */
uint32_t vhost_to_guest(struct vhost_pair *pair, struct freelist *freelist,
                        struct packet **packets, uint32_t n, uint64_t *bytes);

/* Take up to n packets from the guest; `out` has room for so many. Returns how many
 * buffers were used. */
uint32_t vhost_from_guest(struct vhost_pair *pair, struct freelist *freelist,
                          struct link *out, uint32_t n);

#endif
