/* See idle_host_abi.h. Legacy receive descriptors keep their buffer's address, and
 * transmit descriptors all their contents: both can be used again as they are. */
#include "snabb_py/nic/model82599.h"

#include "snabb_py/nic/idle_host_abi.h"

/* All descriptors but one are the card's: a full ring would look empty. */
static uint32_t behind(uint32_t head, uint32_t n)
{
    return head == 0 ? n - 1 : head - 1;
}

static uint32_t idle_host_pull(struct app *app)
{
    struct idle_host *host = app->state;
    volatile uint32_t *registers = host->registers;
    if (host->receives)
        registers[REG_RDT / 4] = behind(registers[REG_RDH / 4], host->n);
    if (host->transmits)
        registers[REG_TDT / 4] = behind(registers[REG_TDH / 4], host->n);
    return 0;
}

const struct app_ops idle_host_ops = {.pull = idle_host_pull};
