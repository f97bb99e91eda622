"""The 30 kernels of PolyBench/C 4.2.1 as affine programs, in source order, untransformed.

Scalars of the source are registers, and so is durbin's local copy z (traced programs leave it out). Where the source chooses by
comparing data (floyd-warshall), the comparison's reads and one branch's are listed. Sizes have the names of the lower bounds
(`bounds`): gemm ni, nj, nk; jacobi-2d n, t; ... Source: PolyBench/C 4.2.1, Pouchet and Yuki.
"""

import functools

from costmodel.mapping.affine.programs import AffineProgram
from physics import unknown_name

TEXTS: dict[str, str] = {
    "2mm": """
for i in range(ni):
    for j in range(nj):
        tmp[i, j] = 0
        for k in range(nk):
            tmp[i, j] += alpha * A[i, k] * B[k, j]
for i in range(ni):
    for j in range(nl):
        D[i, j] *= beta
        for k in range(nj):
            D[i, j] += tmp[i, k] * C[k, j]
""",
    "3mm": """
for i in range(ni):
    for j in range(nj):
        E[i, j] = 0
        for k in range(nk):
            E[i, j] += A[i, k] * B[k, j]
for i in range(nj):
    for j in range(nl):
        F[i, j] = 0
        for k in range(nm):
            F[i, j] += C[i, k] * D[k, j]
for i in range(ni):
    for j in range(nl):
        G[i, j] = 0
        for k in range(nj):
            G[i, j] += E[i, k] * F[k, j]
""",
    "adi": """
for s in range(t):
    for i in range(1, n - 1):
        v[0, i] = 1
        p[i, 0] = 0
        q[i, 0] = v[0, i]
        for j in range(1, n - 1):
            p[i, j] = -c / (a * p[i, j - 1] + b)
            q[i, j] = (-d * u[j, i - 1] + (1 + 2 * d) * u[j, i] - f * u[j, i + 1] - a * q[i, j - 1]) / (a * p[i, j - 1] + b)
        v[n - 1, i] = 1
        for j in range(n - 2, 0, -1):
            v[j, i] = p[i, j] * v[j + 1, i] + q[i, j]
    for i in range(1, n - 1):
        u[i, 0] = 1
        p[i, 0] = 0
        q[i, 0] = u[i, 0]
        for j in range(1, n - 1):
            p[i, j] = -f / (d * p[i, j - 1] + e)
            q[i, j] = (-a * v[i - 1, j] + (1 + 2 * a) * v[i, j] - c * v[i + 1, j] - d * q[i, j - 1]) / (d * p[i, j - 1] + e)
        u[i, n - 1] = 1
        for j in range(n - 2, 0, -1):
            u[i, j] = p[i, j] * u[i, j + 1] + q[i, j]
""",
    "atax": """
for i in range(n):
    y[i] = 0
for i in range(m):
    tmp[i] = 0
    for j in range(n):
        tmp[i] = tmp[i] + A[i, j] * x[j]
    for j in range(n):
        y[j] = y[j] + A[i, j] * tmp[i]
""",
    "bicg": """
for i in range(m):
    s[i] = 0
for i in range(n):
    q[i] = 0
    for j in range(m):
        s[j] = s[j] + r[i] * A[i, j]
        q[i] = q[i] + A[i, j] * p[j]
""",
    "cholesky": """
for i in range(n):
    for j in range(i):
        for k in range(j):
            A[i, j] -= A[i, k] * A[j, k]
        A[i, j] /= A[j, j]
    for k in range(i):
        A[i, i] -= A[i, k] * A[i, k]
    A[i, i] = sqrt(A[i, i])
""",
    "correlation": """
for j in range(m):
    mean[j] = 0
    for i in range(n):
        mean[j] += data[i, j]
    mean[j] /= float_n
for j in range(m):
    stddev[j] = 0
    for i in range(n):
        stddev[j] += (data[i, j] - mean[j]) * (data[i, j] - mean[j])
    stddev[j] /= float_n
    stddev[j] = sqrt(stddev[j])
    stddev[j] = stddev[j]
for i in range(n):
    for j in range(m):
        data[i, j] -= mean[j]
        data[i, j] /= sqrt(float_n) * stddev[j]
for i in range(m - 1):
    corr[i, i] = 1
    for j in range(i + 1, m):
        corr[i, j] = 0
        for k in range(n):
            corr[i, j] += data[k, i] * data[k, j]
        corr[j, i] = corr[i, j]
corr[m - 1, m - 1] = 1
""",
    "covariance": """
for j in range(m):
    mean[j] = 0
    for i in range(n):
        mean[j] += data[i, j]
    mean[j] /= float_n
for i in range(n):
    for j in range(m):
        data[i, j] -= mean[j]
for i in range(m):
    for j in range(i, m):
        cov[i, j] = 0
        for k in range(n):
            cov[i, j] += data[k, i] * data[k, j]
        cov[i, j] /= float_n - 1
        cov[j, i] = cov[i, j]
""",
    "deriche": """
for i in range(w):
    for j in range(h):
        y1[i, j] = a1 * img[i, j] + a2 * xm1 + b1 * ym1 + b2 * ym2
        xm1 = img[i, j]
        ym1 = y1[i, j]
for i in range(w):
    for j in range(h - 1, -1, -1):
        y2[i, j] = a3 * xp1 + a4 * xp2 + b1 * yp1 + b2 * yp2
        xp1 = img[i, j]
        yp1 = y2[i, j]
for i in range(w):
    for j in range(h):
        out[i, j] = c1 * (y1[i, j] + y2[i, j])
for j in range(h):
    for i in range(w):
        y1[i, j] = a5 * out[i, j] + a6 * tm1 + b1 * ym1 + b2 * ym2
        tm1 = out[i, j]
        ym1 = y1[i, j]
for j in range(h):
    for i in range(w - 1, -1, -1):
        y2[i, j] = a7 * tp1 + a8 * tp2 + b1 * yp1 + b2 * yp2
        tp1 = out[i, j]
        yp1 = y2[i, j]
for i in range(w):
    for j in range(h):
        out[i, j] = c2 * (y1[i, j] + y2[i, j])
""",
    "doitgen": """
for r in range(nr):
    for q in range(nq):
        for p in range(np):
            total[p] = 0
            for s in range(np):
                total[p] += A[r, q, s] * C4[s, p]
        for p in range(np):
            A[r, q, p] = total[p]
""",
    "durbin": """
y[0] = -r[0]
for k in range(1, n):
    for i in range(k):
        total = total + r[k - i - 1] * y[i]
    alpha = -(r[k] + total) / beta
    for i in range(k):
        z = y[i] + alpha * y[k - i - 1]
    for i in range(k):
        y[i] = z
    y[k] = alpha
""",
    "fdtd-2d": """
for s in range(t):
    for j in range(ny):
        ey[0, j] = fict[s]
    for i in range(1, nx):
        for j in range(ny):
            ey[i, j] = ey[i, j] - 0.5 * (hz[i, j] - hz[i - 1, j])
    for i in range(nx):
        for j in range(1, ny):
            ex[i, j] = ex[i, j] - 0.5 * (hz[i, j] - hz[i, j - 1])
    for i in range(nx - 1):
        for j in range(ny - 1):
            hz[i, j] = hz[i, j] - 0.7 * (ex[i, j + 1] - ex[i, j] + ey[i + 1, j] - ey[i, j])
""",
    "floyd-warshall": """
for k in range(n):
    for i in range(n):
        for j in range(n):
            path[i, j] = minimum(path[i, j], path[i, k] + path[k, j], path[i, j])
""",
    "gemm": """
for i in range(ni):
    for j in range(nj):
        C[i, j] *= beta
    for k in range(nk):
        for j in range(nj):
            C[i, j] += alpha * A[i, k] * B[k, j]
""",
    "gemver": """
for i in range(n):
    for j in range(n):
        A[i, j] = A[i, j] + u1[i] * v1[j] + u2[i] * v2[j]
for i in range(n):
    for j in range(n):
        x[i] = x[i] + beta * A[j, i] * y[j]
for i in range(n):
    x[i] = x[i] + z[i]
for i in range(n):
    for j in range(n):
        w[i] = w[i] + alpha * A[i, j] * x[j]
""",
    "gesummv": """
for i in range(n):
    tmp[i] = 0
    y[i] = 0
    for j in range(n):
        tmp[i] = A[i, j] * x[j] + tmp[i]
        y[i] = B[i, j] * x[j] + y[i]
    y[i] = alpha * tmp[i] + beta * y[i]
""",
    "gramschmidt": """
for k in range(n):
    for i in range(m):
        norm = norm + A[i, k] * A[i, k]
    R[k, k] = sqrt(norm)
    for i in range(m):
        Q[i, k] = A[i, k] / R[k, k]
    for j in range(k + 1, n):
        R[k, j] = 0
        for i in range(m):
            R[k, j] += Q[i, k] * A[i, j]
        for i in range(m):
            A[i, j] = A[i, j] - Q[i, k] * R[k, j]
""",
    "heat-3d": """
for s in range(1, t + 1):
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            for k in range(1, n - 1):
                B[i, j, k] = (0.125 * (A[i + 1, j, k] - 2 * A[i, j, k] + A[i - 1, j, k])
                    + 0.125 * (A[i, j + 1, k] - 2 * A[i, j, k] + A[i, j - 1, k])
                    + 0.125 * (A[i, j, k + 1] - 2 * A[i, j, k] + A[i, j, k - 1]) + A[i, j, k])
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            for k in range(1, n - 1):
                A[i, j, k] = (0.125 * (B[i + 1, j, k] - 2 * B[i, j, k] + B[i - 1, j, k])
                    + 0.125 * (B[i, j + 1, k] - 2 * B[i, j, k] + B[i, j - 1, k])
                    + 0.125 * (B[i, j, k + 1] - 2 * B[i, j, k] + B[i, j, k - 1]) + B[i, j, k])
""",
    "jacobi-1d": """
for s in range(t):
    for i in range(1, n - 1):
        B[i] = 0.33333 * (A[i - 1] + A[i] + A[i + 1])
    for i in range(1, n - 1):
        A[i] = 0.33333 * (B[i - 1] + B[i] + B[i + 1])
""",
    "jacobi-2d": """
for s in range(t):
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            B[i, j] = 0.2 * (A[i, j] + A[i, j - 1] + A[i, j + 1] + A[i + 1, j] + A[i - 1, j])
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            A[i, j] = 0.2 * (B[i, j] + B[i, j - 1] + B[i, j + 1] + B[i + 1, j] + B[i - 1, j])
""",
    "lu": """
for i in range(n):
    for j in range(i):
        for k in range(j):
            A[i, j] -= A[i, k] * A[k, j]
        A[i, j] /= A[j, j]
    for j in range(i, n):
        for k in range(i):
            A[i, j] -= A[i, k] * A[k, j]
""",
    "ludcmp": """
for i in range(n):
    for j in range(i):
        w = A[i, j]
        for k in range(j):
            w = w - A[i, k] * A[k, j]
        A[i, j] = w / A[j, j]
    for j in range(i, n):
        w = A[i, j]
        for k in range(i):
            w = w - A[i, k] * A[k, j]
        A[i, j] = w
for i in range(n):
    w = b[i]
    for j in range(i):
        w = w - A[i, j] * y[j]
    y[i] = w
for i in range(n - 1, -1, -1):
    w = y[i]
    for j in range(i + 1, n):
        w = w - A[i, j] * x[j]
    x[i] = w / A[i, i]
""",
    "mvt": """
for i in range(n):
    for j in range(n):
        x1[i] = x1[i] + A[i, j] * y1[j]
for i in range(n):
    for j in range(n):
        x2[i] = x2[i] + A[j, i] * y2[j]
""",
    "nussinov": """
for i in range(n - 1, -1, -1):
    for j in range(i + 1, n):
        if j - 1 >= 0:
            table[i, j] = maximum(table[i, j], table[i, j - 1])
        if i + 1 < n:
            table[i, j] = maximum(table[i, j], table[i + 1, j])
        if j - 1 >= 0 and i + 1 < n:
            if i < j - 1:
                table[i, j] = maximum(table[i, j], table[i + 1, j - 1] + match(seq[i], seq[j]))
            if i >= j - 1:
                table[i, j] = maximum(table[i, j], table[i + 1, j - 1])
        for k in range(i + 1, j):
            table[i, j] = maximum(table[i, j], table[i, k] + table[k + 1, j])
""",
    "seidel-2d": """
for s in range(t):
    for i in range(1, n - 1):
        for j in range(1, n - 1):
            A[i, j] = (A[i - 1, j - 1] + A[i - 1, j] + A[i - 1, j + 1] + A[i, j - 1] + A[i, j] + A[i, j + 1]
                + A[i + 1, j - 1] + A[i + 1, j] + A[i + 1, j + 1]) / 9
""",
    "symm": """
for i in range(m):
    for j in range(n):
        for k in range(i):
            C[k, j] += alpha * B[i, j] * A[i, k]
            temp = temp + B[k, j] * A[i, k]
        C[i, j] = beta * C[i, j] + alpha * B[i, j] * A[i, i] + alpha * temp
""",
    "syr2k": """
for i in range(n):
    for j in range(i + 1):
        C[i, j] *= beta
    for k in range(m):
        for j in range(i + 1):
            C[i, j] += A[j, k] * alpha * B[i, k] + B[j, k] * alpha * A[i, k]
""",
    "syrk": """
for i in range(n):
    for j in range(i + 1):
        C[i, j] *= beta
    for k in range(m):
        for j in range(i + 1):
            C[i, j] += alpha * A[i, k] * A[j, k]
""",
    "trisolv": """
for i in range(n):
    x[i] = b[i]
    for j in range(i):
        x[i] -= L[i, j] * x[j]
    x[i] = x[i] / L[i, i]
""",
    "trmm": """
for i in range(m):
    for j in range(n):
        for k in range(i + 1, m):
            B[i, j] += A[k, i] * B[k, j]
        B[i, j] = alpha * B[i, j]
""",
}


def list_polybench() -> tuple[str, ...]:
    """Names of the kernels."""
    return tuple(TEXTS)


@functools.cache
def polybench(name: str) -> AffineProgram:
    """A kernel of PolyBench as an affine program; ValueError with close matches for an unknown name."""
    if name not in TEXTS:
        raise ValueError(unknown_name("PolyBench kernel", name, TEXTS))
    return AffineProgram.read(TEXTS[name])
