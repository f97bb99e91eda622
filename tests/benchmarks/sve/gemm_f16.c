/* Packed f16 GEMM in SVE intrinsics: tiles of 8 x 8 VL/128 x 1, eight accumulators, FMLA by lane of a replicated quadword. */
#define T float16_t
#define S float16_t
#define M0 8
#define N0() svcnth()
#define K0 1
#define FROM(x) ((float16_t)(x))
#define B_AT(p, j, k, n) ((p) * (n) + (j))
#include "gemm.h"
#include "pack_rows.h"

static void pack_rhs(const T *restrict b, T *restrict to, Z n, Z k, Z nt, Z kt) {
    for (Z j = 0; j < nt; j++) {
        svbool_t there = svwhilelt_b16(j * N0(), n);
        for (Z p = 0; p < k; p++, to += N0()) svst1(svptrue_b16(), to, svld1(there, b + p * n + j * N0()));
    }
}

#define ROWS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define CLEAR(r) svfloat16_t row##r = svdup_f16(0);
#define UPDATE(r) row##r = svmla_lane(row##r, right, left, r);
#define STORE(r) svst1_vnum(all, c, r, row##r);

static void kernel(const T *restrict a, const T *restrict b, S *restrict c, Z mt, Z nt, Z kt) {
    svbool_t all = svptrue_b16();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, c += M0 * N0()) {
            const T *lhs = a + i * kt * M0, *rhs = b + j * kt * N0();
            ROWS(CLEAR)
            for (Z p = 0; p < kt; p++, lhs += M0, rhs += N0()) {
                svfloat16_t left = svld1rq(all, lhs), right = svld1(all, rhs);
                ROWS(UPDATE)
            }
            ROWS(STORE)
        }
}

static void unpack(const S *restrict from, S *restrict c, Z m, Z n, Z mt, Z nt) {
    svbool_t all = svptrue_b16();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, from += M0 * N0()) {
            svbool_t there = svwhilelt_b16(j * N0(), n);
            Z here = m - i * M0 < M0 ? m - i * M0 : M0;
            const S *row = from;
            S *to = c + i * M0 * n + j * N0();
            for (Z r = 0; r < here; r++, row += N0(), to += n) svst1(there, to, svld1(all, row));
        }
}
