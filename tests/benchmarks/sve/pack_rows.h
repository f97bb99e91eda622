/* Eight rows of a matrix (K neighbours) into tiles: K0 neighbours move as one unit, the eight units of a step unrolled.

   Rows that are not there repeat the first, so that ragged edges cost what full tiles do; the surplus is never read back. */
#define UNIT (K0 * sizeof(T))
#define EIGHT(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

static inline void pack_eight(const T *restrict from, T *restrict to, Z there, Z k, Z step) {
    Z whole = k / K0;
#define ROW(r) const char *row##r = (const char *)(from + (r < there ? r : 0) * k);
    EIGHT(ROW)
    for (Z at = 0; at < whole * UNIT; at += UNIT, to += step) {
#define MOVE(r) memcpy(to + r * K0, row##r + at, UNIT);
        EIGHT(MOVE)
    }
#define REST(r) if (k > whole * K0) memcpy(to + r * K0, row##r + whole * UNIT, (k - whole * K0) * sizeof(T));
    EIGHT(REST)
}

COUNTED static void pack_lhs(const T *restrict a, T *restrict to, Z m, Z k, Z mt, Z kt) {
    for (Z i = 0; i < mt; i++) pack_eight(a + i * M0 * k, to + i * M0 * kt * K0, m - i * M0, k, M0 * K0);
}
