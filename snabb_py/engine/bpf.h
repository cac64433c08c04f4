#ifndef SNABB_PY_ENGINE_BPF_H
#define SNABB_PY_ENGINE_BPF_H

#include <stddef.h>
#include <stdint.h>

#include "snabb_py/engine/bpf_abi.h"

_Static_assert(sizeof(struct bpf_instruction) == 8, "libpcap's layout");

enum {                  /* bpf_instruction.code, by parts; as in libpcap */
    BPF_CLASS = 0x07,   /* what kind of instruction */
    BPF_LD = 0x00,
    BPF_LDX = 0x01,
    BPF_ST = 0x02,
    BPF_STX = 0x03,
    BPF_ALU = 0x04,
    BPF_JMP = 0x05,
    BPF_RET = 0x06,
    BPF_MISC = 0x07,
    BPF_W = 0x00,       /* of a load: bytes */
    BPF_H = 0x08,
    BPF_B = 0x10,
    BPF_IMM = 0x00,     /* of a load: from where */
    BPF_ABS = 0x20,
    BPF_IND = 0x40,
    BPF_MEM = 0x60,
    BPF_LEN = 0x80,
    BPF_MSH = 0xa0,
    BPF_ADD = 0x00,     /* of arithmetic */
    BPF_SUB = 0x10,
    BPF_MUL = 0x20,
    BPF_DIV = 0x30,
    BPF_OR = 0x40,
    BPF_AND = 0x50,
    BPF_LSH = 0x60,
    BPF_RSH = 0x70,
    BPF_NEG = 0x80,
    BPF_MOD = 0x90,
    BPF_XOR = 0xa0,
    BPF_JA = 0x00,      /* of a jump */
    BPF_JEQ = 0x10,
    BPF_JGT = 0x20,
    BPF_JGE = 0x30,
    BPF_JSET = 0x40,
    BPF_K = 0x00,       /* the other operand: k, X or A */
    BPF_X = 0x08,
    BPF_A = 0x10,
    BPF_TAX = 0x00,
    BPF_TXA = 0x80
};

#endif
