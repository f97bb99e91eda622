/* Packed i8 GEMM with SMMLA; see gemm_mmla.h. */
#define T int8_t
#define S int32_t
#define K0 8
#define FROM(x) ((int8_t)(x))
#define OPERANDS svint8_t
#define SUMS svint32_t
#define ZERO svdup_s32(0)
#define ALL svptrue_b8
#define MMLA svmmla
#define INTEGERS svreinterpret_s64
#include "gemm_mmla.h"
