/* The time loops of LSTM and GRU, a part of kernels.h. What is computed, and in which buffers, stands in ../gated.py. */

/* W_hh (gates*H, H) as panels for the forward loop, [chunk][gate][column of W_hh][unit]. */
static void NAME(pack_gates)(const Gated *net, REAL *to) {
    const Py_ssize_t H = net->H;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        for (int gate = 0; gate < net->gates; gate++, to += H * c.vectors * LANES)
            NAME(pack)(H, c, (const REAL *)net->W_hh + (gate * H + first) * H, 1, H, to);
    }
}

/* The same as panels for the backward loop, [chunk][row of W_hh][unit]. */
static void NAME(pack_gates_back)(const Gated *net, REAL *to) {
    const Py_ssize_t H = net->H, rows = net->gates * H;
    for (Py_ssize_t first = 0; first < H; first += WIDTH) {
        Chunk c = NAME(chunk)(first, H);
        NAME(pack)(rows, c, (const REAL *)net->W_hh + first, H, 1, to);
        to += rows * c.vectors * LANES;
    }
}

/* Return vector v of a chunk of a gate's bias. */
INLINE vec NAME(gate_bias)(const Gated *net, int gate, Chunk c, int v) {
    return NAME(row_vector)((const REAL *)net->bias + gate * net->H, c, v);
}

/* Apply the gates of one step to a chunk: z[k] holds what gate k is applied to, without bias, and becomes its value. */
INLINE void NAME(lstm_forward)(const Gated *net, Py_ssize_t t, Chunk c, const Tile *z) {
    const Py_ssize_t B = net->B, H = net->H;
    const REAL *before = t ? (const REAL *)net->cells + (t - 1) * B * H : net->c_0;
    REAL *cells = (REAL *)net->cells + t * B * H, *out = (REAL *)net->out + t * B * H;
    for (int v = 0; v < c.vectors; v++) {
        const vec b_i = NAME(gate_bias)(net, 0, c, v), b_f = NAME(gate_bias)(net, 1, c, v);
        const vec b_g = NAME(gate_bias)(net, 2, c, v), b_o = NAME(gate_bias)(net, 3, c, v);
        for (Py_ssize_t b = 0; b < B; b++) {
            const vec i = NAME(sigmoid)(LOAD(AT(z[0])) + b_i), f = NAME(sigmoid)(LOAD(AT(z[1])) + b_f);
            const vec g = NAME(tanh)(LOAD(AT(z[2])) + b_g), o = NAME(sigmoid)(LOAD(AT(z[3])) + b_o);
            const vec cell = f * NAME(row_vector)(before + b * H, c, v) + i * g;
            STORE(AT(z[0]), i), STORE(AT(z[1]), f), STORE(AT(z[2]), g), STORE(AT(z[3]), o);
            NAME(set_row)(cells + b * H, c, v, cell);
            NAME(set_row)(out + b * H, c, v, o * NAME(tanh)(cell));
        }
    }
}

/* The same; q holds the product with the state of the third gate and gets its bias. */
INLINE void NAME(gru_forward)(const Gated *net, Py_ssize_t t, Chunk c, const Tile *z, Tile q) {
    const Py_ssize_t B = net->B, H = net->H;
    const REAL *before = t ? (const REAL *)net->out + (t - 1) * B * H : net->h_0;
    REAL *out = (REAL *)net->out + t * B * H;
    for (int v = 0; v < c.vectors; v++) {
        const vec b_r = NAME(gate_bias)(net, 0, c, v), b_z = NAME(gate_bias)(net, 1, c, v);
        const vec b_n = NAME(gate_bias)(net, 2, c, v), b_q = NAME(gate_bias)(net, 3, c, v);
        for (Py_ssize_t b = 0; b < B; b++) {
            const vec state = NAME(row_vector)(before + b * H, c, v), from_s = LOAD(AT(q)) + b_q;
            const vec reset = NAME(sigmoid)(LOAD(AT(z[0])) + b_r), keep = NAME(sigmoid)(LOAD(AT(z[1])) + b_z);
            const vec n = NAME(tanh)(LOAD(AT(z[2])) + b_n + reset * from_s);
            STORE(AT(z[0]), reset), STORE(AT(z[1]), keep), STORE(AT(z[2]), n), STORE(AT(q), from_s);
            NAME(set_row)(out + b * H, c, v, n + keep * (state - n));
        }
    }
}

/* Return 0, or -1 if out of memory. */
static int NAME(gated_forward)(const Gated *net) {
    const Py_ssize_t B = net->B, H = net->H, row = net->gates * H;
    const int is_gru = net->gates == 3;
    const Py_ssize_t size = NAME(packed_size)(row, H);
    REAL *packed = allocate((size + 4 * B * WIDTH) * sizeof(REAL));
    if (!packed) return -1;
    REAL *scratch = packed + size;
    NAME(pack_gates)(net, packed);
    for (Py_ssize_t t = 0; t < net->T; t++) {
        const REAL *s = t ? (const REAL *)net->out + (t - 1) * B * H : net->h_0, *panel = packed;
        REAL *A = (REAL *)net->A + t * B * row, *Q = is_gru ? (REAL *)net->Q + t * B * H : NULL;
        for (Py_ssize_t first = 0; first < H; first += WIDTH) {
            const Chunk c = NAME(chunk)(first, H);
            Tile z[4], q = {0};
            for (int gate = 0; gate < net->gates; gate++, panel += H * c.vectors * LANES) {
                z[gate] = NAME(taken)(A + gate * H, row, c, B, scratch + gate * B * WIDTH);
                if (is_gru && gate == 2) {
                    q = NAME(is_whole)(c) ? (Tile){Q + first, H} : (Tile){scratch + 3 * B * WIDTH, WIDTH};
                    NAME(packed_product)(c.vectors, B, H, s, H, panel, NULL, 0, q.at, q.row);
                } else {
                    NAME(packed_product)(c.vectors, B, H, s, H, panel, z[gate].at, z[gate].row, z[gate].at, z[gate].row);
                }
            }
            if (is_gru) NAME(gru_forward)(net, t, c, z, q), NAME(put_back)(q, Q, H, c, B);
            else NAME(lstm_forward)(net, t, c, z);
            for (int gate = 0; gate < net->gates; gate++) NAME(put_back)(z[gate], A + gate * H, row, c, B);
        }
    }
    free(packed);
    return 0;
}

/* Turn the gates of one step into the gradients of what they were applied to; `g` (B, H) is the gradient of the output, and
 * `carried` (B, H) the gradient of the cell, first of this step's, then of the step's before. */
INLINE void NAME(lstm_backward)(const Gated *net, Py_ssize_t t, const REAL *g, REAL *carried) {
    const Py_ssize_t B = net->B, H = net->H;
    const REAL *cells = (const REAL *)net->cells + t * B * H;
    const REAL *before = t ? cells - B * H : net->c_0;
    for (Py_ssize_t b = 0; b < B; b++)
        for (Py_ssize_t first = 0; first < H; first += WIDTH) {
            const Chunk c = NAME(chunk)(first, H);
            REAL *gates = (REAL *)net->A + (t * B + b) * 4 * H;
            for (int v = 0; v < c.vectors; v++) {
                const vec i = NAME(row_vector)(gates, c, v), f = NAME(row_vector)(gates + H, c, v);
                const vec n = NAME(row_vector)(gates + 2 * H, c, v), o = NAME(row_vector)(gates + 3 * H, c, v);
                const vec y = NAME(tanh)(NAME(row_vector)(cells + b * H, c, v)), dh = NAME(row_vector)(g + b * H, c, v);
                const vec dc = NAME(row_vector)(carried + b * H, c, v) + dh * o * NAME(tanh_slope)(y, y);
                const vec di = dc * n * NAME(sigmoid_slope)(i, i);
                const vec df = dc * NAME(row_vector)(before + b * H, c, v) * NAME(sigmoid_slope)(f, f);
                NAME(set_row)(gates, c, v, di);
                NAME(set_row)(gates + H, c, v, df);
                NAME(set_row)(gates + 2 * H, c, v, dc * i * NAME(tanh_slope)(n, n));
                NAME(set_row)(gates + 3 * H, c, v, dh * y * NAME(sigmoid_slope)(o, o));
                NAME(set_row)(carried + b * H, c, v, dc * f);
            }
        }
}

/* The same; Q becomes the gradient of the third gate's product with the state, and `carried` (B, H) the part of the gradient
 * of the state before that passes no product. */
INLINE void NAME(gru_backward)(const Gated *net, Py_ssize_t t, const REAL *g, REAL *carried) {
    const Py_ssize_t B = net->B, H = net->H;
    const REAL *before = t ? (const REAL *)net->out + (t - 1) * B * H : net->h_0;
    for (Py_ssize_t b = 0; b < B; b++)
        for (Py_ssize_t first = 0; first < H; first += WIDTH) {
            const Chunk c = NAME(chunk)(first, H);
            REAL *gates = (REAL *)net->A + (t * B + b) * 3 * H, *q = (REAL *)net->Q + (t * B + b) * H;
            for (int v = 0; v < c.vectors; v++) {
                const vec reset = NAME(row_vector)(gates, c, v), keep = NAME(row_vector)(gates + H, c, v);
                const vec n = NAME(row_vector)(gates + 2 * H, c, v), dh = NAME(row_vector)(g + b * H, c, v);
                const vec change = NAME(row_vector)(before + b * H, c, v) - n;
                const vec dn = dh * (SPLAT(1) - keep) * NAME(tanh_slope)(n, n);
                NAME(set_row)(gates, c, v, dn * NAME(row_vector)(q, c, v) * NAME(sigmoid_slope)(reset, reset));
                NAME(set_row)(gates + H, c, v, dh * change * NAME(sigmoid_slope)(keep, keep));
                NAME(set_row)(gates + 2 * H, c, v, dn);
                NAME(set_row)(q, c, v, dn * reset);
                NAME(set_row)(carried + b * H, c, v, dh * keep);
            }
        }
}

/* Return 0, or -1 if out of memory. */
static int NAME(gated_backward)(const Gated *net) {
    const Py_ssize_t B = net->B, H = net->H, row = net->gates * H;
    const int is_gru = net->gates == 3;
    const Py_ssize_t size = NAME(packed_size)(row, H), from_a = is_gru ? 2 * H : 4 * H;
    REAL *packed = allocate((size + B * WIDTH + B * H) * sizeof(REAL));
    if (!packed) return -1;
    REAL *scratch = packed + size, *g = scratch + B * WIDTH, *dh = net->dh_0;
    NAME(pack_gates_back)(net, packed);
    for (Py_ssize_t e = 0; e < B * H; e++) dh[e] = 0;
    for (Py_ssize_t t = net->T - 1; t >= 0; t--) {
        const REAL *grad = (const REAL *)net->grad + t * B * H, *panel = packed;
        const REAL *A = (const REAL *)net->A + t * B * row;
        for (Py_ssize_t e = 0; e < B * H; e++) g[e] = dh[e] + grad[e];
        if (is_gru) NAME(gru_backward)(net, t, g, dh);
        else NAME(lstm_backward)(net, t, g, net->dc_0);
        for (Py_ssize_t first = 0; first < H; first += WIDTH) {
            const Chunk c = NAME(chunk)(first, H);
            Tile out = NAME(is_whole)(c) || is_gru ? NAME(taken)(dh, H, c, B, scratch) : (Tile){scratch, WIDTH};
            NAME(packed_product)(c.vectors, B, from_a, A, row, panel, is_gru ? out.at : NULL, out.row, out.at, out.row);
            panel += from_a * c.vectors * LANES;
            if (is_gru) {
                NAME(packed_product)(c.vectors, B, H, (const REAL *)net->Q + t * B * H, H, panel, out.at, out.row, out.at,
                                     out.row);
                panel += H * c.vectors * LANES;
            }
            NAME(put_back)(out, dh, H, c, B);
        }
    }
    free(packed);
    return 0;
}
