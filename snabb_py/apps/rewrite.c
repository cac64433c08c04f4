/* Rewrite: other addresses for packets, checksums kept. */
#include "snabb_py/engine/engine.h"
#include "snabb_py/engine/offload.h"
#include "snabb_py/engine/wire.h"

#include "snabb_py/apps/rewrite_abi.h"

static void rewrite_mac(uint8_t *mac, const struct rewrite_bits *bits)
{
    for (uint32_t i = 0; i < 6; i++)
        mac[i] = (uint8_t)((mac[i] & ~bits->mask[i]) | bits->value[i]);
}

/* Rewrite an address. Returns what to add to sums that cover it, to be right again: the
 * new words and the inverse of the old ones (RFC 1624, equation 3). */
static uint64_t rewrite_ip(uint8_t *address, const struct rewrite_bits *bits, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i += 4) {
        uint32_t old, value, mask;
        memcpy(&old, address + i, 4);
        memcpy(&value, bits->value + i, 4);
        memcpy(&mask, bits->mask + i, 4);
        value |= old & ~mask;
        memcpy(address + i, &value, 4);
        sum += (uint64_t)value + (uint32_t)~old;
    }
    return sum;
}

static void update(uint8_t *checksum, uint64_t change)
{
    uint16_t old;
    memcpy(&old, checksum, 2);
    uint16_t value = (uint16_t)~checksum_fold(change + (uint16_t)~old);
    memcpy(checksum, &value, 2);
}

/* The checksum of the layer above, which counts the addresses; in the first fragment of a
 * datagram it is that of all. */
static void update_above(uint8_t *frame, uint32_t length, const struct wire_ip *ip,
                         uint64_t change)
{
    uint32_t at = ip->protocol == WIRE_TCP                            ? TCP_CHECKSUM
                  : ip->protocol == WIRE_UDP                          ? UDP_CHECKSUM
                  : ip->protocol == WIRE_ICMPV6 && ip->version == 6 ? 2u
                                                                      : 0;
    bool is_later = ip->is_fragment &&
                    (ip->version == 4
                         ? load_be16(frame + ip->header + IPV4_FRAGMENT) & 0x1fff
                         : load_be16(frame + ip->payload - 6) & 0xfff8);
    if (at == 0 || is_later || !wire_has(length, ip->payload, at + 2))
        return;
    uint8_t *checksum = frame + ip->payload + at;
    if (ip->protocol == WIRE_UDP && load_be16(checksum) == 0)
        return; /* there is none (RFC 768) */
    update(checksum, change);
    if (ip->protocol == WIRE_UDP && load_be16(checksum) == 0)
        store_be16(checksum, 0xffff);
}

static void rewrite(const struct rewrite_config *config, uint8_t *frame, uint32_t length)
{
    struct wire_ip ip;
    if (length < WIRE_ETHERNET_SIZE)
        return;
    rewrite_mac(frame, &config->mac[REWRITE_DESTINATION]);
    rewrite_mac(frame + 6, &config->mac[REWRITE_SOURCE]);
    if (!wire_parse_ip(frame, length, &ip))
        return;
    bool is_ipv4 = ip.version == 4;
    const struct rewrite_bits *bits = is_ipv4 ? config->ipv4 : config->ipv6;
    uint32_t n = is_ipv4 ? 4 : 16;
    uint64_t change = rewrite_ip(frame + ip.source, &bits[REWRITE_SOURCE], n) +
                      rewrite_ip(frame + ip.destination, &bits[REWRITE_DESTINATION], n);
    /* A sum that is right or wrong stays so; one that nothing changes keeps its zero. */
    if (checksum_fold(change) == 0xffff || change == 0)
        return;
    if (is_ipv4)
        update(frame + ip.header + IPV4_CHECKSUM, change);
    update_above(frame, length, &ip, change);
}

static uint32_t rewrite_push(struct app *app)
{
    struct link *in = app->input[0], *out = app->output[0];
    uint32_t n = min_u32(link_readable(in), link_writable(out));
    for (uint32_t i = 0; i < n; i++) {
        struct packet *packet = *link_slot(in, in->read + i);
        rewrite(app->config, packet->data, packet->length);
    }
    return link_move(in, out, n);
}

const struct app_ops rewrite_ops = {.push = rewrite_push};
