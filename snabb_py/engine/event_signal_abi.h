/* Signals to eventfds that a stranger shares with us, a guest's monitor above all. */

struct event_signal {
    uint64_t context; /* of asynchronous I/O; 0: the system has none for us */
    int32_t null_fd;
    uint32_t reserved;
};

/* Before the first signal; null_fd is -1 until then. */
void event_signal_open(struct event_signal *signal);
void event_signal_close(struct event_signal *signal);
/* Signal an eventfd; waits for nobody, where there is asynchronous I/O. Any threads. */
void event_signal_send(const struct event_signal *signal, int fd);
