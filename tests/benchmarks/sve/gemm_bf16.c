/* Packed bf16 GEMM with BFMMLA; see gemm_mmla.h. Small whole numbers are exact in bfloat16: the upper half of their f32 pattern. */
#include <arm_sve.h>
#include <stdint.h>
#include <string.h>

static inline bfloat16_t from_int(int value) {
    float wide = (float)value;
    uint32_t pattern;
    memcpy(&pattern, &wide, 4);
    uint16_t upper = (uint16_t)(pattern >> 16);
    bfloat16_t result;
    memcpy(&result, &upper, 2);
    return result;
}

#define T bfloat16_t
#define S float
#define K0 4
#define FROM(x) from_int(x)
#define OPERANDS svbfloat16_t
#define SUMS svfloat32_t
#define ZERO svdup_f32(0)
#define ALL svptrue_b16
#define MMLA svbfmmla
#define INTEGERS svreinterpret_s64
#include "gemm_mmla.h"
