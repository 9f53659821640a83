/* The time loops of chains and DAGs, for one real type on one instruction set. module.c includes this file once for each
 * pair, with these macros set:
 *
 *   REAL, INT    float and int32_t, or double and int64_t
 *   BYTES        of a vector register: 64, 32 or 16
 *   ROWS         of the batch that a tile of the matrix product holds in registers: 8 or 4
 *   NAME(x)      x with a suffix that names the pair
 *   and the constants of the activations for REAL, see both_types.h
 *
 * All but BYTES and ROWS are undefined at the end of this file.
 *
 * ../sequence.py, ../dag_sequence.py and ../dag_supernet_sequence.py (for dag_supernet.h) explain the
 * computation and the buffers. Units are computed in chunks of WIDTH, two vectors: for each
 * chunk, each op's product with the state is a tile of the batch that stays in the first-level cache while the op is
 * applied to it. If WIDTH does not divide the hidden size, the last chunk is computed in scratch, padded with zeros.
 *
 * A sum over units always has the same order: the result for one stream does not depend on the rest of the batch.
 */

#define LANES ((Py_ssize_t)(BYTES / sizeof(REAL)))
#define WIDTH (2 * LANES)

typedef REAL NAME(vec) __attribute__((vector_size(BYTES)));
typedef INT NAME(ivec) __attribute__((vector_size(BYTES)));
typedef REAL NAME(memory) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias)); /* at any address */
#define vec NAME(vec)
#define ivec NAME(ivec)

#define LOAD(p) ((vec)(*(const NAME(memory) *)(p)))
#define STORE(p, v) (*(NAME(memory) *)(p) = (NAME(memory))(v))
#define SPLAT(c) ((REAL)(c) - (vec){0}) /* a difference: compilers fold it away, where a sum would turn -0 into 0 */
#define SELECT(mask, yes, no) ((vec)(((mask) & (ivec)(yes)) | (~(mask) & (ivec)(no))))

/* ---------------------------------------------------------------------------------------------- activations ---- */

INLINE vec NAME(magnitude)(vec x) { return (vec)((ivec)x & ((ivec){0} + SIGN_MASK)); }

INLINE vec NAME(power_of_two)(ivec n) { return (vec)((n + EXPONENT_BIAS) << MANTISSA_BITS); }

/* exp(x) - 1 = 2^n p + (2^n - 1): return p = exp(r) - 1 for the remainder |r| <= ln(2) / 2, by a Taylor series. */
INLINE vec NAME(reduced_expm1)(vec x, ivec *n) {
    vec shifted = x * SPLAT(LOG2_E) + SPLAT(ROUNDER); /* the sum's last bits are x / ln 2, rounded */
    *n = (ivec)shifted - (ivec)SPLAT(ROUNDER);
    vec whole = shifted - SPLAT(ROUNDER);
    vec r = (x - whole * SPLAT(LN2_HIGH)) - whole * SPLAT(LN2_LOW);
    vec series = SPLAT(TAYLOR[TAYLOR_TERMS - 1]);
    UNROLL for (int i = TAYLOR_TERMS - 2; i >= 0; i--) series = series * r + SPLAT(TAYLOR[i]);
    return r + r * r * series;
}

INLINE vec NAME(identity)(vec z) { return z; }
INLINE vec NAME(identity_slope)(vec z, vec y) { (void)z, (void)y; return SPLAT(1); }

INLINE vec NAME(tanh)(vec z) {
    vec a = NAME(magnitude)(z), limit = SPLAT(TANH_LIMIT); /* above it tanh rounds to 1 */
    a = SELECT(a > limit, limit, a);                       /* keeps nan */
    ivec n;
    vec p = NAME(reduced_expm1)(a + a, &n), scale = NAME(power_of_two)(n);
    vec e = scale * p + (scale - SPLAT(1));
    vec y = e / (e + SPLAT(2));
    return (vec)((ivec)y | ((ivec)z & ~((ivec){0} + SIGN_MASK)));
}
INLINE vec NAME(tanh_slope)(vec z, vec y) { (void)z; return SPLAT(1) - y * y; }

INLINE vec NAME(sigmoid)(vec z) {
    vec a = NAME(magnitude)(z), limit = SPLAT(EXP_LIMIT); /* above it exp(-a) rounds to 0 */
    a = SELECT(a > limit, limit, a);
    ivec n;
    vec p = NAME(reduced_expm1)(-a, &n);
    ivec half = n >> 1; /* in two factors, since 2^n may be below the smallest normal number */
    vec e = (SPLAT(1) + p) * NAME(power_of_two)(half) * NAME(power_of_two)(n - half);
    vec y = SPLAT(1) / (SPLAT(1) + e);
    return SELECT(z < SPLAT(0), e * y, y);
}
INLINE vec NAME(sigmoid_slope)(vec z, vec y) { (void)z; return y * (SPLAT(1) - y); }

INLINE vec NAME(relu)(vec z) { return SELECT(z < SPLAT(0), SPLAT(0), z); }
INLINE vec NAME(relu_slope)(vec z, vec y) { (void)z; return SELECT(y > SPLAT(0), SPLAT(1), SPLAT(0)); }

INLINE vec NAME(silu)(vec z) { return z * NAME(sigmoid)(z); }
INLINE vec NAME(silu_slope)(vec z, vec y) {
    vec gate = NAME(sigmoid)(z);
    return gate + y * (SPLAT(1) - gate);
}

INLINE vec NAME(softsign)(vec z) { return z / (SPLAT(1) + NAME(magnitude)(z)); }
INLINE vec NAME(softsign_slope)(vec z, vec y) {
    (void)z;
    vec rest = SPLAT(1) - NAME(magnitude)(y);
    return rest * rest;
}

/* ------------------------------------------------------------------------------------------ matrix products ---- */

/* out (rows, vectors) = init + x (rows, K) panel (K, vectors); rows and vectors are constants where this is inlined. Each
 * of the K steps prefetches into the second-level cache from `ahead`, if not NULL, `step` bytes further each time. */
INLINE void NAME(tile)(const int rows, const int vectors, Py_ssize_t K, const REAL *x, Py_ssize_t x_row,
                       Py_ssize_t x_column, const REAL *panel, Py_ssize_t panel_row, const REAL *init,
                       Py_ssize_t init_row, REAL *out, Py_ssize_t out_row, const char *ahead, Py_ssize_t step) {
    vec sum[ROWS][2];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = init ? LOAD(init + i * init_row + v * LANES) : SPLAT(0);
    for (Py_ssize_t k = 0; k < K; k++) {
        vec weights[2];
        if (ahead) __builtin_prefetch(ahead + k * step, 0, 2);
        UNROLL for (int v = 0; v < vectors; v++) weights[v] = LOAD(panel + k * panel_row + v * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            vec factor = SPLAT(x[i * x_row + k * x_column]);
            UNROLL for (int v = 0; v < vectors; v++) sum[i][v] += factor * weights[v];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++) STORE(out + i * out_row + v * LANES, sum[i][v]);
}

INLINE void NAME(tiles)(const int vectors, const int asks, Py_ssize_t B, Py_ssize_t K, const REAL *x, Py_ssize_t x_row,
                        Py_ssize_t x_column, const REAL *panel, Py_ssize_t panel_row, const REAL *init,
                        Py_ssize_t init_row, REAL *out, Py_ssize_t out_row) {
    const Py_ssize_t line = panel_row * (Py_ssize_t)sizeof(REAL);
    const char *next = (const char *)(panel + K * panel_row);
#define TILES(rows) \
    for (; B - b >= (rows); b += (rows)) \
        NAME(tile)(rows, vectors, K, x + b * x_row, x_row, x_column, panel, panel_row, \
                   init ? init + b * init_row : NULL, init_row, out + b * out_row, out_row, \
                   asks ? next + b * K * line / B : NULL, line * (rows) / B);
    Py_ssize_t b = 0;
    TILES(ROWS)
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

/* With `asks` each tile prefetches a part of the next panel while this panel is used: the weights of a large chain do not
 * stay in a near cache from step to step. Prefetching the panel all at once would stall. */
static void NAME(product)(int vectors, int asks, Py_ssize_t B, Py_ssize_t K, const REAL *x, Py_ssize_t x_row,
                          Py_ssize_t x_column, const REAL *panel, Py_ssize_t panel_row, const REAL *init,
                          Py_ssize_t init_row, REAL *out, Py_ssize_t out_row) {
#define CASE(vectors, asks) \
    case vectors * 2 + asks: \
        NAME(tiles)(vectors, asks, B, K, x, x_row, x_column, panel, panel_row, init, init_row, out, out_row); \
        break;
    switch (vectors * 2 + asks) { CASE(1, 0) CASE(1, 1) CASE(2, 0) CASE(2, 1) }
#undef CASE
}

/* The same for rows of contiguous numbers, with a packed panel. */
INLINE void NAME(packed_product)(int vectors, Py_ssize_t B, Py_ssize_t K, const REAL *x, Py_ssize_t x_row,
                                 const REAL *panel, const REAL *init, Py_ssize_t init_row, REAL *out,
                                 Py_ssize_t out_row) {
    NAME(product)(vectors, 1, B, K, x, x_row, 1, panel, vectors * LANES, init, init_row, out, out_row);
}

/* Where a chunk of units begins, how many units it holds, and how many vectors. */
typedef struct {
    Py_ssize_t first, units;
    int vectors;
} NAME(Chunk);
#define Chunk NAME(Chunk)

INLINE Chunk NAME(chunk)(Py_ssize_t first, Py_ssize_t H) {
    Py_ssize_t units = H - first < WIDTH ? H - first : WIDTH;
    return (Chunk){first, units, units > LANES ? 2 : 1};
}
INLINE int NAME(is_whole)(Chunk c) { return c.units == c.vectors * LANES; }

/* Size, in numbers, of a matrix of `rows` rows when packed by chunks of its H columns. */
INLINE Py_ssize_t NAME(packed_size)(Py_ssize_t rows, Py_ssize_t H) { return rows * ((H + LANES - 1) / LANES) * LANES; }

INLINE void NAME(copy)(Py_ssize_t B, Py_ssize_t units, const REAL *from, Py_ssize_t from_row, REAL *to,
                       Py_ssize_t to_row) {
    for (Py_ssize_t b = 0; b < B; b++)
        for (Py_ssize_t i = 0; i < units; i++) to[b * to_row + i] = from[b * from_row + i];
}

/* A chunk of a matrix of K rows as a panel, [row][unit], padded with zeros; `from` points at the chunk's first number. */
static void NAME(pack)(Py_ssize_t K, Chunk c, const REAL *from, Py_ssize_t row, Py_ssize_t column, REAL *to) {
    const Py_ssize_t width = c.vectors * LANES, block = 16; /* rows at a time: one cache line per column */
    for (Py_ssize_t begin = 0; begin < K; begin += block) {
        const Py_ssize_t end = begin + block < K ? begin + block : K;
        if (column == 1) {
            for (Py_ssize_t k = begin; k < end; k++) {
                __builtin_prefetch(from + k * row + WIDTH); /* the next chunk, while this one is copied */
                __builtin_prefetch(from + k * row + WIDTH + LANES);
                if (c.units == WIDTH) { /* of a loop compilers make a call, which takes longer */
                    STORE(to + k * width, LOAD(from + k * row));
                    STORE(to + k * width + LANES, LOAD(from + k * row + LANES));
                } else {
                    for (Py_ssize_t i = 0; i < c.units; i++) to[k * width + i] = from[k * row + i];
                }
            }
        } else {
            for (Py_ssize_t i = 0; i < c.units; i++)
                for (Py_ssize_t k = begin; k < end; k++) to[k * width + i] = from[k * row + i * column];
        }
        for (Py_ssize_t k = begin; k < end && c.units < width; k++)
            for (Py_ssize_t i = c.units; i < width; i++) to[k * width + i] = 0;
    }
}

/* W_h (H, blocks*H) as panels for the forward loop, [chunk][block][row of W_h][unit]. */
static REAL *NAME(pack_weights)(const Node *node, Py_ssize_t H, REAL *to) {
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        for (Py_ssize_t block = 0; block < node->blocks; block++, to += H * c.vectors * LANES)
            NAME(pack)(H, c, (const REAL *)node->W_h + block * H + first, node->blocks * H, 1, to);
    }
    return to;
}

/* The transpose of W_h, (blocks*H, H), as panels for the backward loop, [chunk][row][unit]. */
static REAL *NAME(pack_transposed)(const Node *node, Py_ssize_t H, REAL *to) {
    const Py_ssize_t rows = node->blocks * H;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        NAME(pack)(rows, c, (const REAL *)node->W_h + first * rows, 1, rows, to);
        to += rows * c.vectors * LANES;
    }
    return to;
}

/* Return a vector of a row of H numbers, v-th of a chunk, with zeros past the chunk's end. */
INLINE vec NAME(row_vector)(const REAL *row, Chunk c, int v) {
    Py_ssize_t left = c.units - v * LANES;
    if (left >= LANES) return LOAD(row + c.first + v * LANES);
    vec padded = {0};
    for (Py_ssize_t i = 0; i < left; i++) padded[i] = row[c.first + v * LANES + i];
    return padded;
}

/* Add a vector to a row of H numbers, except past the chunk's end. */
INLINE void NAME(add_to_row)(REAL *row, Chunk c, int v, vec sum) {
    for (Py_ssize_t i = 0; i < LANES && v * LANES + i < c.units; i++) row[c.first + v * LANES + i] += sum[i];
}

/* ---------------------------------------------------------------------------------------------- pointwise ops ---- */

/* A tile of the batch: `at` points at its first number, `row` numbers lie between its rows. */
typedef struct {
    REAL *at;
    Py_ssize_t row;
} NAME(Tile);
#define Tile NAME(Tile)

/* An op's pass over a chunk, forward or backward; the second input is the product with the state, without its bias. */
typedef struct {
    Py_ssize_t B;
    Chunk chunk;
    Tile from_x, from_s; /* additive: from_s is their sum, from_x is not read */
    Tile mixed;          /* forward: the sum over ops */
    Tile grad;           /* backward: gradient of the mixture */
    Tile to_x, to_s;     /* backward: gradients of from_x and from_s */
    int later;           /* not the projection's first op: add to to_x and to_s */
    const REAL *b_x, *b_h;
    REAL share;
    REAL *db_x, *db_h;
    double *dshare;
} NAME(Pass);
#define Pass NAME(Pass)

#define AT(tile) ((tile).at + b * (tile).row + v * LANES)

#define OP(activation) \
    INLINE void NAME(add_##activation)(const Pass *o, const int vectors) { \
        UNROLL for (int v = 0; v < vectors; v++) { \
            vec b_x = NAME(row_vector)(o->b_x, o->chunk, v), share = SPLAT(o->share); \
            for (Py_ssize_t b = 0; b < o->B; b++) \
                STORE(AT(o->mixed), LOAD(AT(o->mixed)) + share * NAME(activation)(LOAD(AT(o->from_s)) + b_x)); \
        } \
    } \
    INLINE void NAME(hadamard_##activation)(const Pass *o, const int vectors) { \
        UNROLL for (int v = 0; v < vectors; v++) { \
            vec b_x = NAME(row_vector)(o->b_x, o->chunk, v), b_h = NAME(row_vector)(o->b_h, o->chunk, v); \
            vec share = SPLAT(o->share); \
            for (Py_ssize_t b = 0; b < o->B; b++) { \
                vec z = (LOAD(AT(o->from_x)) + b_x) * (LOAD(AT(o->from_s)) + b_h); \
                STORE(AT(o->mixed), LOAD(AT(o->mixed)) + share * NAME(activation)(z)); \
            } \
        } \
    } \
    INLINE void NAME(add_##activation##_back)(const Pass *o, const int vectors) { \
        UNROLL for (int v = 0; v < vectors; v++) { \
            vec b_x = NAME(row_vector)(o->b_x, o->chunk, v), share = SPLAT(o->share); \
            vec db_x = {0}, dshare = {0}; \
            for (Py_ssize_t b = 0; b < o->B; b++) { \
                vec grad = LOAD(AT(o->grad)), z = LOAD(AT(o->from_s)) + b_x, y = NAME(activation)(z); \
                vec d = grad * share * NAME(activation##_slope)(z, y); \
                dshare += grad * y; \
                db_x += d; \
                STORE(AT(o->to_x), o->later ? LOAD(AT(o->to_x)) + d : d); \
            } \
            NAME(add_to_row)(o->db_x, o->chunk, v, db_x); \
            for (Py_ssize_t i = 0; i < LANES; i++) *o->dshare += dshare[i]; \
        } \
    } \
    INLINE void NAME(hadamard_##activation##_back)(const Pass *o, const int vectors) { \
        UNROLL for (int v = 0; v < vectors; v++) { \
            vec b_x = NAME(row_vector)(o->b_x, o->chunk, v), b_h = NAME(row_vector)(o->b_h, o->chunk, v); \
            vec share = SPLAT(o->share), db_x = {0}, db_h = {0}, dshare = {0}; \
            for (Py_ssize_t b = 0; b < o->B; b++) { \
                vec grad = LOAD(AT(o->grad)), p = LOAD(AT(o->from_x)) + b_x, q = LOAD(AT(o->from_s)) + b_h; \
                vec z = p * q, y = NAME(activation)(z), d = grad * share * NAME(activation##_slope)(z, y); \
                vec dp = d * q, dq = d * p; \
                dshare += grad * y; \
                db_x += dp; \
                db_h += dq; \
                STORE(AT(o->to_x), o->later ? LOAD(AT(o->to_x)) + dp : dp); \
                STORE(AT(o->to_s), o->later ? LOAD(AT(o->to_s)) + dq : dq); \
            } \
            NAME(add_to_row)(o->db_x, o->chunk, v, db_x); \
            NAME(add_to_row)(o->db_h, o->chunk, v, db_h); \
            for (Py_ssize_t i = 0; i < LANES; i++) *o->dshare += dshare[i]; \
        } \
    }
ACTIVATIONS(OP)
#undef OP

static void NAME(apply_op)(const Pass *o, int activation, int hadamard, int back) {
    const int key = activation * 4 + hadamard * 2 + back, two = o->chunk.vectors == 2;
    switch (key) {
#define CASES(name) \
    case CODE_##name * 4: two ? NAME(add_##name)(o, 2) : NAME(add_##name)(o, 1); break; \
    case CODE_##name * 4 + 1: two ? NAME(add_##name##_back)(o, 2) : NAME(add_##name##_back)(o, 1); break; \
    case CODE_##name * 4 + 2: two ? NAME(hadamard_##name)(o, 2) : NAME(hadamard_##name)(o, 1); break; \
    case CODE_##name * 4 + 3: two ? NAME(hadamard_##name##_back)(o, 2) : NAME(hadamard_##name##_back)(o, 1); break;
        ACTIVATIONS(CASES)
#undef CASES
    }
}

/* ------------------------------------------------------------------------------------------------ the time loop ---- */

/* Scratch tiles, each (B, WIDTH). */
enum { NAME(MIXED), NAME(FROM_X), NAME(FROM_S), NAME(TO_X), NAME(TO_S), NAME(GRAD), NAME(TILES_NEEDED) };

/* Return a chunk of a buffer (B, row): in place if it is whole, otherwise a padded copy in scratch. */
INLINE Tile NAME(taken)(REAL *buffer, Py_ssize_t row, Chunk c, Py_ssize_t B, REAL *scratch) {
    if (NAME(is_whole)(c)) return (Tile){buffer + c.first, row};
    for (Py_ssize_t b = 0; b < B; b++)
        for (Py_ssize_t i = 0; i < WIDTH; i++) scratch[b * WIDTH + i] = i < c.units ? buffer[b * row + c.first + i] : 0;
    return (Tile){scratch, WIDTH};
}

/* Prefetch a tile during other work: its rows are far apart, and no processor prefetches such rows by itself. */
INLINE void NAME(prefetch)(const REAL *at, Py_ssize_t row, Py_ssize_t B) {
    for (Py_ssize_t b = 0; b < B; b++)
        for (int v = 0; v < 2; v++) __builtin_prefetch(at + b * row + v * LANES, 1);
}

/* Copy a chunk from scratch back. */
INLINE void NAME(put_back)(Tile tile, REAL *buffer, Py_ssize_t row, Chunk c, Py_ssize_t B) {
    if (tile.at != buffer + c.first) NAME(copy)(B, c.units, tile.at, tile.row, buffer + c.first, row);
}

/* out (M, N) = a (M, K) b (K, N), with any strides, but out has contiguous rows; returns -1 if out of memory. */
static int NAME(multiply)(Py_ssize_t M, Py_ssize_t N, Py_ssize_t K, const REAL *a, Py_ssize_t a_row, Py_ssize_t a_column,
                          const REAL *b, Py_ssize_t b_row, Py_ssize_t b_column, REAL *out, Py_ssize_t out_row) {
    const Py_ssize_t parts = K > DEPTH ? (K + DEPTH - 1) / DEPTH : 1, depth = (K + parts - 1) / parts;
    const int gathered = N > 2 * WIDTH && parts > 1 && a_column == 1; /* long rows far apart, read often: copied together */
    const int few = M <= 32 && b_column == 1 && b_row * (Py_ssize_t)sizeof(REAL) <= 1 << 14; /* no copy of b pays */
    const int turned = N > 2 * WIDTH && a_row == 1 && a_column != 1 && M >= ROWS; /* columns far apart, read often */
    const Py_ssize_t lines = gathered ? M : turned ? (M + ROWS - 1) / ROWS * ROWS : 0;
    REAL *panel = allocate((depth * WIDTH + M * WIDTH + lines * depth) * sizeof(REAL));
    if (!panel) return -1;
    REAL *scratch = panel + depth * WIDTH, *copied = scratch + M * WIDTH;
    for (Py_ssize_t part = 0; part < parts; part++) {
        const Py_ssize_t begin = part * depth;
        const Py_ssize_t rows = K - begin < depth ? K - begin : depth;
        const REAL *x = a + begin * a_column;
        Py_ssize_t x_row = a_row;
        if (gathered) {
            NAME(copy)(M, rows, x, a_row, copied, rows);
            x = copied, x_row = rows;
        }
        for (Py_ssize_t b = 0; b < M && turned; b += ROWS) { /* in blocks that tiles read one after the other */
            REAL *block = copied + b * rows;
            for (Py_ssize_t k = 0; k < rows; k++) {
                const REAL *from = x + b + k * a_column;
                if (b + ROWS <= M) memcpy(block + k * ROWS, from, ROWS * sizeof(REAL));
                else for (Py_ssize_t i = 0; b + i < M; i++) block[k * ROWS + i] = from[i];
            }
        }
        for (Py_ssize_t first = 0; first < N; first += WIDTH) {
            Chunk c = NAME(chunk)(first, N);
            const REAL *y = b + begin * b_row + first * b_column;
            const int direct = few && NAME(is_whole)(c);
            if (!direct) NAME(pack)(rows, c, y, b_row, b_column, panel);
            const REAL *from = direct ? y : panel;
            const Py_ssize_t from_row = direct ? b_row : c.vectors * LANES;
            Tile tile = NAME(is_whole)(c) ? (Tile){out + first, out_row} : (Tile){scratch, WIDTH};
            if (begin) tile = NAME(taken)(out, out_row, c, M, scratch);
            const REAL *init = begin ? tile.at : NULL;
            for (Py_ssize_t b = 0; b < M; b += turned ? ROWS : M)
                NAME(product)(c.vectors, 0, turned && M - b > ROWS ? ROWS : M - b, rows, turned ? copied + b * rows : x,
                              turned ? 1 : x_row, turned ? ROWS : a_column, from, from_row,
                              init ? init + b * tile.row : NULL, tile.row, tile.at + b * tile.row, tile.row);
            NAME(put_back)(tile, out, out_row, c, M);
        }
    }
    free(panel);
    return 0;
}

/* One node, one step: from s (B, H) to out (B, H). A and Q are the step's rows at the node's columns; Q may be NULL. */
static void NAME(node_forward)(const Chain *chain, const Node *node, const REAL *packed, const REAL *s, REAL *A, REAL *Q,
                               REAL *out, REAL *kept_mixed, REAL *scratch) {
    const Py_ssize_t B = chain->B, H = chain->H, gate_block = node->additive_projections;
    const REAL *b_x = node->b_x, *b_h = node->b_h, *shares = node->shares;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        const Py_ssize_t panel = H * c.vectors * LANES;
        Tile mixed = {scratch + NAME(MIXED) * B * WIDTH, WIDTH}, from_x = {0}, from_s = {0};
        for (Py_ssize_t i = 0; i < B * WIDTH; i++) mixed.at[i] = 0;
        for (Py_ssize_t k = 0; k < node->ops; k++) {
            const int hadamard = k >= node->additive;
            const Py_ssize_t block = node->projection[k] + (hadamard ? gate_block + node->gate : 0);
            const int fresh = k == 0 || k == node->additive || node->projection[k] != node->projection[k - 1];
            if (fresh) {
                REAL *a = A + block * H;
                const REAL *weights = packed + block * panel;
                const int more = block + 1 < node->blocks;
                NAME(prefetch)(more ? A + (block + 1) * H + first : A + first + WIDTH, chain->A_row, B);
                if (Q && hadamard && more) NAME(prefetch)(Q + (node->projection[k] + 1) * H + first, chain->Q_row, B);
                from_x = NAME(taken)(a, chain->A_row, c, B, scratch + NAME(FROM_X) * B * WIDTH);
                if (!hadamard) { /* the sum of both parts replaces the part of x */
                    from_s = from_x;
                    NAME(packed_product)(c.vectors, B, H, s, H, weights, node->alone ? NULL : from_x.at, from_x.row,
                                         from_s.at, from_s.row);
                    NAME(put_back)(from_s, a, chain->A_row, c, B);
                } else {
                    REAL *q = Q ? Q + node->projection[k] * H : NULL;
                    from_s = q && NAME(is_whole)(c) ? (Tile){q + first, chain->Q_row}
                                                    : (Tile){scratch + NAME(FROM_S) * B * WIDTH, WIDTH};
                    NAME(packed_product)(c.vectors, B, H, s, H, weights, NULL, 0, from_s.at, from_s.row);
                    if (q) NAME(put_back)(from_s, q, chain->Q_row, c, B);
                }
            }
            Pass pass = {.B = B, .chunk = c, .from_x = from_x, .from_s = from_s, .mixed = mixed, .share = shares[k],
                         .b_x = b_x + k * H, .b_h = b_h + (k - node->additive) * H};
            NAME(apply_op)(&pass, node->activation[k], hadamard, 0);
        }
        if (node->gate) {
            if (kept_mixed) NAME(copy)(B, c.units, mixed.at, WIDTH, kept_mixed + first, H);
            REAL *a = A + gate_block * H;
            Tile gate = NAME(taken)(a, chain->A_row, c, B, scratch + NAME(FROM_X) * B * WIDTH);
            NAME(packed_product)(c.vectors, B, H, s, H, packed + gate_block * panel, node->alone ? NULL : gate.at, gate.row,
                                 gate.at, gate.row);
            NAME(put_back)(gate, a, chain->A_row, c, B);
            for (Py_ssize_t b = 0; b < B; b++)
                for (int v = 0; v < c.vectors; v++) {
                    vec before = NAME(row_vector)(s + b * H, c, v);
                    vec change = LOAD(AT(mixed)) - before;
                    STORE(AT(mixed), before + NAME(sigmoid)(LOAD(AT(gate))) * change);
                }
        }
        NAME(copy)(B, c.units, mixed.at, WIDTH, out + first, H);
        packed += panel * node->blocks;
    }
}

/* One node, one step back: A and Q become gradients; `carried` (B, H) becomes the gradient of s. */
static void NAME(node_backward)(const Chain *chain, const Node *node, const REAL *packed, const REAL *s, REAL *A,
                                REAL *Q, const REAL *kept_mixed, const REAL *grad, REAL *through, REAL *carried,
                                double *dshares, REAL *scratch) {
    const Py_ssize_t B = chain->B, H = chain->H, gate_block = node->additive_projections;
    const REAL *b_x = node->b_x, *b_h = node->b_h, *shares = node->shares;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        Tile mixture = NAME(taken)((REAL *)grad, H, c, B, scratch + NAME(GRAD) * B * WIDTH);
        if (node->gate) {
            REAL *a = A + gate_block * H;
            Tile gate = NAME(taken)(a, chain->A_row, c, B, scratch + NAME(FROM_X) * B * WIDTH);
            Tile scaled = {scratch + NAME(GRAD) * B * WIDTH, WIDTH};
            for (Py_ssize_t b = 0; b < B; b++)
                for (int v = 0; v < c.vectors; v++) {
                    vec open = NAME(sigmoid)(LOAD(AT(gate))), g = LOAD(AT(mixture));
                    vec change = NAME(row_vector)(kept_mixed + b * H, c, v) - NAME(row_vector)(s + b * H, c, v);
                    vec left = g * (SPLAT(1) - open);
                    STORE(AT(scaled), g * open);
                    STORE(AT(gate), g * change * NAME(sigmoid_slope)(LOAD(AT(gate)), open));
                    for (Py_ssize_t i = 0; i < LANES && v * LANES + i < c.units; i++)
                        through[b * H + first + v * LANES + i] = left[i];
                }
            NAME(put_back)(gate, a, chain->A_row, c, B);
            mixture = scaled;
        }
        Tile from_x = {0}, from_s = {0}, to_x = {0}, to_s = {0};
        for (Py_ssize_t k = 0; k < node->ops; k++) {
            const int hadamard = k >= node->additive;
            const int last = k + 1 == node->ops || k + 1 == node->additive ||
                             node->projection[k] != node->projection[k + 1];
            const int fresh = k == 0 || k == node->additive || node->projection[k] != node->projection[k - 1];
            REAL *a = A + (node->projection[k] + (hadamard ? gate_block + node->gate : 0)) * H;
            REAL *q = hadamard ? Q + node->projection[k] * H : NULL;
            if (fresh) { /* in place if a projection has one op: it reads a number before it writes it */
                from_x = NAME(taken)(a, chain->A_row, c, B, scratch + NAME(FROM_X) * B * WIDTH);
                from_s = hadamard ? NAME(taken)(q, chain->Q_row, c, B, scratch + NAME(FROM_S) * B * WIDTH) : from_x;
                to_x = last ? from_x : (Tile){scratch + NAME(TO_X) * B * WIDTH, WIDTH};
                to_s = last ? from_s : (Tile){scratch + NAME(TO_S) * B * WIDTH, WIDTH};
            }
            Pass pass = {.B = B, .chunk = c, .from_x = from_x, .from_s = from_s, .grad = mixture, .to_x = to_x,
                         .to_s = to_s, .later = !fresh, .share = shares[k], .b_x = b_x + k * H,
                         .b_h = b_h + (k - node->additive) * H, .db_x = (REAL *)node->db_x + k * H,
                         .db_h = (REAL *)node->db_h + (k - node->additive) * H, .dshare = dshares + k};
            NAME(apply_op)(&pass, node->activation[k], hadamard, 1);
            if (last) {
                NAME(put_back)(to_x, a, chain->A_row, c, B);
                if (hadamard) NAME(put_back)(to_s, q, chain->Q_row, c, B);
            }
        }
    }
    const Py_ssize_t from_a = (node->additive_projections + node->gate) * H, from_q = node->hadamard_projections * H;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        Tile out = NAME(is_whole)(c) ? (Tile){carried + first, H} : (Tile){scratch, WIDTH};
        Tile init = {NULL, 0};
        if (node->gate) init = NAME(taken)(through, H, c, B, scratch + B * WIDTH);
        if (from_a) {
            NAME(packed_product)(c.vectors, B, from_a, A, chain->A_row, packed, init.at, init.row, out.at, out.row);
            init = out;
        }
        packed += from_a * c.vectors * LANES;
        if (from_q) NAME(packed_product)(c.vectors, B, from_q, Q, chain->Q_row, packed, init.at, init.row, out.at, out.row);
        packed += from_q * c.vectors * LANES;
        NAME(put_back)(out, carried, H, c, B);
    }
}

/* Return 0, or -1 if out of memory. */
static int NAME(forward)(const Chain *chain) {
    const Py_ssize_t T = chain->T, B = chain->B, H = chain->H, J = chain->nodes;
    Py_ssize_t size = 0;
    for (Py_ssize_t j = 0; j < J; j++) size += NAME(packed_size)(chain->node[j].blocks * H, H);
    REAL *packed = allocate((size + NAME(TILES_NEEDED) * B * WIDTH) * sizeof(REAL));
    if (!packed) return -1;
    REAL *scratch = packed + size, *to = packed;
    for (Py_ssize_t j = 0; j < J; j++) to = NAME(pack_weights)(&chain->node[j], H, to);
    const REAL *s = chain->h_0;
    for (Py_ssize_t t = 0; t < T; t++) {
        const REAL *weights = packed;
        REAL *A = (REAL *)chain->A + t * B * chain->A_row, *Q = chain->Q;
        if (Q) Q += t * B * chain->Q_row;
        for (Py_ssize_t j = 0; j < J; j++) {
            const Node *node = &chain->node[j];
            REAL *out = (REAL *)node->out + t * B * H, *mixed = node->mixed;
            NAME(node_forward)(chain, node, weights, s, A, Q, out, mixed ? mixed + t * B * H : NULL, scratch);
            s = out;
            A += node->blocks * H;
            if (Q) Q += node->hadamard_projections * H;
            weights += NAME(packed_size)(node->blocks * H, H);
        }
    }
    free(packed);
    return 0;
}

/* Return 0, or -1 if out of memory. */
static int NAME(backward)(const Chain *chain) {
    const Py_ssize_t T = chain->T, B = chain->B, H = chain->H, J = chain->nodes;
    Py_ssize_t size = 0, ops = 0;
    for (Py_ssize_t j = 0; j < J; j++) {
        size += NAME(packed_size)(chain->node[j].blocks * H, H);
        ops += chain->node[j].ops;
    }
    REAL *packed = allocate((size + NAME(TILES_NEEDED) * B * WIDTH + 2 * B * H) * sizeof(REAL));
    double *dshares = allocate(ops * sizeof(double));
    if (!packed || !dshares) {
        free(packed);
        free(dshares);
        return -1;
    }
    REAL *scratch = packed + size, *through = scratch + NAME(TILES_NEEDED) * B * WIDTH, *g = through + B * H;
    REAL *to = packed;
    for (Py_ssize_t j = J - 1; j >= 0; j--) to = NAME(pack_transposed)(&chain->node[j], H, to); /* as they are read */
    for (Py_ssize_t k = 0; k < ops; k++) dshares[k] = 0;
    REAL *carried = chain->dh_0;
    for (Py_ssize_t i = 0; i < B * H; i++) carried[i] = 0;
    for (Py_ssize_t t = T - 1; t >= 0; t--) {
        const REAL *grad = (const REAL *)chain->grad + t * B * H, *weights = packed;
        REAL *A = (REAL *)chain->A + t * B * chain->A_row + chain->A_row; /* the end of the step's first row */
        REAL *Q = chain->Q ? (REAL *)chain->Q + t * B * chain->Q_row + chain->Q_row : NULL;
        double *shares = dshares + ops;
        for (Py_ssize_t i = 0; i < B * H; i++) g[i] = carried[i] + grad[i];
        for (Py_ssize_t j = J - 1; j >= 0; j--) {
            const Node *node = &chain->node[j];
            A -= node->blocks * H;
            if (Q) Q -= node->hadamard_projections * H;
            shares -= node->ops;
            const REAL *s = j ? (const REAL *)chain->node[j - 1].out + t * B * H
                              : t ? (const REAL *)chain->node[J - 1].out + (t - 1) * B * H : chain->h_0;
            const REAL *mixed = node->mixed ? (const REAL *)node->mixed + t * B * H : NULL;
            NAME(node_backward)(chain, node, weights, s, A, Q, mixed, g, through, carried, shares, scratch);
            weights += NAME(packed_size)(node->blocks * H, H);
            if (j) memcpy(g, carried, B * H * sizeof(REAL));
        }
    }
    double *shares = dshares;
    for (Py_ssize_t j = 0; j < J; j++)
        for (Py_ssize_t k = 0; k < chain->node[j].ops; k++) ((REAL *)chain->node[j].dshares)[k] = (REAL)*shares++;
    free(packed);
    free(dshares);
    return 0;
}

/* ------------------------------------------------------------------------------------------- the DAG's time loop ---- */

/* A DAG's node as a chain's node: one additive op of share 1 and a gate; its bias and the bias's gradient are scratch. */
INLINE Node NAME(dag_node)(const Dag *dag, Py_ssize_t i, const REAL *one, REAL *bias) {
    static const int first = 0;
    const REAL *W_h = (const REAL *)dag->W_h + i * dag->H * 2 * dag->H;
    return (Node){.ops = 1, .additive = 1, .additive_projections = 1, .gate = 1, .blocks = 2, .alone = i > 0,
                  .activation = dag->activation + i, .projection = &first, .W_h = W_h, .b_x = bias, .shares = one,
                  .db_x = bias + dag->H};
}

/* A node's rows at step t, in a buffer with `kept` steps of `size` numbers per node. */
INLINE REAL *NAME(dag_rows)(const Dag *dag, void *buffer, Py_ssize_t i, Py_ssize_t t, Py_ssize_t size) {
    return (REAL *)buffer + (i * dag->kept + (dag->kept == dag->T ? t : 0)) * size;
}

INLINE REAL *NAME(dag_A)(const Dag *dag, Py_ssize_t i, Py_ssize_t t) {
    const Py_ssize_t size = dag->B * 2 * dag->H;
    return i ? NAME(dag_rows)(dag, dag->A, i - 1, t, size) : (REAL *)dag->A_0 + t * size;
}

/* The state that a node reads at step t. */
INLINE const REAL *NAME(dag_input)(const Dag *dag, Py_ssize_t i, Py_ssize_t t) {
    const Py_ssize_t size = dag->B * dag->H;
    if (i) return NAME(dag_rows)(dag, dag->states, dag->reads[i - 1], t, size);
    return t ? (const REAL *)dag->out + (t - 1) * size : dag->h_0;
}

/* Return 0, or -1 if out of memory. */
static int NAME(dag_forward)(const Dag *dag) {
    const Py_ssize_t B = dag->B, H = dag->H, J = dag->nodes, size = B * H, panels = NAME(packed_size)(2 * H, H);
    const Chain chain = {.B = B, .H = H, .A_row = 2 * H};
    const REAL one = 1;
    REAL *packed = allocate((J * panels + NAME(TILES_NEEDED) * B * WIDTH + 2 * H) * sizeof(REAL));
    if (!packed) return -1;
    REAL *scratch = packed + J * panels, *bias = scratch + NAME(TILES_NEEDED) * B * WIDTH;
    for (Py_ssize_t i = 0; i < 2 * H; i++) bias[i] = 0;
    for (Py_ssize_t i = 0; i < J; i++) {
        const Node node = NAME(dag_node)(dag, i, &one, bias);
        NAME(pack_weights)(&node, H, packed + i * panels);
    }
    for (Py_ssize_t t = 0; t < dag->T; t++) {
        for (Py_ssize_t i = 0; i < J; i++) {
            const Node node = NAME(dag_node)(dag, i, &one, bias);
            NAME(node_forward)(&chain, &node, packed + i * panels, NAME(dag_input)(dag, i, t), NAME(dag_A)(dag, i, t), NULL,
                               NAME(dag_rows)(dag, dag->states, i, t, size), NAME(dag_rows)(dag, dag->values, i, t, size),
                               scratch);
        }
        REAL *h = (REAL *)dag->out + t * size;
        for (Py_ssize_t e = 0; e < size; e++) h[e] = 0;
        for (Py_ssize_t i = 0; i < J; i++)
            if (dag->weight[i]) {
                const REAL *s = NAME(dag_rows)(dag, dag->states, i, t, size);
                for (Py_ssize_t e = 0; e < size; e++) h[e] += s[e];
            }
        for (Py_ssize_t e = 0; e < size; e++) h[e] /= (REAL)dag->outputs;
    }
    free(packed);
    return 0;
}

/* Return 0, or -1 if out of memory. */
static int NAME(dag_backward)(const Dag *dag) {
    const Py_ssize_t B = dag->B, H = dag->H, J = dag->nodes, size = B * H, panels = NAME(packed_size)(2 * H, H);
    const Chain chain = {.B = B, .H = H, .A_row = 2 * H};
    const REAL one = 1;
    REAL *packed = allocate((J * panels + NAME(TILES_NEEDED) * B * WIDTH + 2 * H + (J + 2) * size) * sizeof(REAL));
    if (!packed) return -1;
    REAL *scratch = packed + J * panels, *bias = scratch + NAME(TILES_NEEDED) * B * WIDTH;
    REAL *g = bias + 2 * H, *through = g + J * size, *passed = through + size, *dh = dag->dh_0;
    double ignored = 0; /* the gradient of the fixed share */
    for (Py_ssize_t i = 0; i < 2 * H; i++) bias[i] = 0;
    for (Py_ssize_t e = 0; e < size; e++) dh[e] = 0;
    for (Py_ssize_t i = 0; i < J; i++) {
        const Node node = NAME(dag_node)(dag, i, &one, bias);
        NAME(pack_transposed)(&node, H, packed + i * panels);
    }
    for (Py_ssize_t t = dag->T - 1; t >= 0; t--) {
        const REAL *grad = (const REAL *)dag->grad + t * size;
        for (Py_ssize_t i = 0; i < J; i++)
            for (Py_ssize_t e = 0; e < size; e++)
                g[i * size + e] = dag->weight[i] ? (dh[e] + grad[e]) / (REAL)dag->outputs : 0;
        for (Py_ssize_t i = J - 1; i >= 0; i--) {
            const Node node = NAME(dag_node)(dag, i, &one, bias);
            NAME(node_backward)(&chain, &node, packed + i * panels, NAME(dag_input)(dag, i, t), NAME(dag_A)(dag, i, t), NULL,
                                NAME(dag_rows)(dag, dag->values, i, t, size), g + i * size, through, i ? passed : dh,
                                &ignored, scratch);
            if (!i) continue;
            REAL *to = g + dag->reads[i - 1] * size;
            for (Py_ssize_t e = 0; e < size; e++) to[e] += passed[e];
        }
    }
    free(packed);
    return 0;
}

#include "dag_supernet.h"
#include "gated.h"

/* An activation alone, for tests: y (n,) from z (n,); n is a multiple of LANES. */
static void NAME(activate)(int activation, Py_ssize_t n, const REAL *z, REAL *y) {
    for (Py_ssize_t i = 0; i < n; i += LANES) switch (activation) {
#define CASE(name) \
    case CODE_##name: STORE(y + i, NAME(name)(LOAD(z + i))); break;
            ACTIVATIONS(CASE)
#undef CASE
        }
}

#undef LANES
#undef WIDTH
#undef vec
#undef ivec
#undef LOAD
#undef STORE
#undef SPLAT
#undef SELECT
#undef Chunk
#undef Tile
#undef Pass
#undef AT
#undef REAL
#undef INT
#undef NAME
#undef SIGN_MASK
#undef MANTISSA_BITS
#undef EXPONENT_BIAS
#undef ROUNDER
#undef LOG2_E
#undef LN2_HIGH
#undef LN2_LOW
#undef TAYLOR
#undef TAYLOR_TERMS
#undef TANH_LIMIT
#undef EXP_LIMIT
