/* The card's lock: tickets. A thread that waits gets its turn even beside a worker that
 * takes the lock again at once; held for microseconds. */
#ifndef SNABB_PY_NIC_MODEL_LOCK_H
#define SNABB_PY_NIC_MODEL_LOCK_H

#include <sched.h>

#include "snabb_py/nic/model82599.h"

static inline void model_lock(struct model_card *card)
{
    uint32_t ticket = __atomic_fetch_add(&card->next_ticket, 1, __ATOMIC_RELAXED);
    for (uint32_t i = 0;
         __atomic_load_n(&card->now_serving, __ATOMIC_ACQUIRE) != ticket; i++) {
        /* On one CPU the holder cannot go on before we let go. */
        if (i >= 64)
            sched_yield();
#if defined(__x86_64__)
        else
            __builtin_ia32_pause();
#endif
    }
}

static inline void model_unlock(struct model_card *card)
{
    __atomic_store_n(&card->now_serving, card->now_serving + 1, __ATOMIC_RELEASE);
}

#endif
