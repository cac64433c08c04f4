/* The software 82599: registers with their side effects, configuration space, reset,
 * time, and the app that is its wire.
 *
 * Most registers only remember; the table in registers.py says which bits. Here is what
 * the others do. Everything a host can do wrong is a counter.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "snabb_py/engine/offload.h"
#include "snabb_py/nic/model82599.h"
#include "snabb_py/nic/model_lock.h"

enum {
    CTRL_LRST = 1 << 3,
    CTRL_RST = 1 << 26,
    STATUS_LINKUP = 1 << 7,
    STATUS_GIO_MASTER = 1 << 19,
    ESDP_SDP2 = 1 << 2,
    AUTOC_FLU = 1 << 0,
    AUTOC_AN_RESTART = 1 << 12,
    AUTOC_LMS_SHIFT = 13,
    HLREG0_LPBK = 1 << 15,
    LINKS_UP = 1 << 30,
    LINKS_KX_AN_COMPLETE = 1u << 31,
    LINKS_10G = 3 << 28,
    LINKS_1G = 2 << 28,
    LINKS_SIGNAL = 0xf00,
    ANLP1_STATE = 1 << 16,
    PCS1GLSTA_UP = 1 << 0 | 1 << 4,
    PCS1GLSTA_AN_DONE = 1 << 16,
    XDCTL_ENABLE = 1 << 25,
    XDCTL_SWFLSH = 1 << 26,
    RDRXCTL_DMAIDONE = 1 << 3,
    SEC_DISABLE = 1 << 1, /* SECRXCTRL.RX_DIS, SECTXCTRL.TX_DIS */
    QDE_ENABLE = 1 << 0,
    QDE_WRITE = 1 << 16,
    QDE_READ = 1 << 17,
    FDIRCTRL_INIT_DONE = 1 << 3,
    EICR_LSC = 1 << 20
};

/* Of frames on a wire that waits: half of the packet buffer, and a super-frame more. */
enum { WAITS_BYTES = 256 << 10 };

enum { /* configuration space */
    CONFIG_PM_CONTROL = 0x44,
    PM_STATE = 3,
    CONFIG_DEVICE_CONTROL = 0xa8,
    DEVICE_CONTROL_FLR = 1 << 15
};

/* ---- state --------------------------------------------------------------- */

/* Speeds by AUTOC.LMS (8.2.3.22.19): 1G without and with negotiation are 0 and 2. */
static uint32_t link_speed(const struct model_card *card)
{
    uint32_t mode = get(card, REG_AUTOC) >> AUTOC_LMS_SHIFT & 7;
    return mode == 0 || mode == 2 ? LINKS_1G : LINKS_10G;
}

/* A loop inside of the card needs no cable. */
bool model_link_is_up(const struct model_card *card)
{
    return (card->plugged && card->phy.i2c.present) || get(card, REG_AUTOC) & AUTOC_FLU ||
           get(card, REG_HLREG0) & HLREG0_LPBK;
}

static uint32_t read_links(const struct model_card *card)
{
    uint32_t value = link_speed(card);
    if (model_link_is_up(card))
        value |= LINKS_UP | LINKS_KX_AN_COMPLETE | LINKS_SIGNAL;
    return value;
}

uint64_t model_now(const struct model_card *card)
{
    return __atomic_load_n(&card->armed, __ATOMIC_RELAXED) ? engine_now() : card->now;
}

/* ---- reset --------------------------------------------------------------- */

static bool is_statistic(const struct model_card *card, uint32_t i)
{
    return card->access[i] == REGISTER_RC || card->access[i] >= REGISTER_PAIR_LOW;
}

/* What CTRL.RST does: all but the PCI side and the statistics (4.2.1.6). */
static void reset_registers(struct model_card *card, bool statistics)
{
    for (uint32_t i = 0; i < MODEL_NREGISTERS; i++)
        if (statistics || !is_statistic(card, i))
            card->registers[i] = card->reset[i];
    *reg(card, REG_RAL) = card->mac[0] | (uint32_t)card->mac[1] << 8 |
                          (uint32_t)card->mac[2] << 16 | (uint32_t)card->mac[3] << 24;
    *reg(card, REG_RAH) = card->mac[4] | (uint32_t)card->mac[5] << 8 | 1u << 31;
    *reg(card, REG_MPSAR_LO) = 1; /* the EEPROM's address is pool 0's */
    memset(card->rx, 0, sizeof(card->rx));
    memset(card->tx, 0, sizeof(card->tx));
    memset(card->rx_enabled, 0, sizeof(card->rx_enabled));
    memset(card->tx_enabled, 0, sizeof(card->tx_enabled));
    memset(card->rx_causes, 0, sizeof(card->rx_causes));
    memset(card->tx_causes, 0, sizeof(card->tx_causes));
    card->paused_until = 0;
    card->xoff_sent = false;
    card->negotiated = false;
    card->fifo_flush = true;
    card->rss_stale = true;
    card->born = model_now(card);
    receive_filters_changed(card);
    interrupt_reset(card);
    phy_reset(&card->phy);
    count(card, MODEL_RESETS);
}

static void reset_function(struct model_card *card)
{
    reset_registers(card, true);
    phy_reset_function(&card->phy);
    memcpy(card->config, card->config_reset, sizeof(card->config));
    memset(card->msix, 0, sizeof(card->msix));
}

/* ---- queues -------------------------------------------------------------- */

/* Of the queue that a register at `offset` of a receive block belongs to. */
static uint32_t rx_queue_of(uint32_t offset)
{
    return offset < REG_RDBAL_HIGH ? (offset - REG_RDBAL) / 0x40
                                   : 64 + (offset - REG_RDBAL_HIGH) / 0x40;
}

static bool is_rx_block(uint32_t offset)
{
    return (offset >= REG_RDBAL && offset < REG_RDBAL + 64 * 0x40) ||
           (offset >= REG_RDBAL_HIGH && offset < REG_RDBAL_HIGH + 64 * 0x40);
}

static bool is_tx_block(uint32_t offset)
{
    return offset >= REG_TDBAL && offset < REG_TDBAL + MODEL_NQUEUES * 0x40;
}

static void write_rxdctl(struct model_card *card, uint32_t offset, uint32_t value)
{
    uint32_t queue = rx_queue_of(offset);
    bool on = value & XDCTL_ENABLE, was = has_bit(card->rx_enabled, queue);
    *reg(card, offset) = value & card->mask[offset / 4] & ~(uint32_t)XDCTL_SWFLSH;
    struct model_rx_queue *rx = &card->rx[queue];
    rx->known = false; /* VME may change while it runs */
    if (on && !was) {
        rx->head = get(card, rx_register(REG_RDH, queue));
        rx->bad_tail = 0;
    }
    set_bit(card->rx_enabled, queue, on);
}

static void write_txdctl(struct model_card *card, uint32_t offset, uint32_t value)
{
    uint32_t queue = (offset - REG_TXDCTL) / 0x40;
    bool on = value & XDCTL_ENABLE, was = has_bit(card->tx_enabled, queue);
    *reg(card, offset) = value & card->mask[offset / 4] & ~(uint32_t)XDCTL_SWFLSH;
    if (on && !was) {
        struct model_tx_queue *tx = &card->tx[queue];
        uint32_t rate = tx->rate, weight = tx->weight;
        *tx = (struct model_tx_queue){
            .head = get(card, tx_register(REG_TDH, queue)), .rate = rate, .weight = weight};
    }
    set_bit(card->tx_enabled, queue, on);
}

/* Returns true when the register is a queue's and needs more than to be remembered. What
 * was learnt of a queue is forgotten, unless it is a doorbell. */
static bool write_queue(struct model_card *card, uint32_t offset, uint32_t value)
{
    uint32_t within = offset % 0x40;
    if (is_rx_block(offset)) {
        if (within == REG_RXDCTL % 0x40) {
            write_rxdctl(card, offset, value);
            return true;
        }
        if (within != REG_RDT % 0x40)
            card->rx[rx_queue_of(offset)].known = false;
        /* The head is the card's while it runs. */
        return within == REG_RDH % 0x40 && has_bit(card->rx_enabled, rx_queue_of(offset));
    }
    if (is_tx_block(offset)) {
        if (within == REG_TXDCTL % 0x40) {
            write_txdctl(card, offset, value);
            return true;
        }
        if (within != REG_TDT % 0x40)
            card->tx[(offset - REG_TDBAL) / 0x40].mapping = 0;
        return within == REG_TDH % 0x40 &&
               has_bit(card->tx_enabled, (offset - REG_TDH) / 0x40);
    }
    return false;
}

/* ---- registers ----------------------------------------------------------- */

static uint32_t read_generic(struct model_card *card, uint32_t offset)
{
    uint32_t value = get(card, offset);
    switch (card->access[offset / 4]) {
    case REGISTER_ABSENT:
        return 0;
    case REGISTER_RC:
        *reg(card, offset) = 0;
        return value;
    case REGISTER_PAIR_HIGH:
        *reg(card, offset) = 0;
        *reg(card, offset - 4) = 0;
        return value;
    default:
        return value;
    }
}

static void write_generic(struct model_card *card, uint32_t offset, uint32_t value)
{
    uint32_t mask = card->mask[offset / 4], *target = reg(card, offset);
    switch (card->access[offset / 4]) {
    case REGISTER_RW:
        __atomic_store_n(target, (*target & ~mask) | (value & mask), __ATOMIC_RELEASE);
        break;
    case REGISTER_W1C:
        *target &= ~(value & mask);
        break;
    default:
        break;
    }
}

/* Pending bits in BAR 4, by their registers: the first two of PBACL have any. NULL: it
 * is none of them. */
static uint8_t *pending_bits(struct model_card *card, uint32_t offset)
{
    uint32_t at = offset - REG_PBACL;
    return at < MODEL_NVECTORS / 8 ? card->msix + MODEL_MSIX_PBA + at : NULL;
}

/* PFQDE: reads and writes the drop bit of a queue through one register (8.2.3.27.9). */
static void write_qde(struct model_card *card, uint32_t value)
{
    struct model_rx_queue *queue = &card->rx[value >> 8 & 0x7f];
    queue->known = false;
    if (value & QDE_WRITE)
        queue->qde = value & QDE_ENABLE;
    if (value & QDE_READ)
        value = (value & ~(uint32_t)QDE_ENABLE) | queue->qde;
    write_generic(card, REG_PFQDE, value);
}

static uint32_t read_register(struct model_card *card, uint32_t offset)
{
    uint32_t value;
    offset = card->alias[offset / 4];
    const uint8_t *pending = pending_bits(card, offset);
    if (pending) {
        memcpy(&value, pending, sizeof(value));
        return value;
    }
    if (phy_read(&card->phy, offset, &value) || interrupt_read(card, offset, &value))
        return value;
    switch (offset) {
    case REG_STATUS:
        value = get(card, REG_STATUS) & ~(uint32_t)(STATUS_GIO_MASTER | STATUS_LINKUP);
        if (!(get(card, REG_CTRL) & CTRL_GIO_DIS)) /* DMA never lags behind */
            value |= STATUS_GIO_MASTER;
        return value | (model_link_is_up(card) ? STATUS_LINKUP : 0);
    case REG_FRTIMER:
        return (uint32_t)((model_now(card) - card->born) / 1000);
    case REG_LINKS:
        return read_links(card);
    case REG_ESDP:
        value = get(card, offset) & ~(uint32_t)ESDP_SDP2;
        return value | (card->phy.i2c.present ? ESDP_SDP2 : 0);
    case REG_ANLP1: /* our state, not the partner's: it moves without a cable too */
        return card->negotiated ? ANLP1_STATE : 0;
    case REG_PCS1GLSTA:
        return model_link_is_up(card) ? PCS1GLSTA_UP | PCS1GLSTA_AN_DONE : 0;
    case REG_RDRXCTL:
        return get(card, offset) | RDRXCTL_DMAIDONE;
    case REG_SECRXSTAT:
        return get(card, offset) | !!(get(card, REG_SECRXCTRL) & SEC_DISABLE);
    case REG_SECTXSTAT:
        return get(card, offset) | !!(get(card, REG_SECTXCTRL) & SEC_DISABLE);
    case REG_TFCS:
        return card->now * MODEL_BITS_PER_NS < card->paused_until;
    case REG_RTTBCNRC:
        return card->tx[get(card, REG_RTTDQSEL) % MODEL_NQUEUES].rate;
    case REG_RTTDT1C:
        return card->tx[get(card, REG_RTTDQSEL) % MODEL_NQUEUES].weight;
    default:
        return read_generic(card, offset);
    }
}

static bool is_filter(uint32_t offset)
{
    return offset == REG_FCTRL || offset == REG_VLNCTRL || offset == REG_MCSTCTRL ||
           offset == REG_PFVTCTL || offset == REG_MRQC || offset == REG_PFVFRE ||
           offset == REG_PFVFRE + 4 || (offset >= REG_MTA && offset < REG_MTA + 512) ||
           (offset >= REG_VFTA && offset < REG_MPSAR_LO + 1024) ||
           (offset >= REG_PFVML2FLT && offset < REG_PFMRVM + 32);
}

static void restart_link(struct model_card *card)
{
    card->negotiated = true;
    if (model_link_is_up(card))
        interrupt_other(card, EICR_LSC);
}

static void write_register(struct model_card *card, uint32_t offset, uint32_t value)
{
    offset = card->alias[offset / 4];
    if (phy_write(&card->phy, offset, value) || interrupt_write(card, offset, value) ||
        write_queue(card, offset, value))
        return;
    uint8_t *pending = pending_bits(card, offset);
    if (pending) {
        uint32_t bits;
        memcpy(&bits, pending, sizeof(bits));
        bits &= ~value;
        memcpy(pending, &bits, sizeof(bits));
        return;
    }
    switch (offset) {
    case REG_CTRL:
        /* GIO_DIS goes with the reset: drivers leave it set beside RST. */
        if (value & (CTRL_RST | CTRL_LRST))
            reset_registers(card, false);
        else
            write_generic(card, offset, value);
        return;
    case REG_AUTOC:
        if (value & AUTOC_AN_RESTART)
            restart_link(card);
        break;
    case REG_PFQDE:
        write_qde(card, value);
        return;
    case REG_RTTBCNRC:
        card->tx[get(card, REG_RTTDQSEL) % MODEL_NQUEUES].rate =
            value & card->mask[offset / 4];
        return;
    case REG_RTTDT1C:
        card->tx[get(card, REG_RTTDQSEL) % MODEL_NQUEUES].weight =
            value & card->mask[offset / 4];
        return;
    case REG_FDIRCTRL:
        write_generic(card, offset, value);
        *reg(card, offset) |= FDIRCTRL_INIT_DONE;
        return;
    default:
        break;
    }
    write_generic(card, offset, value);
    if (offset >= REG_RQSMR && offset < REG_RQSMR + 32 * 4)
        for (uint32_t i = 0; i < 4; i++)
            card->rx[offset - REG_RQSMR + i].known = false;
    if (is_filter(offset))
        receive_filters_changed(card);
    else if (offset >= REG_RSSRK && offset < REG_RSSRK + 40)
        card->rss_stale = true;
}

/* ---- from outside -------------------------------------------------------- */

/* Let a sleeping worker look; called with the lock. */
static void ring(struct model_card *card)
{
    card->touched = true;
    if (!__atomic_exchange_n(&card->armed, 0, __ATOMIC_RELAXED))
        return;
    const struct itimerspec at_once = {.it_value = {.tv_nsec = 1}};
    timerfd_settime(card->timer_fd, TFD_TIMER_ABSTIME, &at_once, NULL);
}

static bool is_register(struct model_card *card, uint32_t offset)
{
    if (offset % 4 == 0 && offset < MODEL_BAR_SIZE)
        return true;
    count(card, offset % 4 ? MODEL_MMIO_BAD_SIZE : MODEL_MMIO_OUTSIDE);
    return false;
}

uint32_t model_read(struct model_card *card, uint32_t offset)
{
    model_lock(card);
    uint32_t value = is_register(card, offset) ? read_register(card, offset) : 0;
    model_unlock(card);
    return value;
}

void model_write(struct model_card *card, uint32_t offset, uint32_t value)
{
    model_lock(card);
    if (is_register(card, offset))
        write_register(card, offset, value);
    ring(card);
    model_unlock(card);
}

/* BAR 0. The chip has 32-bit registers: narrow reads take their part of one, narrow
 * writes are ignored. */
static void access_registers(struct model_card *card, uint32_t offset, uint8_t *data,
                             uint32_t n, bool is_write)
{
    if (n < 4 && is_write) {
        count(card, MODEL_MMIO_BAD_SIZE);
        return;
    }
    for (uint32_t i = 0; i < n; i += 4) {
        uint32_t value = 0, at = (offset + i) & ~3u, part = offset % 4;
        if (is_write) {
            memcpy(&value, data + i, 4);
            write_register(card, at, value);
        } else {
            value = read_register(card, at);
            memcpy(data + i, (uint8_t *)&value + part, min_u32(n, 4));
        }
    }
}

/* BAR 2: an address, and the register there (IOADDR, IODATA). */
static void access_io(struct model_card *card, uint32_t offset, uint8_t *data, uint32_t n,
                      bool is_write)
{
    memset(data, 0, is_write ? 0 : n);
    if (n != 4 || offset > 4) {
        count(card, MODEL_MMIO_BAD_SIZE);
    } else if (offset == 0) {
        memcpy(is_write ? (void *)&card->io_address : data,
               is_write ? data : (void *)&card->io_address, 4);
    } else if (card->io_address % 4 || card->io_address >= MODEL_BAR_SIZE) {
        count(card, MODEL_MMIO_OUTSIDE);
    } else {
        access_registers(card, card->io_address, data, 4, is_write);
    }
}

static void write_config(struct model_card *card, uint32_t offset, const uint8_t *data,
                         uint32_t n)
{
    uint32_t state = card->config[CONFIG_PM_CONTROL] & PM_STATE;
    const uint32_t flr = CONFIG_DEVICE_CONTROL + 1; /* the byte; it is not kept */
    bool reset = offset <= flr && flr - offset < n &&
                 data[flr - offset] & DEVICE_CONTROL_FLR >> 8;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t mask = card->config_mask[offset + i], *byte = &card->config[offset + i];
        *byte = (uint8_t)((*byte & ~mask) | (data[i] & mask));
    }
    if (reset) {
        reset_function(card);
    } else if (state == 3 && !(card->config[CONFIG_PM_CONTROL] & PM_STATE)) {
        reset_registers(card, true); /* D3hot to D0 (5.2.5.4) */
    }
}

/* Regions are checked by bytes, as a hostile host counts them. */
int model_access(struct model_card *card, uint32_t region, uint64_t offset, uint8_t *data,
                 uint32_t n, int is_write)
{
    uint64_t size = region == MODEL_BAR0     ? MODEL_BAR_SIZE
                    : region == MODEL_BAR2   ? MODEL_IO_SIZE
                    : region == MODEL_BAR4   ? MODEL_MSIX_SIZE
                    : region == MODEL_CONFIG ? MODEL_CONFIG_SIZE
                                             : 0;
    bool is_sized = n == 1 || n == 2 || n == 4 || n == 8;
    int result = 0;
    model_lock(card);
    if (offset > size || n > size - offset) {
        count(card, MODEL_MMIO_OUTSIDE);
        result = -EINVAL;
    } else if (region != MODEL_CONFIG && (!is_sized || offset % n)) {
        count(card, MODEL_MMIO_BAD_SIZE);
        result = -EINVAL;
    } else if (region == MODEL_BAR0) {
        access_registers(card, (uint32_t)offset, data, n, is_write);
    } else if (region == MODEL_BAR2) {
        access_io(card, (uint32_t)offset, data, n, is_write);
    } else if (region == MODEL_CONFIG && is_write) {
        write_config(card, (uint32_t)offset, data, n);
    } else {
        uint8_t *memory = (region == MODEL_CONFIG ? card->config : card->msix) + offset;
        memcpy(is_write ? memory : data, is_write ? data : memory, n);
    }
    ring(card);
    model_unlock(card);
    return result;
}

volatile uint32_t *model_registers(struct model_card *card)
{
    model_lock(card);
    card->polled = true;
    ring(card);
    model_unlock(card);
    return card->registers;
}

void model_reset(struct model_card *card)
{
    model_lock(card);
    reset_function(card);
    ring(card);
    model_unlock(card);
}

static bool is_interrupt(uint32_t index, uint32_t vector)
{
    return index <= MODEL_MSIX && vector < (index == MODEL_MSIX ? MODEL_NVECTORS : 1);
}

void model_set_interrupt(struct model_card *card, uint32_t index, uint32_t vector, int fd)
{
    if (!is_interrupt(index, vector))
        return;
    model_lock(card);
    if (fd >= 0)
        event_signal_open(&card->signal);
    card->interrupt_fd[index][vector] = fd;
    if (index == MODEL_INTX)
        card->intx_masked = false;
    ring(card);
    model_unlock(card);
}

void model_trigger(struct model_card *card, uint32_t index, uint32_t vector)
{
    if (!is_interrupt(index, vector))
        return;
    model_lock(card);
    if (card->interrupt_fd[index][vector] >= 0)
        event_signal_send(&card->signal, card->interrupt_fd[index][vector]);
    model_unlock(card);
}

void model_unmask_intx(struct model_card *card)
{
    model_lock(card);
    card->intx_masked = false;
    ring(card);
    model_unlock(card);
}

void model_set_cable(struct model_card *card, int plugged)
{
    model_lock(card);
    card->plugged = plugged;
    ring(card);
    model_unlock(card);
}

void model_get_counters(struct model_card *card, uint64_t *counters)
{
    model_lock(card);
    memcpy(counters, card->counters, sizeof(card->counters));
    model_unlock(card);
}

/* ---- birth and death ----------------------------------------------------- */

struct model_card *model_new(const struct model_identity *identity)
{
    struct model_card *card = calloc(1, sizeof(*card));
    if (!card)
        return NULL;
    card->signal.null_fd = -1;
    card->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    card->fifo = calloc(MODEL_FIFO_ENTRIES, sizeof(*card->fifo));
    card->rss_table = calloc(36, sizeof(*card->rss_table));
    card->scratch = malloc(MODEL_SCRATCH);
    if (card->timer_fd < 0 || !card->fifo || !card->rss_table || !card->scratch) {
        model_free(card);
        return NULL;
    }
    memcpy(card->access, identity->access, sizeof(card->access));
    memcpy(card->alias, identity->alias, sizeof(card->alias));
    memcpy(card->reset, identity->reset, sizeof(card->reset));
    memcpy(card->mask, identity->mask, sizeof(card->mask));
    memcpy(card->config, identity->config, sizeof(card->config));
    memcpy(card->config_reset, identity->config, sizeof(card->config_reset));
    memcpy(card->config_mask, identity->config_mask, sizeof(card->config_mask));
    memcpy(card->mac, identity->mac, sizeof(card->mac));
    memset(card->interrupt_fd, -1, sizeof(card->interrupt_fd));
    card->unpaced = identity->unpaced;
    card->waits = identity->waits;
    card->one_by_one = identity->one_by_one;
    card->mapping = 1;
    card->plugged = card->was_up = true;
    phy_init(&card->phy, identity->eeprom, identity->sfp);
    reset_registers(card, true);
    card->counters[MODEL_RESETS] = 0;
    return card;
}

void model_free(struct model_card *card)
{
    if (!card)
        return;
    model_unmap_all(card);
    event_signal_close(&card->signal);
    if (card->timer_fd >= 0)
        close(card->timer_fd);
    free(card->regions);
    free(card->fifo);
    free(card->rss_table);
    free(card->scratch);
    free(card);
}

/* ---- the app ------------------------------------------------------------- */

/* Begin a step: time has passed. */
static void begin_step(struct model_card *card, struct app *app)
{
    card->step++;
    card->armed = 0; /* the timer is not read: the next one set clears it */
    card->now = app->worker->now > card->now ? app->worker->now : card->now;
    if (unlikely(card->fifo_flush)) {
        card->counters[MODEL_DROP_RX_DISABLED] += fifo_waiting(card);
        receive_flush(card, app->worker->freelist);
    }
    bool up = model_link_is_up(card);
    if (unlikely(up != card->was_up)) {
        card->was_up = up;
        interrupt_other(card, EICR_LSC);
    }
}

/* The card's side of a breath: what waits, what it sends, what it says. */
static uint32_t model_pull(struct app *app)
{
    struct model_card *card = app->state;
    struct freelist *freelist = app->worker->freelist;
    struct link *out = app->output[0];
    struct model_tally sent = {0};
    model_lock(card);
    card->last = card->now ? card->now : app->worker->now;
    begin_step(card, app);
    card->touched = false;
    uint32_t moved = receive_waiting(card, freelist);
    moved += transmit_step(card, freelist, out, &sent);
    moved += receive_flow_control(card, freelist, out, &sent);
    if (sent.packets)
        transmit_count(card, &sent);
    receive_settle(card);
    interrupt_step(card);
    model_unlock(card);
    return moved;
}

/* A frame as it is on the wire: finished, and filled up to what the wire carries. What
 * another stack has left unfinished is finished here, as its own card would have. */
static void arrive(struct model_card *card, struct freelist *freelist,
                   struct packet *packet, struct model_tally *received)
{
    struct packet *segments[SEGMENTS_MAX];
    if (unlikely(get(card, REG_HLREG0) & HLREG0_LPBK)) {
        /* The receiver listens to the transmitter, not to the wire. */
        count(card, MODEL_DROP_RX_LINK_DOWN);
        packet_free(freelist, packet);
        return;
    }
    if (likely(packet_is_plain(packet))) {
        receive_frame(card, freelist, packet, received);
        return;
    }
    if (packet->gso_type == PACKET_GSO_NONE) {
        if (packet_finish_checksum(packet)) {
            receive_frame(card, freelist, packet, received);
            return;
        }
    } else {
        int n = packet_segment(freelist, packet, segments, SEGMENTS_MAX);
        if (n > 0) {
            for (int i = 0; i < n; i++)
                receive_frame(card, freelist, segments[i], received);
            packet_free(freelist, packet);
            return;
        }
    }
    count(card, MODEL_DROP_RX_BAD_OFFLOAD);
    packet_free(freelist, packet);
}

/* How many of n frames fit into an empty packet buffer, one at least. */
static uint32_t fits_buffer(const struct link *in, uint32_t n)
{
    uint32_t bytes = 0, i = 0;
    for (; i < n && bytes < WAITS_BYTES; i++)
        bytes += in->ring[(in->read + i) % LINK_CAPACITY]->length;
    return i;
}

static uint32_t model_push(struct app *app)
{
    struct model_card *card = app->state;
    struct freelist *freelist = app->worker->freelist;
    struct link *in = app->input[0];
    uint32_t n = in ? link_readable(in) : 0;
    if (n == 0 || (card->waits && fifo_waiting(card)))
        return 0;
    struct packet *burst[LINK_CAPACITY];
    struct model_tally received = {0};
    if (card->waits)
        n = fits_buffer(in, n);
    n = link_receive_burst(in, burst, n);
    model_lock(card);
    begin_step(card, app);
    bool plain = receive_is_plain(card) && !card->one_by_one;
    for (uint32_t i = 0; i < n;) {
        if (likely(plain && !fifo_waiting(card)))
            i += burst_receive(card, freelist, &burst[i], n - i, &received);
        if (unlikely(i < n))
            arrive(card, freelist, burst[i++], &received);
    }
    receive_count(card, &received);
    receive_settle(card);
    interrupt_step(card);
    model_unlock(card);
    return n;
}

static uint32_t model_retire(struct app *app)
{
    struct model_card *card = app->state;
    model_lock(card);
    uint32_t n = fifo_waiting(card);
    receive_flush(card, app->worker->freelist);
    model_unlock(card);
    return n;
}

static uint32_t model_held(const struct app *app)
{
    const struct model_card *card = app->state;
    return fifo_waiting(card);
}

/* Counters go where everybody can see them. */
static void model_tick(struct app *app)
{
    struct model_card *card = app->state;
    model_get_counters(card, app->counters);
}

static int model_arm(struct app *app, struct wake *wake)
{
    struct model_card *card = app->state;
    struct link *out = app->output[0];
    int answer = ARM_READY;
    model_lock(card);
    uint64_t next = interrupt_next(card), send = transmit_next(card);
    if (!out || link_writable(out))
        next = send < next ? send : next;
    if (card->polled) {
        answer = ARM_NEVER;
    } else if (card->touched || next <= card->now) {
        answer = ARM_BUSY;
    } else {
        struct itimerspec at = {{0, 0}, {0, 0}};
        if (next != UINT64_MAX) {
            at.it_value.tv_sec = (time_t)(next / 1000000000);
            at.it_value.tv_nsec = (long)(next % 1000000000);
        }
        timerfd_settime(card->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
        card->armed = 1;
        *wake = (struct wake){.fd = card->timer_fd, .events = POLLIN};
    }
    model_unlock(card);
    return answer;
}

const struct app_ops model82599_ops = {
    .pull = model_pull,
    .push = model_push,
    .tick = model_tick,
    .retire = model_retire,
    .arm = model_arm,
    .held = model_held,
};
