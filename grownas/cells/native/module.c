/* grownas.cells._native: the time loops of chains and DAGs in C, see kernels.h. Compiled once for each instruction set
 * below and chosen at import, so that one build runs on every processor. Uses one thread and releases the GIL. Addresses
 * are integers; the callers, grownas/cells/native_loop.py and dag_native_loop.py, ensure types and layouts. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

/* The activations with kernels: kernels.h defines NAME and NAME_slope, the code is the code in ops.ACTIVATION. */
#define ACTIVATIONS(X) X(identity) X(tanh) X(sigmoid) X(relu) X(silu) X(softsign)
enum { CODE_identity = 0, CODE_tanh = 1, CODE_sigmoid = 2, CODE_relu = 3, CODE_silu = 4, CODE_softsign = 5 };

typedef struct {
    Py_ssize_t ops, additive;                                      /* additive ones first */
    Py_ssize_t additive_projections, gate, hadamard_projections;   /* blocks of H columns, in this order */
    Py_ssize_t blocks;                                             /* their sum */
    int alone;                                                     /* reads the state only: its rows of A are not set */
    const unsigned char *activation;                               /* (ops,), its code */
    const int *projection;                                         /* (ops,), its number within its kind */
    const void *W_h, *b_x, *b_h, *shares;                          /* (H, blocks*H), (ops, H), (Hadamard ops, H), (ops,) */
    void *out, *mixed;                                             /* (T, B, H); mixed may be NULL without a gate */
    void *db_x, *db_h, *dshares;                                   /* backward: added to, added to, written */
} Node;

typedef struct {
    Py_ssize_t T, B, H, nodes, A_row, Q_row;
    void *A, *Q; /* (T*B, A_row), (T*B, Q_row); Q may be NULL going forward */
    const void *h_0, *grad;
    void *dh_0;
    Node *node;
} Chain;

typedef struct { /* a layer of a DAG, see ../dag_sequence.py; its node 0 is the input node */
    Py_ssize_t T, kept, B, H, nodes, outputs; /* kept: steps that A, states and values hold, T or 1 */
    void *A_0, *A, *states, *values;          /* (T, B, 2H), (nodes - 1, kept, B, 2H), (nodes, kept, B, H) twice */
    void *out;                                /* (T, B, H) */
    const void *W_h, *h_0, *grad;             /* (nodes, H, 2H), (B, H), (T, B, H) */
    void *dh_0;
    const int *reads;                         /* (nodes - 1,) */
    const unsigned char *activation, *weight; /* (nodes,): codes; 1 for the nodes whose mean is the output, else 0 */
} Dag;

enum { BATCH = 1, RUNNING = 2 }; /* how a supernet's states are normalised; 0: they are not */
#define SUPERNET_EPSILON 1e-5    /* added to variances */

typedef struct { /* a DAG supernet, see ../dag_supernet_sequence.py; its node 0 is the input node */
    Py_ssize_t T, kept, B, H, nodes;        /* kept: steps that A and states hold, T or 1 */
    int norm;
    void *A_0, *A, *states, *out, *moments; /* (T, B, 2H), of each node i (kept, i, B, 2H), (kept, nodes, B, H), (T, B, H);
                                               moments (T, 2, nodes, H), written forward, or (2, nodes, H), given */
    const void *limit;                      /* (): of a state normalised by given moments; may be NULL */
    const void *W_h, *shares, *mean, *skip; /* (nodes, H, 2H), (all ops and nones,), (nodes,), () */
    const void *h_0, *grad;                 /* (B, H), (T, B, H) */
    void *dh_0, *dshares;                   /* (B, H); written at the places in `share` */
    const int *first, *share;               /* (edges + 1,): each edge's first op; (ops,): its place among the shares */
    const unsigned char *activation;        /* (ops,): its code */
} Supernet;

typedef struct { /* an LSTM (4 gates) or a GRU (3 gates), see ../gated.py */
    Py_ssize_t T, B, H;
    int gates;
    void *A, *Q, *out, *cells;     /* (T, B, gates*H); Q of a GRU, cells of an LSTM, out: (T, B, H) */
    const void *W_hh, *bias;       /* (gates*H, H), (4, H) */
    const void *h_0, *c_0, *grad;  /* (B, H), (B, H), (T, B, H) */
    void *dh_0, *dc_0;             /* (B, H); dc_0 holds the gradient of the last cell at first */
} Gated;

#define DEPTH 384 /* most rows of a panel: as many as fit in a first-level cache */

static void *allocate(size_t bytes) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, bytes ? bytes : 64) ? NULL : memory;
}

/* Request large pages before a large buffer is first written: otherwise each 4 KiB page costs a page fault, and its rows
 * need more address translations than the processor caches. A hint: failure does not matter. */
static void want_large_pages(void *buffer, size_t bytes) {
#ifdef MADV_HUGEPAGE
    const uintptr_t page = 4096, begin = ((uintptr_t)buffer + page - 1) / page * page;
    if (bytes >= 4 << 20) madvise((void *)begin, ((uintptr_t)buffer + bytes - begin) / page * page, MADV_HUGEPAGE);
#else
    (void)buffer, (void)bytes;
#endif
}

static const float TAYLOR_float[] = {1 / 2., 1 / 6., 1 / 24., 1 / 120., 1 / 720., 1 / 5040.};
static const double TAYLOR_double[] = {1 / 2.,      1 / 6.,       1 / 24.,        1 / 120.,       1 / 720.,       1 / 5040.,
                                       1 / 40320.,  1 / 362880.,  1 / 3628800.,   1 / 39916800.,  1 / 479001600.,
                                       1 / 6227020800.};

typedef struct {
    const char *name;
    int (*forward[2])(const Chain *); /* float, double */
    int (*backward[2])(const Chain *);
    int (*dag_forward[2])(const Dag *);
    int (*dag_backward[2])(const Dag *);
    int (*supernet_forward[2])(const Supernet *);
    int (*supernet_backward[2])(const Supernet *);
    int (*gated_forward[2])(const Gated *);
    int (*gated_backward[2])(const Gated *);
    int (*multiply_float)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t, Py_ssize_t, const float *, Py_ssize_t,
                          Py_ssize_t, float *, Py_ssize_t);
    int (*multiply_double)(Py_ssize_t, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t, Py_ssize_t, const double *, Py_ssize_t,
                           Py_ssize_t, double *, Py_ssize_t);
    void (*activate_float)(int, Py_ssize_t, const float *, float *);
    void (*activate_double)(int, Py_ssize_t, const double *, double *);
} Kernels;

#define KERNELS(isa) \
    static const Kernels kernels_##isa = {#isa, {forward_##isa##_float, forward_##isa##_double}, \
                                          {backward_##isa##_float, backward_##isa##_double}, \
                                          {dag_forward_##isa##_float, dag_forward_##isa##_double}, \
                                          {dag_backward_##isa##_float, dag_backward_##isa##_double}, \
                                          {supernet_forward_##isa##_float, supernet_forward_##isa##_double}, \
                                          {supernet_backward_##isa##_float, supernet_backward_##isa##_double}, \
                                          {gated_forward_##isa##_float, gated_forward_##isa##_double}, \
                                          {gated_backward_##isa##_float, gated_backward_##isa##_double}, \
                                          multiply_##isa##_float, multiply_##isa##_double, activate_##isa##_float, activate_##isa##_double};

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
#endif
#define BYTES 64
#define ROWS 8
#define ISA avx512
#include "both_types.h"
KERNELS(avx512)
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define BYTES 32
#define ROWS 4
#define ISA avx2
#include "both_types.h"
KERNELS(avx2)
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define BYTES 16
#define ROWS 4
#define ISA baseline
#include "both_types.h"
KERNELS(baseline)

static const Kernels *kernels = &kernels_baseline;

static int can_run(const Kernels *wanted) {
#ifdef X86
    __builtin_cpu_init();
    if (wanted == &kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (wanted == &kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return wanted == &kernels_baseline;
}

static const Kernels *const ALL[] = { /* fastest first */
#ifdef X86
    &kernels_avx512, &kernels_avx2,
#endif
    &kernels_baseline,
};
#define COUNT (Py_ssize_t)(sizeof ALL / sizeof *ALL)

/* Read a node from its tuple, see native_loop.py; the bytes stay alive with it. */
static int read_node(PyObject *tuple, Node *node) {
    Py_ssize_t activations, projections;
    const char *activation, *projection;
    unsigned long long W_h, b_x, b_h, shares, out, mixed, db_x, db_h, dshares;
    if (!PyArg_ParseTuple(tuple, "y#y#nnnnKKKKKKKKK", &activation, &activations, &projection, &projections, &node->additive,
                          &node->additive_projections, &node->gate, &node->hadamard_projections, &W_h, &b_x, &b_h, &shares,
                          &out, &mixed, &db_x, &db_h, &dshares))
        return -1;
    if (activations * (Py_ssize_t)sizeof(int) != projections || node->additive > activations) {
        PyErr_SetString(PyExc_ValueError, "every op needs an activation and a projection");
        return -1;
    }
    node->ops = activations;
    node->alone = 0;
    node->blocks = node->additive_projections + node->gate + node->hadamard_projections;
    node->activation = (const unsigned char *)activation;
    node->projection = (const int *)(const void *)projection;
    node->W_h = (const void *)(uintptr_t)W_h;
    node->b_x = (const void *)(uintptr_t)b_x;
    node->b_h = (const void *)(uintptr_t)b_h;
    node->shares = (const void *)(uintptr_t)shares;
    node->out = (void *)(uintptr_t)out;
    node->mixed = (void *)(uintptr_t)mixed;
    node->db_x = (void *)(uintptr_t)db_x;
    node->db_h = (void *)(uintptr_t)db_h;
    node->dshares = (void *)(uintptr_t)dshares;
    return 0;
}

/* loop(is_backward, is_double, T, B, H, A, A_row, Q, Q_row, h_0, grad, dh_0, nodes) */
static PyObject *loop(PyObject *self, PyObject *args) {
    (void)self;
    int is_backward, is_double, failed;
    unsigned long long A, Q, h_0, grad, dh_0;
    PyObject *nodes;
    Chain chain;
    if (!PyArg_ParseTuple(args, "ppnnnKnKnKKKO!", &is_backward, &is_double, &chain.T, &chain.B, &chain.H, &A, &chain.A_row,
                          &Q, &chain.Q_row, &h_0, &grad, &dh_0, &PyTuple_Type, &nodes))
        return NULL;
    chain.A = (void *)(uintptr_t)A;
    chain.Q = (void *)(uintptr_t)Q;
    chain.h_0 = (const void *)(uintptr_t)h_0;
    chain.grad = (const void *)(uintptr_t)grad;
    chain.dh_0 = (void *)(uintptr_t)dh_0;
    chain.nodes = PyTuple_Size(nodes);
    chain.node = PyMem_Malloc((size_t)chain.nodes * sizeof(Node));
    if (!chain.node) return PyErr_NoMemory();
    for (Py_ssize_t j = 0; j < chain.nodes; j++)
        if (read_node(PyTuple_GetItem(nodes, j), &chain.node[j])) {
            PyMem_Free(chain.node);
            return NULL;
        }
    const size_t size = is_double ? sizeof(double) : sizeof(float);
    if (!is_backward && Q) want_large_pages(chain.Q, (size_t)chain.T * chain.B * chain.Q_row * size);
    int (*const run)(const Chain *) = is_backward ? kernels->backward[is_double] : kernels->forward[is_double];
    Py_BEGIN_ALLOW_THREADS
    failed = run(&chain);
    Py_END_ALLOW_THREADS
    PyMem_Free(chain.node);
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* dag(is_backward, is_double, T, kept, B, H, outputs, reads, activations, weights, A_0, A, states, values, out, W_h, h_0, grad,
 *     dh_0) */
static PyObject *dag(PyObject *self, PyObject *args) {
    (void)self;
    int is_backward, is_double, failed;
    Py_ssize_t reads, activations, weights;
    const char *read, *activation, *weight;
    unsigned long long A_0, A, states, values, out, W_h, h_0, grad, dh_0;
    Dag dag;
    if (!PyArg_ParseTuple(args, "ppnnnnny#y#y#KKKKKKKKK", &is_backward, &is_double, &dag.T, &dag.kept, &dag.B, &dag.H,
                          &dag.outputs, &read, &reads, &activation, &activations, &weight, &weights, &A_0, &A, &states,
                          &values, &out, &W_h, &h_0, &grad, &dh_0))
        return NULL;
    if (activations != weights || (activations - 1) * (Py_ssize_t)sizeof(int) != reads) {
        PyErr_SetString(PyExc_ValueError, "every node needs an activation and a weight; all but the first need a source");
        return NULL;
    }
    dag.nodes = activations;
    dag.reads = (const int *)(const void *)read;
    dag.activation = (const unsigned char *)activation;
    dag.weight = (const unsigned char *)weight;
    dag.A_0 = (void *)(uintptr_t)A_0;
    dag.A = (void *)(uintptr_t)A;
    dag.states = (void *)(uintptr_t)states;
    dag.values = (void *)(uintptr_t)values;
    dag.out = (void *)(uintptr_t)out;
    dag.W_h = (const void *)(uintptr_t)W_h;
    dag.h_0 = (const void *)(uintptr_t)h_0;
    dag.grad = (const void *)(uintptr_t)grad;
    dag.dh_0 = (void *)(uintptr_t)dh_0;
    int (*const run)(const Dag *) = is_backward ? kernels->dag_backward[is_double] : kernels->dag_forward[is_double];
    Py_BEGIN_ALLOW_THREADS
    failed = run(&dag);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* supernet(is_backward, is_double, T, kept, B, H, nodes, norm, first, share, activations, A_0, A, states, out, moments,
 *          limit, W_h, shares, mean, skip, h_0, grad, dh_0, dshares) */
static PyObject *supernet(PyObject *self, PyObject *args) {
    (void)self;
    int is_backward, is_double, failed;
    Py_ssize_t firsts, shares, activations;
    const char *first, *share, *activation;
    unsigned long long at[14];
    Supernet net;
    if (!PyArg_ParseTuple(args, "ppnnnnniy#y#y#KKKKKKKKKKKKKK", &is_backward, &is_double, &net.T, &net.kept, &net.B, &net.H,
                          &net.nodes, &net.norm, &first, &firsts, &share, &shares, &activation, &activations, at, at + 1,
                          at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, at + 8, at + 9, at + 10, at + 11, at + 12,
                          at + 13))
        return NULL;
    if (firsts != (net.nodes * (net.nodes - 1) / 2 + 1) * (Py_ssize_t)sizeof(int) ||
        shares != activations * (Py_ssize_t)sizeof(int)) {
        PyErr_SetString(PyExc_ValueError, "a first op is needed for each edge, an activation and a share's place for each op");
        return NULL;
    }
    void *buffers[14];
    for (int i = 0; i < 14; i++) buffers[i] = (void *)(uintptr_t)at[i];
    net.first = (const int *)(const void *)first, net.share = (const int *)(const void *)share;
    net.activation = (const unsigned char *)activation;
    net.A_0 = buffers[0], net.A = buffers[1], net.states = buffers[2], net.out = buffers[3], net.moments = buffers[4];
    net.limit = buffers[5], net.W_h = buffers[6], net.shares = buffers[7], net.mean = buffers[8], net.skip = buffers[9];
    net.h_0 = buffers[10], net.grad = buffers[11], net.dh_0 = buffers[12], net.dshares = buffers[13];
    const size_t size = is_double ? sizeof(double) : sizeof(float);
    const size_t products = (size_t)net.kept * net.nodes * (net.nodes - 1) / 2 * net.B * 2 * net.H;
    if (!is_backward) want_large_pages(net.A, products * size);
    int (*const run)(const Supernet *) =
        is_backward ? kernels->supernet_backward[is_double] : kernels->supernet_forward[is_double];
    Py_BEGIN_ALLOW_THREADS
    failed = run(&net);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* gated(is_backward, is_double, gates, T, B, H, A, Q, out, cells, W_hh, bias, h_0, c_0, grad, dh_0, dc_0) */
static PyObject *gated(PyObject *self, PyObject *args) {
    (void)self;
    int is_backward, is_double, failed;
    unsigned long long at[11];
    Gated net;
    if (!PyArg_ParseTuple(args, "ppinnnKKKKKKKKKKK", &is_backward, &is_double, &net.gates, &net.T, &net.B, &net.H, at, at + 1,
                          at + 2, at + 3, at + 4, at + 5, at + 6, at + 7, at + 8, at + 9, at + 10))
        return NULL;
    if (net.gates != 3 && net.gates != 4) {
        PyErr_SetString(PyExc_ValueError, "a GRU has 3 gates, an LSTM 4");
        return NULL;
    }
    void *buffers[11];
    for (int i = 0; i < 11; i++) buffers[i] = (void *)(uintptr_t)at[i];
    net.A = buffers[0], net.Q = buffers[1], net.out = buffers[2], net.cells = buffers[3], net.W_hh = buffers[4];
    net.bias = buffers[5], net.h_0 = buffers[6], net.c_0 = buffers[7], net.grad = buffers[8], net.dh_0 = buffers[9];
    net.dc_0 = buffers[10];
    int (*const run)(const Gated *) = is_backward ? kernels->gated_backward[is_double] : kernels->gated_forward[is_double];
    Py_BEGIN_ALLOW_THREADS
    failed = run(&net);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* multiply(is_double, M, N, K, a, a_row, a_column, b, b_row, b_column, out, out_row) */
static PyObject *multiply(PyObject *self, PyObject *args) {
    (void)self;
    int is_double, failed;
    Py_ssize_t M, N, K, a_row, a_column, b_row, b_column, out_row;
    unsigned long long a, b, out;
    if (!PyArg_ParseTuple(args, "pnnnKnnKnnKn", &is_double, &M, &N, &K, &a, &a_row, &a_column, &b, &b_row, &b_column, &out,
                          &out_row))
        return NULL;
    const void *x = (const void *)(uintptr_t)a, *y = (const void *)(uintptr_t)b;
    void *to = (void *)(uintptr_t)out;
    if (out_row == N) want_large_pages(to, (size_t)M * N * (is_double ? sizeof(double) : sizeof(float)));
    Py_BEGIN_ALLOW_THREADS
    failed = is_double ? kernels->multiply_double(M, N, K, x, a_row, a_column, y, b_row, b_column, to, out_row)
                       : kernels->multiply_float(M, N, K, x, a_row, a_column, y, b_row, b_column, to, out_row);
    Py_END_ALLOW_THREADS
    if (failed) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* activate(is_double, activation, n, z, y): for tests; n is a multiple of 16 */
static PyObject *activate(PyObject *self, PyObject *args) {
    (void)self;
    int is_double, activation;
    Py_ssize_t n;
    unsigned long long z, y;
    if (!PyArg_ParseTuple(args, "pinKK", &is_double, &activation, &n, &z, &y)) return NULL;
    if (is_double) kernels->activate_double(activation, n, (const double *)(uintptr_t)z, (double *)(uintptr_t)y);
    else kernels->activate_float(activation, n, (const float *)(uintptr_t)z, (float *)(uintptr_t)y);
    Py_RETURN_NONE;
}

static PyObject *instruction_sets(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    PyObject *names = PyList_New(0);
    for (Py_ssize_t i = 0; names && i < COUNT; i++) {
        if (!can_run(ALL[i])) continue;
        PyObject *name = PyUnicode_FromString(ALL[i]->name);
        if (!name || PyList_Append(names, name)) Py_CLEAR(names);
        Py_XDECREF(name);
    }
    return names;
}

static PyObject *use(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name)) return NULL;
    for (Py_ssize_t i = 0; i < COUNT; i++)
        if (!strcmp(name, ALL[i]->name) && can_run(ALL[i])) {
            const char *before = kernels->name;
            kernels = ALL[i];
            return PyUnicode_FromString(before);
        }
    PyErr_Format(PyExc_ValueError, "this processor has no instruction set %s", name);
    return NULL;
}

static PyMethodDef METHODS[] = {
    {"loop", loop, METH_VARARGS, "Run a chain's time loop, forward or backward."},
    {"dag", dag, METH_VARARGS, "Run a DAG's time loop, forward or backward."},
    {"supernet", supernet, METH_VARARGS, "Run a DAG supernet's time loop, forward or backward."},
    {"gated", gated, METH_VARARGS, "Run the time loop of an LSTM or a GRU, forward or backward."},
    {"multiply", multiply, METH_VARARGS, "Multiply two matrices."},
    {"activate", activate, METH_VARARGS, "Apply one activation."},
    {"instruction_sets", instruction_sets, METH_NOARGS, "Names of the instruction sets that this processor has, fastest first."},
    {"use", use, METH_VARARGS, "Choose an instruction set by name; return the name of the previous one."},
    {NULL, NULL, 0, NULL},
};

static int fill(PyObject *module) {
    for (Py_ssize_t i = COUNT - 1; i >= 0; i--)
        if (can_run(ALL[i])) kernels = ALL[i];
#define CODE(name) CODE_##name,
    const char codes[] = {ACTIVATIONS(CODE)};
#undef CODE
    PyObject *bytes = PyBytes_FromStringAndSize(codes, sizeof codes);
    const int failed = !bytes || PyObject_SetAttrString(module, "CODES", bytes);
    Py_XDECREF(bytes);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, fill}, {0, NULL}};

static PyModuleDef MODULE = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_native",
    .m_doc = "The time loops in C.",
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&MODULE); }
