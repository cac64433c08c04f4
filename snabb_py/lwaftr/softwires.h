#ifndef SNABB_PY_LWAFTR_SOFTWIRES_H
#define SNABB_PY_LWAFTR_SOFTWIRES_H

#include "snabb_py/lwaftr/binding_table.h"
#include "snabb_py/lwaftr/text.h"

#include "snabb_py/lwaftr/softwires_abi.h"

_Static_assert(sizeof(struct softwire_entry) == 48, "no padding that is not named");

/* Room for an IPv4 address as text. */
struct ipv4_text {
    char s[16];
};
struct ipv4_text softwires_show(uint32_t ipv4);

struct ipv6_text {
    char s[46];
};
struct ipv6_text softwires_show_ipv6(const uint8_t *ipv6);

/* Whether an address is one of the softwires' ends here. */
bool softwires_has_br(const struct softwire_list *list, const uint8_t *address);

/* The index of an address of our own, made if it is new; -EINVAL, -ENOMEM with the error
 * set. */
int64_t softwires_intern_br(struct softwire_list *list, const uint8_t *br, uint64_t at,
                            struct text_error *error);

/* Append with `br` as it is. Returns 0 or -ENOMEM or -EINVAL with the error set. */
int softwires_append(struct softwire_list *list, const struct softwire_entry *entry,
                     struct text_error *error);

/* The slot of a softwire, by what it is, at its address: that of lookups if they may find
 * it. It is free, or there is one with the same address and PSID. */
const struct softwire *binding_table_slot(const struct binding_table *t,
                                          const struct binding_address *a,
                                          const struct softwire *s);

/* Sort the ranges. Returns 0, or -EINVAL with the error set if two overlap. */
int softwires_sort_ranges(struct softwire_list *list, struct text_error *error);

/* The range that an address is in, of sorted ones, or NULL. */
const struct softwire_range *softwires_find_range(const struct softwire_list *list,
                                                  uint32_t ipv4);

#endif
