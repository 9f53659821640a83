/* kernels.h for float and for double, on the instruction set ISA; undefines BYTES, ROWS and ISA at the end. */

#define JOIN_(x, isa, type) x##_##isa##_##type
#define JOIN(x, isa, type) JOIN_(x, isa, type)

#define REAL float
#define INT int32_t
#define NAME(x) JOIN(x, ISA, float)
#define SIGN_MASK 0x7fffffff
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER 12582912.f /* 1.5 * 2^23 */
#define LOG2_E 1.44269504088896341f
#define LN2_HIGH 0.693359375f /* few bits, so that whole * LN2_HIGH is exact */
#define LN2_LOW -2.12194440054690583e-4f
#define TAYLOR TAYLOR_float
#define TAYLOR_TERMS 6
#define TANH_LIMIT 9.5f
#define EXP_LIMIT 105.f
#include "kernels.h"

#define REAL double
#define INT int64_t
#define NAME(x) JOIN(x, ISA, double)
#define SIGN_MASK 0x7fffffffffffffff
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 6755399441055744. /* 1.5 * 2^52 */
#define LOG2_E 1.44269504088896341
#define LN2_HIGH 6.93147180369123816490e-1
#define LN2_LOW 1.90821492927058770002e-10
#define TAYLOR TAYLOR_double
#define TAYLOR_TERMS 12
#define TANH_LIMIT 20.
#define EXP_LIMIT 750.
#include "kernels.h"

#undef JOIN
#undef JOIN_
#undef BYTES
#undef ROWS
#undef ISA
