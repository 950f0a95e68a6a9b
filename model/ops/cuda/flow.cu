#include "base/cuda/kernel.cuh"
// Beside the arithmetic of the normals, which brings <math.h>.
#include "base/philox.h"

extern "C" {
#include "model/ops/flow.h"
}

enum { THREADS = 256 };

// VEC reals or floats from or to a place that is a multiple of VEC away from a multiple of 16
// bytes: 16-byte accesses, or single ones where VEC is 1.
template <int VEC>
static __device__ __forceinline__ void load_reals(float out[VEC], const real *from) {
    if constexpr (VEC == REALS_16) {
        load_16(out, from);
    } else {
        out[0] = to_float(from[0]);
    }
}

template <int VEC>
static __device__ __forceinline__ void store_reals(real *to, const float in[VEC]) {
    if constexpr (VEC == REALS_16) {
        store_16(to, in);
    } else {
        to[0] = to_real(in[0]);
    }
}

template <int VEC>
static __device__ __forceinline__ void load_floats(float out[VEC], const float *from) {
    if constexpr (VEC == REALS_16) {
        for (int i = 0; i < VEC; i += 4) {
            const float4 four = *(const float4 *)(from + i);
            out[i] = four.x;
            out[i + 1] = four.y;
            out[i + 2] = four.z;
            out[i + 3] = four.w;
        }
    } else {
        out[0] = from[0];
    }
}

template <int VEC>
static __device__ __forceinline__ void store_floats(float *to, const float in[VEC]) {
    if constexpr (VEC == REALS_16) {
        for (int i = 0; i < VEC; i += 4) {
            *(float4 *)(to + i) = make_float4(in[i], in[i + 1], in[i + 2], in[i + 3]);
        }
    } else {
        to[0] = in[0];
    }
}

static bool aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

// ---- noise
// Four numbers by each thread, as Philox gives them.
static __global__ void normals_kernel(float *out, NoiseKey key, int64_t count) {
    const int64_t block = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, first = 4 * block;
    if (first >= count) return;  // No barrier follows.
    uint32_t bits[4];
    float normal[4];
    philox_block(bits, key.seed, (uint32_t)key.purpose, key.position, (uint64_t)block);
    normals_of_bits(normal, bits);
    if (count - first >= 4) {
        *(float4 *)(out + first) = make_float4(normal[0], normal[1], normal[2], normal[3]);
    } else {
        for (int i = 0; first + i < count; i++) out[first + i] = normal[i];
    }
}

// A warp for a token, a lane for a run of patch.w elements; the tokens of a block lie beside each
// other, so what a warp leaves of a line the next one takes. Moves 8 bytes per element.
static __global__ void patch_kernel(float *out, const float *latent, LatentShape shape,
                                    PatchSize patch, int32_t first, int32_t count) {
    const int32_t runs = shape.C * patch.t * patch.h;
    for (int32_t run = (int32_t)threadIdx.x; run < runs; run += WARP) {
        const int32_t c = run / (patch.t * patch.h), i = run / patch.h % patch.t;
        for (int64_t n = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; n < count;
             n += (int64_t)gridDim.x * blockDim.y) {
            const float *from =
                latent + patch_run(shape, patch, first + (int32_t)n, c, i, run % patch.h);
            float *to = out + (n * runs + run) * patch.w;
            if (patch.w == 2) {
                *(float2 *)to = *(const float2 *)from;
            } else {
                for (int k = 0; k < patch.w; k++) to[k] = from[k];
            }
        }
    }
}

void flow_noise(float *out, const NoiseKey *key, LatentShape shape, PatchSize patch, int64_t first,
                int64_t count, float *scratch, Stream stream) {
    if (count == 0) return;
    const int64_t elements = latent_elements(shape);
    CHECK(aligned(scratch) && (patch.w != 2 || (uintptr_t)out % 8 == 0), "unaligned noise: %p, %p",
          (void *)out, (void *)scratch);
    LAUNCH(normals_kernel, div_up(elements, 4 * THREADS), THREADS, 0, stream, scratch, *key,
           elements);
    LAUNCH(patch_kernel, min_i64(div_up(count, THREADS / WARP), 4096), dim3(WARP, THREADS / WARP),
           0, stream, out, scratch, shape, patch, (int32_t)first, (int32_t)count);
}

// ---- noising
// VEC elements of one token by each thread. Moves 12 bytes per element and a real.
template <int VEC>
static __global__ void mix_kernel(real *x_t, float *target, const float *data, const float *noise,
                                  const float *time, const int32_t *segment, uint32_t vectors,
                                  uint32_t vectors_row) {
    const uint32_t v = blockIdx.x * blockDim.x + threadIdx.x;
    if (v >= vectors) return;  // No barrier follows.
    const int64_t i = (int64_t)v * VEC;
    const float share = time[segment[v / vectors_row]];
    float x[VEC], n[VEC], mixed[VEC], difference[VEC];
    load_floats<VEC>(x, data + i);
    load_floats<VEC>(n, noise + i);
    for (int k = 0; k < VEC; k++) {
        mixed[k] = fmaf(share, x[k], (1.0f - share) * n[k]);
        difference[k] = x[k] - n[k];
    }
    store_reals<VEC>(x_t + i, mixed);
    store_floats<VEC>(target + i, difference);
}

template <int VEC>
static void mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
                const int32_t *segment, int64_t T, int64_t E, Stream stream) {
    const int64_t vectors = T * (E / VEC);
    CHECK(vectors < (int64_t)1 << 32, "%lld elements in a pack", (long long)(T * E));
    LAUNCH(mix_kernel<VEC>, div_up(vectors, THREADS), THREADS, 0, stream, x_t, target, data, noise,
           time, segment, (uint32_t)vectors, (uint32_t)(E / VEC));
}

void flow_mix(real *x_t, float *target, const float *data, const float *noise, const float *time,
              const int32_t *segment, int64_t T, int64_t E, Stream stream) {
    const bool wide =
        E % REALS_16 == 0 && aligned(x_t) && aligned(target) && aligned(data) && aligned(noise);
    (wide ? mix<REALS_16> : mix<1>)(x_t, target, data, noise, time, segment, T, E, stream);
}

// ---- loss
// The pack is cut into chunks of LOSS_ROWS rows. A block has a chunk: `lanes` threads add up a row,
// then a warp, a lane for a row, adds up the rows of each segment in the chunk and leaves the sum
// at partial[first of these rows]. The second kernel adds a segment's partial sums: they stand at
// its first row and at every start of a chunk behind it. Moves 4 bytes per element and a real, two
// with dout.
enum { LOSS_ROWS = WARP };

// Threads walk rows: which of them have none is the same for a whole warp.
template <int VEC>
static __global__ void loss_kernel(double *partial, real *dout, const real *out,
                                   const float *target, const float *weight, const int32_t *segment,
                                   int64_t T, int64_t E, int lanes) {
    __shared__ double sums[LOSS_ROWS];
    const int64_t begin = (int64_t)blockIdx.x * LOSS_ROWS;
    const int rows = (int)min_i64(LOSS_ROWS, T - begin), thread = (int)threadIdx.x;
    const int lane = thread % lanes;
    for (int r = thread / lanes; r < LOSS_ROWS; r += THREADS / lanes) {
        double sum = 0;
        const float share = r < rows && dout != NULL ? 2.0f * weight[segment[begin + r]] : 0.0f;
        for (int64_t e = lane * VEC; e < E && r < rows; e += lanes * VEC) {
            const int64_t i = (begin + r) * E + e;
            float x[VEC], error[VEC];
            load_reals<VEC>(x, out + i);
            load_floats<VEC>(error, target + i);
            for (int k = 0; k < VEC; k++) {
                error[k] = x[k] - error[k];
                sum += (double)error[k] * (double)error[k];
                error[k] *= share;
            }
            if (dout != NULL) store_reals<VEC>(dout + i, error);
        }
        for (int n = lanes / 2; n > 0; n /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, n);
        if (lane == 0) sums[r] = sum;
    }
    __syncthreads();
    if (thread >= WARP) return;
    const int32_t mine = thread < rows ? segment[begin + thread] : -1;
    double sum = thread < rows ? sums[thread] : 0.0;
    // Each step adds up twice as many rows, as far as they are of one segment.
    for (int n = 1; n < WARP; n *= 2) {
        const double more = __shfl_down_sync(0xffffffffu, sum, n);
        const int32_t other = __shfl_down_sync(0xffffffffu, mine, n);
        if (thread + n < rows && other == mine) sum += more;
    }
    const int32_t before = __shfl_up_sync(0xffffffffu, mine, 1);
    if (thread < rows && (thread == 0 || before != mine)) partial[begin + thread] = sum;
}

// A block for a segment.
static __global__ void loss_add_kernel(double *loss, const double *partial, const int32_t *start) {
    __shared__ double sums[THREADS];
    const int thread = (int)threadIdx.x, s = (int)blockIdx.x;
    const int64_t begin = start[s], end = start[s + 1];
    double sum = thread == 0 && begin < end ? partial[begin] : 0.0;
    for (int64_t chunk = begin / LOSS_ROWS + 1 + thread; chunk * LOSS_ROWS < end;
         chunk += THREADS) {
        sum += partial[chunk * LOSS_ROWS];
    }
    sums[thread] = sum;
    __syncthreads();
    for (int n = THREADS / 2; n > 0; n /= 2) {
        if (thread < n) sums[thread] += sums[thread + n];
        __syncthreads();
    }
    if (thread == 0) loss[s] += sums[0];
}

template <int VEC>
static void loss_rows(double *partial, real *dout, const real *out, const float *target,
                      const float *weight, const int32_t *segment, int64_t T, int64_t E,
                      Stream stream) {
    int lanes = 1;
    while (lanes < WARP && lanes * VEC < E) lanes *= 2;
    LAUNCH(loss_kernel<VEC>, div_up(T, LOSS_ROWS), THREADS, 0, stream, partial, dout, out, target,
           weight, segment, T, E, lanes);
}

void flow_loss(double *loss, real *dout, const real *out, const float *target, const float *weight,
               const int32_t *segment, const int32_t *start, int64_t T, int64_t E, int64_t S,
               void *scratch, Stream stream) {
    if (T == 0) return;
    const bool wide = aligned_16(out, E) && aligned_16(dout, E) && aligned(target);
    double *partial = (double *)scratch;
    (wide ? loss_rows<REALS_16> : loss_rows<1>)(partial, dout, out, target, weight, segment, T, E,
                                                stream);
    LAUNCH(loss_add_kernel, S, THREADS, 0, stream, loss, partial, start);
}

int64_t flow_loss_scratch(int64_t T) {
    return T * (int64_t)sizeof(double);
}
