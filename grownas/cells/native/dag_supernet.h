/* The time loop of the DAG supernet, a part of kernels.h. What is computed, and in which buffers, stands in
 * ../dag_supernet_sequence.py. */

/* Rows of a batch that an edge's pass takes at a time: what it keeps of them stays in the first-level cache. */
#define AT_ONCE 32

INLINE void NAME(set_row)(REAL *row, Chunk c, int v, vec value) {
    Py_ssize_t left = c.units - v * LANES;
    if (left >= LANES) STORE(row + c.first + v * LANES, value);
    else for (Py_ssize_t i = 0; i < left; i++) row[c.first + v * LANES + i] = value[i];
}

INLINE double NAME(total)(vec values) {
    double sum = 0;
    UNROLL for (int i = 0; i < LANES; i++) sum += values[i];
    return sum;
}

/* Going forward an op adds its share to the edge's mixture; going back also to the mixture's slope, and returns the sum of
 * its value times `weight`. */
#define OP(activation) \
    static void NAME(mix_##activation)(Py_ssize_t rows, Tile z, REAL share, vec *mixed) { \
        for (Py_ssize_t b = 0; b < rows; b++) mixed[b] += SPLAT(share) * NAME(activation)(LOAD(z.at + b * z.row)); \
    } \
    static double NAME(unmix_##activation)(Py_ssize_t rows, Tile z, REAL share, vec *mixed, vec *slope, const vec *weight) { \
        vec sum = {0}; \
        for (Py_ssize_t b = 0; b < rows; b++) { \
            vec at = LOAD(z.at + b * z.row), y = NAME(activation)(at); \
            mixed[b] += SPLAT(share) * y; \
            slope[b] += SPLAT(share) * NAME(activation##_slope)(at, y); \
            sum += weight[b] * y; \
        } \
        return NAME(total)(sum); \
    }
ACTIVATIONS(OP)
#undef OP

/* An edge, at one step. */
typedef struct {
    Py_ssize_t ops;                  /* without none */
    const unsigned char *activation; /* (ops,) */
    const REAL *share;               /* (ops,) */
    double *dshare;                  /* (ops,); backward */
    REAL total, skip;                /* of the shares; what of the state is added ungated */
} NAME(Edge);
#define Edge NAME(Edge)

/* Add an edge's output to `sum`: one vector of each row of s (rows, H), with its products in gate and z. */
static void NAME(edge_forward)(const Edge *edge, Py_ssize_t rows, Py_ssize_t H, Chunk c, int v, Tile gate, Tile z,
                               const REAL *s, Tile sum) {
    vec mixed[AT_ONCE];
    for (Py_ssize_t b = 0; b < rows; b++) mixed[b] = (vec){0};
    for (Py_ssize_t k = 0; k < edge->ops; k++) switch (edge->activation[k]) {
#define CASE(name) \
    case CODE_##name: NAME(mix_##name)(rows, z, edge->share[k], mixed); break;
            ACTIVATIONS(CASE)
#undef CASE
        }
    for (Py_ssize_t b = 0; b < rows; b++) {
        vec before = NAME(row_vector)(s + b * H, c, v), open = NAME(sigmoid)(LOAD(gate.at + b * gate.row));
        vec change = mixed[b] - SPLAT(edge->total) * before;
        REAL *to = sum.at + b * sum.row;
        STORE(to, LOAD(to) + open * change + SPLAT(edge->total + edge->skip) * before);
    }
}

/* From grad, of the node's sum: turn gate and z into their gradients, add to that of s, ds, and to those of the shares. */
static void NAME(edge_backward)(const Edge *edge, Py_ssize_t rows, Py_ssize_t H, Chunk c, int v, Tile gate, Tile z,
                                const REAL *s, const REAL *grad, REAL *ds) {
    vec mixed[AT_ONCE], slope[AT_ONCE], passed[AT_ONCE], closed[AT_ONCE], common = {0};
    for (Py_ssize_t b = 0; b < rows; b++) {
        vec open = NAME(sigmoid)(LOAD(gate.at + b * gate.row));
        mixed[b] = slope[b] = (vec){0};
        passed[b] = NAME(row_vector)(grad + b * H, c, v) * open;
        closed[b] = SPLAT(1) - open;
    }
    for (Py_ssize_t k = 0; k < edge->ops; k++) switch (edge->activation[k]) {
#define CASE(name) \
    case CODE_##name: edge->dshare[k] += NAME(unmix_##name)(rows, z, edge->share[k], mixed, slope, passed); break;
            ACTIVATIONS(CASE)
#undef CASE
        }
    for (Py_ssize_t b = 0; b < rows; b++) {
        vec before = NAME(row_vector)(s + b * H, c, v), g = NAME(row_vector)(grad + b * H, c, v);
        vec through = g * closed[b];
        STORE(gate.at + b * gate.row, passed[b] * closed[b] * (mixed[b] - SPLAT(edge->total) * before));
        STORE(z.at + b * z.row, passed[b] * slope[b]);
        NAME(set_row)(ds + b * H, c, v, NAME(row_vector)(ds + b * H, c, v) + SPLAT(edge->total) * through + SPLAT(edge->skip) * g);
        common += through * before;
    }
    for (Py_ssize_t k = 0; k < edge->ops; k++) edge->dshare[k] += NAME(total)(common);
}

/* One over the root of a variance. */
INLINE vec NAME(inverse_root)(vec variance) {
    vec found = variance + SPLAT(SUPERNET_EPSILON);
    UNROLL for (int i = 0; i < LANES; i++) found[i] = (REAL)1 / (REAL)__builtin_sqrt(found[i]);
    return found;
}

/* Normalise a chunk of a state (B, WIDTH); mean and variance (H,) are given, or with `sees` found over the batch. Where they
 * are given, cut it to +-limit, unless that is NULL. */
static void NAME(normalise)(Py_ssize_t B, Chunk c, REAL *s, REAL *mean, REAL *variance, const REAL *limit, int sees) {
    for (int v = 0; v < c.vectors; v++) {
        REAL *at = s + v * LANES;
        if (sees) {
            vec sum = {0}, squares = {0};
            for (Py_ssize_t b = 0; b < B; b++) sum += LOAD(at + b * WIDTH);
            sum /= SPLAT(B);
            for (Py_ssize_t b = 0; b < B; b++) {
                vec off = LOAD(at + b * WIDTH) - sum;
                squares += off * off;
            }
            NAME(set_row)(mean, c, v, sum);
            NAME(set_row)(variance, c, v, squares / SPLAT(B));
        }
        vec centre = NAME(row_vector)(mean, c, v), scale = NAME(inverse_root)(NAME(row_vector)(variance, c, v));
        for (Py_ssize_t b = 0; b < B; b++) STORE(at + b * WIDTH, (LOAD(at + b * WIDTH) - centre) * scale);
        for (Py_ssize_t b = 0; b < B && limit && !sees; b++) {
            const vec most = SPLAT(*limit), one = LOAD(at + b * WIDTH), capped = SELECT(one > most, most, one);
            STORE(at + b * WIDTH, SELECT(capped < -most, -most, capped));
        }
    }
}

/* Turn the gradient of a normalised state s (B, H) into that of the state before. */
static void NAME(normalise_backward)(Py_ssize_t B, Py_ssize_t H, const REAL *s, const REAL *variance, REAL *grad,
                                     const REAL *limit, int sees) {
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        for (int v = 0; v < c.vectors; v++) {
            vec scale = NAME(inverse_root)(NAME(row_vector)(variance, c, v)), mean = {0}, along = {0};
            for (Py_ssize_t b = 0; b < B && sees; b++) {
                vec g = NAME(row_vector)(grad + b * H, c, v);
                mean += g;
                along += g * NAME(row_vector)(s + b * H, c, v);
            }
            mean /= SPLAT(B), along /= SPLAT(B);
            for (Py_ssize_t b = 0; b < B; b++) {
                const vec own = NAME(row_vector)(s + b * H, c, v);
                vec g = NAME(row_vector)(grad + b * H, c, v) - mean - along * own;
                if (limit && !sees) g = SELECT((own < SPLAT(*limit)) & (own > -SPLAT(*limit)), g, SPLAT(0));
                NAME(set_row)(grad + b * H, c, v, g * scale);
            }
        }
    }
}

/* What does not change from step to step. */
typedef struct {
    const Supernet *net;
    Edge *edge;                   /* (1 + edges,): first the input node's, which reads the previous output */
    REAL *shares;                 /* of all edges' ops */
    double *dshares;              /* likewise */
    REAL *packed, *scratch, *rest; /* rest: what a direction needs besides */
} NAME(Run);
#define Run NAME(Run)

/* Of node i: how many edges lead into it, and its first edge's number. */
INLINE Py_ssize_t NAME(edges_into)(Py_ssize_t i) { return i ? i : 1; }
INLINE Py_ssize_t NAME(first_edge)(Py_ssize_t i) { return i ? 1 + i * (i - 1) / 2 : 0; }

/* Its products at step t, (edges * B, 2H). */
INLINE REAL *NAME(products)(const Supernet *net, Py_ssize_t i, Py_ssize_t t) {
    const Py_ssize_t size = net->B * 2 * net->H;
    if (!i) return (REAL *)net->A_0 + t * size;
    return (REAL *)net->A + (i * (i - 1) / 2 * net->kept + (net->kept == net->T ? t * i : 0)) * size;
}

INLINE REAL *NAME(states_at)(const Supernet *net, Py_ssize_t t) {
    return (REAL *)net->states + (net->kept == net->T ? t : 0) * net->nodes * net->B * net->H;
}

/* What node i reads at step t, (edges * B, H). */
INLINE const REAL *NAME(sources)(const Supernet *net, Py_ssize_t i, Py_ssize_t t) {
    if (i) return NAME(states_at)(net, t);
    return t ? (const REAL *)net->out + (t - 1) * net->B * net->H : net->h_0;
}

/* Its moments at step t; the variance lies nodes * H further. */
INLINE REAL *NAME(moments_at)(const Supernet *net, Py_ssize_t i, Py_ssize_t t) {
    return (REAL *)net->moments + ((net->norm == BATCH ? t : 0) * 2 * net->nodes + i) * net->H;
}

static void NAME(free_run)(Run *run) {
    free(run->edge);
    free(run->shares);
    free(run->dshares);
    free(run->packed);
}

/* Return 0, or -1 where there is no memory. */
static int NAME(begin_run)(const Supernet *net, Run *run, Py_ssize_t rest) {
    static const unsigned char input_op = CODE_tanh;
    const Py_ssize_t B = net->B, H = net->H, panels = NAME(packed_size)(2 * H, H), edges = net->nodes * (net->nodes - 1) / 2;
    const Py_ssize_t ops = 1 + net->first[edges], scratch = (2 * NAME(edges_into)(net->nodes - 1) + 1) * B * WIDTH;
    run->net = net;
    run->edge = allocate((1 + edges) * sizeof(Edge));
    run->shares = allocate(ops * sizeof(REAL));
    run->dshares = allocate(ops * sizeof(double));
    run->packed = allocate((net->nodes * panels + scratch + rest) * sizeof(REAL));
    if (!run->edge || !run->shares || !run->dshares || !run->packed) {
        NAME(free_run)(run);
        return -1;
    }
    run->scratch = run->packed + net->nodes * panels;
    run->rest = run->scratch + scratch;
    run->shares[0] = 1;
    for (Py_ssize_t k = 1; k < ops; k++) run->shares[k] = ((const REAL *)net->shares)[net->share[k - 1]];
    for (Py_ssize_t k = 0; k < ops; k++) run->dshares[k] = 0;
    run->edge[0] = (Edge){1, &input_op, run->shares, run->dshares, 1, 0};
    for (Py_ssize_t e = 0; e < edges; e++) {
        const Py_ssize_t at = 1 + net->first[e];
        Edge edge = {net->first[e + 1] - net->first[e], net->activation + at - 1, run->shares + at, run->dshares + at, 0,
                     *(const REAL *)net->skip};
        for (Py_ssize_t k = 0; k < edge.ops; k++) edge.total += edge.share[k];
        run->edge[1 + e] = edge;
    }
    return 0;
}

INLINE Node NAME(weights_of)(const Supernet *net, Py_ssize_t i) {
    return (Node){.blocks = 2, .W_h = (const REAL *)net->W_h + i * net->H * 2 * net->H};
}

/* Call `pass` for each block of rows and vector of a chunk of node i's products, in which it names rows' beginnings. */
#define FOR_EACH_BLOCK(e, v, b, count) \
    for (Py_ssize_t e = 0; e < edges; e++) \
        for (int v = 0; v < c.vectors; v++) \
            for (Py_ssize_t b = 0, count; b < B && (count = B - b < AT_ONCE ? B - b : AT_ONCE); b += AT_ONCE)

/* One node, one step. */
static void NAME(mixture_forward)(const Run *run, Py_ssize_t i, Py_ssize_t t, const REAL *packed) {
    const Supernet *net = run->net;
    const Py_ssize_t B = net->B, H = net->H, edges = NAME(edges_into)(i), rows = edges * B;
    const REAL *s = NAME(sources)(net, i, t);
    REAL *A = NAME(products)(net, i, t), *out = NAME(states_at)(net, t) + i * B * H, *scratch = run->scratch;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        const Chunk c = NAME(chunk)(first, H);
        const int whole = NAME(is_whole)(c);
        Tile half[2], sum = {scratch + 2 * rows * WIDTH, WIDTH};
        for (int k = 0; k < 2; k++, packed += H * c.vectors * LANES) { /* gate, op */
            REAL *a = A + k * H, *own = scratch + k * rows * WIDTH;
            half[k] = !i ? NAME(taken)(a, 2 * H, c, rows, own) : whole ? (Tile){a + first, 2 * H} : (Tile){own, WIDTH};
            NAME(packed_product)(c.vectors, rows, H, s, H, packed, i ? NULL : half[k].at, half[k].row, half[k].at, half[k].row);
            NAME(put_back)(half[k], a, 2 * H, c, rows);
        }
        for (Py_ssize_t j = 0; j < B * WIDTH; j++) sum.at[j] = 0;
        FOR_EACH_BLOCK(e, v, b, count) {
            const Tile gate = {half[0].at + (e * B + b) * half[0].row + v * LANES, half[0].row};
            const Tile z = {half[1].at + (e * B + b) * half[1].row + v * LANES, half[1].row};
            const Tile to = {sum.at + b * WIDTH + v * LANES, WIDTH};
            NAME(edge_forward)(run->edge + NAME(first_edge)(i) + e, count, H, c, v, gate, z, s + (e * B + b) * H, to);
        }
        if (net->norm) {
            REAL *mean = NAME(moments_at)(net, i, t);
            NAME(normalise)(B, c, sum.at, mean, mean + net->nodes * H, net->limit, net->norm == BATCH);
        }
        NAME(copy)(B, c.units, sum.at, WIDTH, out + first, H);
    }
}

/* One node, one step back: its products become their gradients; `grad` (B, H) is that of its state, to that of what it
 * reads, ds (edges * B, H), its part is added. */
static void NAME(mixture_backward)(const Run *run, Py_ssize_t i, Py_ssize_t t, const REAL *packed, REAL *grad, REAL *ds) {
    const Supernet *net = run->net;
    const Py_ssize_t B = net->B, H = net->H, edges = NAME(edges_into)(i), rows = edges * B;
    const REAL *s = NAME(sources)(net, i, t);
    REAL *A = NAME(products)(net, i, t), *scratch = run->scratch;
    if (net->norm)
        NAME(normalise_backward)(B, H, NAME(states_at)(net, t) + i * B * H, NAME(moments_at)(net, i, t) + net->nodes * H,
                                 grad, net->limit, net->norm == BATCH);
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        const Chunk c = NAME(chunk)(first, H);
        Tile half[2];
        for (int k = 0; k < 2; k++) half[k] = NAME(taken)(A + k * H, 2 * H, c, rows, scratch + k * rows * WIDTH);
        FOR_EACH_BLOCK(e, v, b, count) {
            const Tile gate = {half[0].at + (e * B + b) * half[0].row + v * LANES, half[0].row};
            const Tile z = {half[1].at + (e * B + b) * half[1].row + v * LANES, half[1].row};
            const Py_ssize_t at = (e * B + b) * H;
            NAME(edge_backward)(run->edge + NAME(first_edge)(i) + e, count, H, c, v, gate, z, s + at, grad + b * H, ds + at);
        }
        for (int k = 0; k < 2; k++) NAME(put_back)(half[k], A + k * H, 2 * H, c, rows);
    }
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        const Chunk c = NAME(chunk)(first, H);
        const Tile to = NAME(taken)(ds, H, c, rows, scratch);
        for (int k = 0; k < 2; k++, packed += H * c.vectors * LANES) /* half the panel at a time stays in a nearer cache */
            NAME(packed_product)(c.vectors, rows, H, A + k * H, 2 * H, packed, to.at, to.row, to.at, to.row);
        NAME(put_back)(to, ds, H, c, rows);
    }
}
#undef FOR_EACH_BLOCK

/* Return 0, or -1 where there is no memory. */
static int NAME(supernet_forward)(const Supernet *net) {
    const Py_ssize_t H = net->H, size = net->B * H, panels = NAME(packed_size)(2 * H, H);
    const REAL *mean = net->mean;
    Run run;
    if (NAME(begin_run)(net, &run, 0)) return -1;
    for (Py_ssize_t i = 0; i < net->nodes; i++) {
        const Node node = NAME(weights_of)(net, i);
        NAME(pack_weights)(&node, H, run.packed + i * panels);
    }
    for (Py_ssize_t t = 0; t < net->T; t++) {
        REAL *h = (REAL *)net->out + t * size;
        for (Py_ssize_t i = 0; i < net->nodes; i++) NAME(mixture_forward)(&run, i, t, run.packed + i * panels);
        for (Py_ssize_t e = 0; e < size; e++) h[e] = 0;
        for (Py_ssize_t i = 0; i < net->nodes; i++) {
            const REAL *s = NAME(states_at)(net, t) + i * size;
            if (mean[i] == 0) continue;
            for (Py_ssize_t e = 0; e < size; e++) h[e] += mean[i] * s[e];
        }
    }
    NAME(free_run)(&run);
    return 0;
}

/* Return 0, or -1 where there is no memory. */
static int NAME(supernet_backward)(const Supernet *net) {
    const Py_ssize_t H = net->H, size = net->B * H, panels = NAME(packed_size)(2 * H, H), N = net->nodes - 1;
    const REAL *mean = net->mean;
    REAL *dh = net->dh_0, *dshares = net->dshares;
    Run run;
    if (NAME(begin_run)(net, &run, net->nodes * size)) return -1;
    REAL *g = run.rest; /* (nodes, B, H): the states' gradients at a step */
    for (Py_ssize_t i = 0; i < net->nodes; i++) {
        const Node node = NAME(weights_of)(net, i);
        NAME(pack_transposed)(&node, H, run.packed + i * panels);
    }
    for (Py_ssize_t e = 0; e < size; e++) dh[e] = 0;
    for (Py_ssize_t t = net->T - 1; t >= 0; t--) {
        const REAL *grad = (const REAL *)net->grad + t * size;
        for (Py_ssize_t i = 0; i < net->nodes; i++)
            for (Py_ssize_t e = 0; e < size; e++) g[i * size + e] = mean[i] * (dh[e] + grad[e]);
        for (Py_ssize_t e = 0; e < size; e++) dh[e] = 0;
        for (Py_ssize_t i = N; i >= 0; i--)
            NAME(mixture_backward)(&run, i, t, run.packed + i * panels, g + i * size, i ? g : dh);
    }
    for (Py_ssize_t k = 0; k < net->first[N * (N + 1) / 2]; k++) dshares[net->share[k]] = (REAL)run.dshares[1 + k];
    NAME(free_run)(&run);
    return 0;
}

#undef AT_ONCE
#undef Edge
#undef Run
