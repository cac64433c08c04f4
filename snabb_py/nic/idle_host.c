/* See idle_host_abi.h. */
#include "snabb_py/nic/model82599.h"

#include "snabb_py/nic/idle_host_abi.h"

_Static_assert(sizeof(((struct idle_host *)0)->posted) ==
                   IDLE_HOST_QUEUES * sizeof(uint32_t),
               "a tail each");

/* All descriptors but one are the card's: a full ring would look empty. */
static uint32_t behind(uint32_t head, uint32_t n)
{
    return head == 0 ? n - 1 : head - 1;
}

/* A write-back overwrites the address of the buffer: a driver writes it anew. */
static void post(struct idle_host *host, uint32_t queue)
{
    volatile uint32_t *registers = host->registers;
    uint32_t first = queue * host->n, at = host->posted[queue];
    uint32_t tail = behind(registers[rx_register(REG_RDH, queue) / 4], host->n);
    if (at == tail)
        return;
    uint32_t end = tail < at ? host->n : tail;
    memcpy(&host->rings[first + at], &host->fresh[first + at],
           (end - at) * sizeof(*host->rings));
    if (tail < at)
        memcpy(&host->rings[first], &host->fresh[first], tail * sizeof(*host->rings));
    host->posted[queue] = tail;
    __atomic_store_n(&registers[rx_register(REG_RDT, queue) / 4], tail, __ATOMIC_RELEASE);
}

/* Transmit descriptors keep all their contents: they can be sent again as they are. */
static uint32_t idle_host_pull(struct app *app)
{
    struct idle_host *host = app->state;
    volatile uint32_t *registers = host->registers;
    for (uint32_t queue = 0; host->receives && queue < host->nqueues; queue++)
        post(host, queue);
    /* As many as other apps bring in at once: more would not find room in the cache. */
    if (host->transmits)
        registers[REG_TDT / 4] =
            (registers[REG_TDH / 4] + min_u32(app->worker->burst, host->n - 1)) % host->n;
    return 0;
}

const struct app_ops idle_host_ops = {.pull = idle_host_pull};
