/* What an 82599's rings are made of, for the driver and for what fills them otherwise. */
#ifndef SNABB_PY_NIC_INTEL82599_RING_H
#define SNABB_PY_NIC_INTEL82599_RING_H

#include "snabb_py/engine/engine.h"

#include "snabb_py/nic/intel82599_abi.h"

/* Transmit, second word (7.2.3.2). */
#define TX_CONTEXT (2ull << 20)
#define TX_DATA (3ull << 20)
#define TX_EOP (1ull << 24)
#define TX_IFCS (1ull << 25)
#define TX_RS (1ull << 27)
#define TX_DEXT (1ull << 29)
#define TX_TSE (1ull << 31)
#define TX_DD (1ull << 32)
#define TX_IDX (1ull << 36) /* context 1; context 0 is the queue's own, for CC */
#define TX_CC (1ull << 39)
#define TX_IXSM (1ull << 40)
#define TX_TXSM (1ull << 41)

/* The second word of a frame that one descriptor holds, sent as it is. */
static inline uint64_t tx_frame(const struct intel82599_tx *tx, uint32_t length)
{
    return length | TX_DATA | TX_EOP | TX_IFCS | TX_DEXT | tx->command |
           (uint64_t)length << 46;
}

/* Move the tail. The fence keeps descriptors in front of it: the card may read them as
 * soon as it sees it. */
static inline void write_tail(volatile uint32_t *tail, uint32_t at)
{
    __atomic_thread_fence(__ATOMIC_RELEASE);
    *tail = at;
}

/* The app's operations, for a queue that is not its whole state. */
uint32_t intel82599_receive(struct intel82599_queue *queue, struct app *app);
void intel82599_show(const struct intel82599_queue *queue, struct app *app);

#endif
