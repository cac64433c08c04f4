/* Configuration and counters of Filter; ports in filter.py. */

struct filter_config {
    const struct bpf_instruction *program; /* NULL: everything matches */
    bpf_fn code;                           /* the same, where there is machine code */
    struct connections *connections;       /* NULL: each packet by itself */
};

enum {
    FILTER_DROP_FILTERED,
    FILTER_PASSED_REPLY,
    FILTER_PASSED_RELATED,
    FILTER_CONNECTIONS,
    FILTER_UNTRACKED_TABLE_FULL,
    FILTER_UNTRACKED_OTHER_WORKER,
    FILTER_NCOUNTERS
};
extern const struct app_ops filter_ops;
