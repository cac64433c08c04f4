/* See idle_card_abi.h. */
#include "snabb_py/engine/engine.h"

#include "snabb_py/nic/idle_card_abi.h"

#define RX_DONE (1ull << 0 | 1ull << 1) /* DD, EOP (data sheet 7.1.6.2) */
#define TX_RS (1ull << 27)
#define TX_DD (1ull << 32)

static uint32_t idle_card_pull(struct app *app)
{
    struct idle_card *card = app->state;
    uint64_t done = RX_DONE | (uint64_t)card->length << 32;
    for (; card->rx_head != card->rx_tail;
         card->rx_head = (card->rx_head + 1) & (card->rx_n - 1)) {
        card->rx_ring[2 * card->rx_head] = 0;
        card->rx_ring[2 * card->rx_head + 1] = done;
    }
    for (; card->tx_head != card->tx_tail;
         card->tx_head = (card->tx_head + 1) & (card->tx_n - 1)) {
        uint64_t *high = &card->tx_ring[2 * card->tx_head + 1];
        if (*high & TX_RS)
            *high |= TX_DD;
    }
    return 0;
}

const struct app_ops idle_card_ops = {.pull = idle_card_pull};
