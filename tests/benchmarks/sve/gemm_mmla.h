/* Packed GEMM with matrix-multiply instructions: tiles of 8 x 8 VL/128 x K0 (i8: 8, bf16: 4), sixteen accumulators.

   An accumulator holds a 2 x 2 block of sums in every 128 bits; a register of the right operand two columns of K0 values in every
   128 bits. The sums of two rows are put in order when a tile is stored. The right operand comes transposed, N x K. */
#define M0 8
#define N0() (2 * svcntw())
#define B_AT(p, j, k, n) ((j) * (k) + (p))
#include "gemm.h"
#include "pack_rows.h"
#include "unpack_words.h"

COUNTED static void pack_rhs(const T *restrict b, T *restrict to, Z n, Z k, Z nt, Z kt) {
    for (Z j = 0; j < nt; j++)
        for (Z r = 0; r < N0(); r += 8) {
            Z first = j * N0() + r < n ? j * N0() + r : n - 1;
            pack_eight(b + first * k, to + (j * kt * N0() + r) * K0, n - first, k, N0() * K0);
        }
}

#define PAIRS(X) X(0) X(1) X(2) X(3)
#define CLEAR(r) SUMS s##r##0 = ZERO, s##r##1 = ZERO, s##r##2 = ZERO, s##r##3 = ZERO;
#define UPDATE(r)                                                                                                    \
    {                                                                                                                \
        OPERANDS left = svld1rq(all, lhs + 2 * K0 * r);                                                              \
        s##r##0 = MMLA(s##r##0, left, right0);                                                                       \
        s##r##1 = MMLA(s##r##1, left, right1);                                                                       \
        s##r##2 = MMLA(s##r##2, left, right2);                                                                       \
        s##r##3 = MMLA(s##r##3, left, right3);                                                                       \
    }
#define HALVES(r, first, second, at)                                                                                 \
    svst1_vnum(sums, (int64_t *)c, 4 * r + at, svuzp1(INTEGERS(first), INTEGERS(second)));                           \
    svst1_vnum(sums, (int64_t *)c, 4 * r + 2 + at, svuzp2(INTEGERS(first), INTEGERS(second)));
#define STORE(r) HALVES(r, s##r##0, s##r##1, 0) HALVES(r, s##r##2, s##r##3, 1)

static void kernel(const T *restrict a, const T *restrict b, S *restrict c, Z mt, Z nt, Z kt) {
    svbool_t all = ALL(), sums = svptrue_b64();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, c += M0 * N0()) {
            const T *lhs = a + i * kt * M0 * K0, *rhs = b + j * kt * N0() * K0;
            PAIRS(CLEAR)
            for (Z p = 0; p < kt; p++, lhs += M0 * K0, rhs += N0() * K0) {
                OPERANDS right0 = svld1(all, rhs), right1 = svld1_vnum(all, rhs, 1);
                OPERANDS right2 = svld1_vnum(all, rhs, 2), right3 = svld1_vnum(all, rhs, 3);
                PAIRS(UPDATE)
            }
            PAIRS(STORE)
        }
}
