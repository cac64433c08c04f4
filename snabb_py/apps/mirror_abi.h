/* Counters of Mirror; ports in mirror.py. */

enum { MIRROR_LOST, MIRROR_NO_PACKET, MIRROR_NCOUNTERS };
extern const struct app_ops mirror_ops;
