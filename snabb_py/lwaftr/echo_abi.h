/* Answers to pings of our own addresses; see echo.c. */

/* Turn an untagged frame that is an echo request to an own address into the reply.
 *
 * Args:      ip: the own address, 4 or 16 bytes.
 *            compat: as Snabb has it, checksums and source address of requests are not
 *            looked at.
 *            counters: the LWAFTR_* of the app.
 * Returns:   true: it is the reply, to be sent out of the same side. False: it is
 *            something else, and unchanged.
 */
bool echo_ipv4(struct packet *packet, const uint8_t *ip, bool compat,
               uint64_t *counters);
bool echo_ipv6(struct packet *packet, const uint8_t *ip, bool compat,
               uint64_t *counters);
