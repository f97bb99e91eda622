/* Packed f32 GEMM in SVE intrinsics: tiles of 8 x 8 VL/128 x 1, sixteen accumulators, FMLA by lane of a replicated quadword. */
#define T float
#define S float
#define M0 8
#define N0() (2 * svcntw())
#define K0 1
#define FROM(x) ((float)(x))
#define B_AT(p, j, k, n) ((p) * (n) + (j))
#include "gemm.h"
#include "pack_rows.h"
#include "unpack_words.h"

static void pack_rhs(const T *restrict b, T *restrict to, Z n, Z k, Z nt, Z kt) {
    for (Z j = 0; j < nt; j++) {
        svbool_t left = svwhilelt_b32(j * N0(), n), right = svwhilelt_b32(j * N0() + svcntw(), n);
        for (Z p = 0; p < k; p++, to += N0()) {
            const T *from = b + p * n + j * N0();
            svst1(svptrue_b32(), to, svld1(left, from));
            svst1_vnum(svptrue_b32(), to, 1, svld1_vnum(right, from, 1));
        }
    }
}

#define ROWS(X) X(0, low, 0) X(1, low, 1) X(2, low, 2) X(3, low, 3) X(4, high, 0) X(5, high, 1) X(6, high, 2) X(7, high, 3)
#define CLEAR(r, q, lane) svfloat32_t left##r = svdup_f32(0), right##r = svdup_f32(0);
#define UPDATE(r, q, lane) left##r = svmla_lane(left##r, b0, q, lane); right##r = svmla_lane(right##r, b1, q, lane);
#define STORE(r, q, lane) svst1_vnum(all, c, 2 * r, left##r); svst1_vnum(all, c, 2 * r + 1, right##r);

static void kernel(const T *restrict a, const T *restrict b, S *restrict c, Z mt, Z nt, Z kt) {
    svbool_t all = svptrue_b32();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, c += M0 * N0()) {
            const T *lhs = a + i * kt * M0, *rhs = b + j * kt * N0();
            ROWS(CLEAR)
            for (Z p = 0; p < kt; p++, lhs += M0, rhs += N0()) {
                svfloat32_t low = svld1rq(all, lhs), high = svld1rq(all, lhs + 4);
                svfloat32_t b0 = svld1(all, rhs), b1 = svld1_vnum(all, rhs, 1);
                ROWS(UPDATE)
            }
            ROWS(STORE)
        }
}
