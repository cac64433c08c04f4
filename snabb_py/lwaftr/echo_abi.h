/* Answers to pings of our own addresses; see echo.c. */

/* Turn an untagged frame that is an echo request to our address into the reply.
 *
 * Args:      own: our addresses. In its compat mode neither the request's checksum nor
 *            who has sent it is looked at.
 *            counters: the LWAFTR_* of the app.
 * Returns:   true: it is the reply, to be sent out of the same side. False: it is
 *            something else, and unchanged.
 */
bool echo_ipv4(const struct neighbor_config *own, struct packet *packet,
               uint64_t *counters);
bool echo_ipv6(const struct neighbor_config *own, struct packet *packet,
               uint64_t *counters);
