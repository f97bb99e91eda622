/* What every packed GEMM here shares: the driver around four functions that the instruction counter looks at.

   C (M x N) = A (M x K) times B, with A packed to [Mt][Kt][M0][K0] and B to [Nt][Kt][N0][K0]; N0 scales with the vector length.
   Each file defines T (operand), S (sum), M0, N0(), K0, B_AT(k, n) and the functions pack_lhs, pack_rhs, kernel, unpack. */
#include <arm_sve.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef size_t Z;
#define TILES(n, k) (((n) + (k) - 1) / (k))
#define COUNTED __attribute__((noinline))

COUNTED static void pack_lhs(const T *restrict a, T *restrict to, Z m, Z k, Z mt, Z kt);
COUNTED static void pack_rhs(const T *restrict b, T *restrict to, Z n, Z k, Z nt, Z kt);
COUNTED static void kernel(const T *restrict a, const T *restrict b, S *restrict c, Z mt, Z nt, Z kt);
COUNTED static void unpack(const S *restrict from, S *restrict c, Z m, Z n, Z mt, Z nt);

static void *zeros(Z count, Z size) {
    void *memory = calloc(count, size);
    if (!memory) exit(3);
    return memory;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    Z m = atoi(argv[1]), n = atoi(argv[2]), k = atoi(argv[3]);
    Z mt = TILES(m, M0), nt = TILES(n, N0()), kt = TILES(k, K0);
    T *a = zeros(m * k, sizeof(T)), *b = zeros(k * n, sizeof(T));
    T *lhs = zeros(mt * M0 * kt * K0, sizeof(T)), *rhs = zeros(nt * N0() * kt * K0, sizeof(T));
    S *tiles = zeros(mt * M0 * nt * N0(), sizeof(S)), *c = zeros(m * n, sizeof(S));
    for (Z i = 0; i < m * k; i++) a[i] = FROM((int)(i % 7) - 3);
    for (Z i = 0; i < k * n; i++) b[i] = FROM((int)(i % 5) - 2);
    pack_lhs(a, lhs, m, k, mt, kt);
    pack_rhs(b, rhs, n, k, nt, kt);
    kernel(lhs, rhs, tiles, mt, nt, kt);
    unpack(tiles, c, m, n, mt, nt);
    for (Z i = 0; i < m; i++)
        for (Z j = 0; j < n; j++) {
            int sum = 0;
            for (Z p = 0; p < k; p++) sum += ((int)((i * k + p) % 7) - 3) * ((int)(B_AT(p, j, k, n) % 5) - 2);
            if ((int)c[i * n + j] != sum) {
                printf("wrong at %zu %zu: %d, not %d\n", i, j, (int)c[i * n + j], sum);
                return 1;
            }
        }
    printf("right\n");
    return 0;
}
