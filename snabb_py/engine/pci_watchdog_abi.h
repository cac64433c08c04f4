/* A process that outlives ours for a moment and puts a PCI device to rest.
 *
 * A device that may write to memory goes on doing so when its driver has been killed,
 * into pages that the kernel gives to others. The watchdog is a child that waits for
 * our end, however it comes, and then clears the device's right to reach memory. When
 * all our files are closed it has the device reset and given back. Being forked, it
 * holds every shared mapping that we have at that time: packets and rings that were
 * mapped before it was started are given to nobody until it is done. Private memory is
 * copied on write while it lives, as after any fork.
 *
 * Source: PCI 3.0 specification, 6.2.2 (command register, bit 2: bus master).
 */

struct pci_watchdog_write {
    const char *path; /* of a file in sysfs */
    const char *text;
};

struct pci_watchdog {
    int config; /* file with the configuration space, open; -1: clear nothing */
    int lock;   /* a file that stays open, hence locked, until it is done; -1: none */
    uint32_t nwrites;
    const struct pci_watchdog_write *writes; /* thereafter, in order; failures pass */
};

/* Start one. The parameters may go when it returns. Returns its pid; -errno. `done` is
 * set to the file descriptor by which it is told that all is well. */
int pci_watchdog_start(const struct pci_watchdog *watchdog, int *done);
/* Tell it that there is nothing to do, wait for its end and close `done`. Only for the
 * process that started it. Returns 0, or -errno. */
int pci_watchdog_stop(int pid, int done);
