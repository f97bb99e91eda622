/* Packed f32 GEMM whose tiles of 8 x 16 VL/128 do not fit: thirty-two accumulators beside the operands in thirty-two registers. */
#define T float
#define S float
#define M0 8
#define N0() (4 * svcntw())
#define K0 1
#define FROM(x) ((float)(x))
#define B_AT(p, j, k, n) ((p) * (n) + (j))
#include "gemm.h"
#include "pack_rows.h"

static void pack_rhs(const T *restrict b, T *restrict to, Z n, Z k, Z nt, Z kt) {
    for (Z j = 0; j < nt; j++) {
        for (Z p = 0; p < k; p++, to += N0())
            for (Z v = 0; v < 4; v++) {
                svbool_t left = svwhilelt_b32(j * N0() + v * svcntw(), n);
                svst1_vnum(svptrue_b32(), to, v, svld1_vnum(left, b + p * n + j * N0(), v));
            }
    }
}

#define ROWS(X) X(0, low, 0) X(1, low, 1) X(2, low, 2) X(3, low, 3) X(4, high, 0) X(5, high, 1) X(6, high, 2) X(7, high, 3)
#define CLEAR(r, q, lane) svfloat32_t s##r##0 = svdup_f32(0), s##r##1 = svdup_f32(0), s##r##2 = svdup_f32(0), s##r##3 = svdup_f32(0);
#define UPDATE(r, q, lane)                                                                                           \
    s##r##0 = svmla_lane(s##r##0, b0, q, lane); s##r##1 = svmla_lane(s##r##1, b1, q, lane);                           \
    s##r##2 = svmla_lane(s##r##2, b2, q, lane); s##r##3 = svmla_lane(s##r##3, b3, q, lane);
#define STORE(r, q, lane)                                                                                            \
    svst1_vnum(all, c, 4 * r, s##r##0); svst1_vnum(all, c, 4 * r + 1, s##r##1);                                       \
    svst1_vnum(all, c, 4 * r + 2, s##r##2); svst1_vnum(all, c, 4 * r + 3, s##r##3);

static void kernel(const T *restrict a, const T *restrict b, S *restrict c, Z mt, Z nt, Z kt) {
    svbool_t all = svptrue_b32();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, c += M0 * N0()) {
            const T *lhs = a + i * kt * M0, *rhs = b + j * kt * N0();
            ROWS(CLEAR)
            for (Z p = 0; p < kt; p++, lhs += M0, rhs += N0()) {
                svfloat32_t low = svld1rq(all, lhs), high = svld1rq(all, lhs + 4);
                svfloat32_t b0 = svld1(all, rhs), b1 = svld1_vnum(all, rhs, 1);
                svfloat32_t b2 = svld1_vnum(all, rhs, 2), b3 = svld1_vnum(all, rhs, 3);
                ROWS(UPDATE)
            }
            ROWS(STORE)
        }
}

static void unpack(const S *restrict from, S *restrict c, Z m, Z n, Z mt, Z nt) {
    svbool_t all = svptrue_b32();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++)
            for (Z r = 0; r < M0; r++, from += N0())
                for (Z v = 0; v < 4 && i * M0 + r < m; v++) {
                    svbool_t there = svwhilelt_b32(j * N0() + v * svcntw(), n);
                    svst1_vnum(there, c + (i * M0 + r) * n + j * N0(), v, svld1_vnum(all, from, v));
                }
}
