/* Tiles of 32-bit sums back to rows: two registers of a tile's row at a time, the columns beyond the matrix left out by predicates. */
COUNTED static void unpack(const S *restrict from, S *restrict c, Z m, Z n, Z mt, Z nt) {
    svbool_t all = svptrue_b32();
    for (Z i = 0; i < mt; i++)
        for (Z j = 0; j < nt; j++, from += M0 * N0()) {
            svbool_t left = svwhilelt_b32(j * N0(), n), right = svwhilelt_b32(j * N0() + svcntw(), n);
            Z here = m - i * M0 < M0 ? m - i * M0 : M0;
            const S *row = from;
            S *to = c + i * M0 * n + j * N0();
            for (Z r = 0; r < here; r++, row += N0(), to += n) {
                svst1(left, to, svld1(all, row));
                svst1_vnum(right, to, 1, svld1_vnum(all, row, 1));
            }
        }
}
