// What the phases of loop_kernel.cu are built of: its sizes, types of 16 bits, what programs tell each other, tensor-core
// products, the grid barrier, and copies to shared memory.

typedef unsigned int u32;

constexpr int W = D / H;
constexpr int HM = H * M;
constexpr int PROGRAMS = D / 8;
constexpr int WARPS = 8;
constexpr int ITEMS = L + 1;            // layers, then the head
constexpr int PAIRS = D / 32;           // of products along an inner axis of D
constexpr int PRODUCT_BYTES = 64 * D;   // 32 columns of D weights, or 8 of 4 D
constexpr int ITEM_BYTES = 2 * PRODUCT_BYTES;
constexpr int VECTORS = (D + 255) / 256;  // of 8 elements, for each lane of a warp that has a row
constexpr int SCORES = (T * HM + PROGRAMS - 1) / PROGRAMS;  // of a program
constexpr int ROW = 36;                 // floats between rows of partial sums: no bank conflicts

static_assert(D % 32 == 0 && W % 16 == 0 && (W & (W - 1)) == 0 && W <= 256 && M <= 8 && T >= 2 && T <= 8, "");
static_assert(T * H <= 256 && T * HM <= D, "");

__device__ __forceinline__ float2 wide2(u32 pair) {
    float2 out;
#if BF16
    out.x = __uint_as_float(pair << 16);
    out.y = __uint_as_float(pair & 0xffff0000u);
#else
    asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(out.x), "=f"(out.y) : "r"(pair));
#endif
    return out;
}

__device__ __forceinline__ u32 narrow2(float first, float second) {
    u32 out;
#if BF16
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
#else
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(second), "f"(first));
#endif
    return out;
}

__device__ __forceinline__ float wide1(const void *start, int at) {
    return wide2(((const unsigned short *)start)[at]).x;
}

// What one program writes and another reads behind a barrier.
__device__ __forceinline__ u32 peek(const void *at) {
    u32 out;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(out) : "l"(at) : "memory");
    return out;
}

__device__ __forceinline__ uint4 peek4(const void *at) {
    uint4 out;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "l"(at) : "memory");
    return out;
}

__device__ __forceinline__ void tell(void *at, u32 word) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
}

__device__ __forceinline__ void tell(float *at, float value) { tell((void *)at, __float_as_uint(value)); }

__device__ __forceinline__ float peek_float(const float *at) { return __uint_as_float(peek(at)); }

// 8 floats
__device__ __forceinline__ void peek_floats(const float *at, float *out) {
    uint4 low = peek4(at), high = peek4(at + 4);
    out[0] = __uint_as_float(low.x), out[1] = __uint_as_float(low.y), out[2] = __uint_as_float(low.z);
    out[3] = __uint_as_float(low.w), out[4] = __uint_as_float(high.x), out[5] = __uint_as_float(high.y);
    out[6] = __uint_as_float(high.z), out[7] = __uint_as_float(high.w);
}

// A lane's VECTORS of 8 floats of a row: all of the row in a warp
__device__ __forceinline__ void peek_row(const float *row, int lane, float (*out)[8]) {
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        int at = i * 256 + lane * 8;
#pragma unroll
        for (int e = 0; e < 8; e++) out[i][e] = 0.f;
        if (at < D) peek_floats(row + at, out[i]);
    }
}

__device__ __forceinline__ uint4 halves(const void *start, int at) {  // 8 that nobody writes
    return __ldg((const uint4 *)((const unsigned short *)start + at));
}

__device__ __forceinline__ void widen(uint4 given, float *out) {  // 8
    const u32 pairs[4] = {given.x, given.y, given.z, given.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 two = wide2(pairs[i]);
        out[2 * i] = two.x;
        out[2 * i + 1] = two.y;
    }
}

__device__ __forceinline__ void to_l2(const void *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Of the warps that compute
__device__ __forceinline__ void sync() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int at = 16; at; at >>= 1) value += __shfl_xor_sync(~0u, value, at);
    return value;
}

__device__ __forceinline__ float gelu(float x) { return x * 0.5f * (1.f + erff(x * 0.70710678118f)); }
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + __expf(-x)); }

// c (16, 8) += a (16, 16) b (16, 8)
__device__ __forceinline__ void multiply(float *c, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if BF16
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Each warp's part of the product of 32 columns and up to 8 rows. `tokens` holds the warp's 8 elements of row lane / 4 for
// each of its pairs.
__device__ __forceinline__ void multiply32(const unsigned char *weights, const uint4 *tokens, float *partial, int warp, int lane) {
    float sums[2][4] = {};
    __syncwarp();
#pragma unroll
    for (int i = 0; i < (PAIRS + WARPS - 1) / WARPS; i++) {
        int pair = warp + WARPS * i;
        if (pair < PAIRS) {
#pragma unroll
            for (int part = 0; part < 2; part++) {
                u32 b0 = part ? tokens[i].z : tokens[i].x, b1 = part ? tokens[i].w : tokens[i].y;
#pragma unroll
                for (int tile = 0; tile < 2; tile++) {
                    uint4 a = *(const uint4 *)(weights + ((pair * 2 + part) * 2 + tile) * 512 + lane * 16);
                    multiply(sums[tile], a.x, a.y, a.z, a.w, b0, b1);
                }
            }
        }
    }
    float *own = partial + warp * 8 * ROW;
    int column = lane >> 2, row = (lane & 3) * 2;
#pragma unroll
    for (int tile = 0; tile < 2; tile++) {
        own[row * ROW + tile * 16 + column] = sums[tile][0];
        own[(row + 1) * ROW + tile * 16 + column] = sums[tile][1];
        own[row * ROW + tile * 16 + column + 8] = sums[tile][2];
        own[(row + 1) * ROW + tile * 16 + column + 8] = sums[tile][3];
    }
}

// All warps' parts, behind a `sync`: row `warp`, column `lane`.
__device__ __forceinline__ float collect32(const float *partial, int warp, int lane) {
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) sum += partial[(i * 8 + warp) * ROW + lane];
    return sum;
}

// LayerNorm's mean and inverse deviation of the D elements that a warp's lanes hold
__device__ __forceinline__ float2 norm_of(const float (*held)[8], float eps) {
    float sum = 0.f, squares = 0.f;
#pragma unroll
    for (int i = 0; i < VECTORS; i++)
#pragma unroll
        for (int e = 0; e < 8; e++) {
            sum += held[i][e];
            squares += held[i][e] * held[i][e];
        }
    sum = warp_sum(sum) / D;
    squares = warp_sum(squares) / D;
    return make_float2(sum, rsqrtf(squares - sum * sum + eps));
}

// All programs wait for each other. One thread of each asks: more would crowd one place of the L2 cache.
struct Barrier {
    int *arrived;
    int passed;

    __device__ __forceinline__ void arrive() {
        sync();
        if (threadIdx.x == 0) asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(arrived) : "memory");
        passed++;
    }

    __device__ __forceinline__ void wait() const {
        if (threadIdx.x == 0) {
            int now;
            do asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(arrived) : "memory");
            while (now < passed * PROGRAMS);
        }
        sync();
    }
};

__device__ __forceinline__ u32 place(const void *shared) { return (u32)__cvta_generic_to_shared(shared); }

__device__ __forceinline__ void await_turn(const unsigned long long *barrier, int turn) {
    asm volatile(
        "{ .reg .pred there;\n"
        "again_%=: mbarrier.try_wait.parity.shared.b64 there, [%0], %1;\n"
        "@!there bra again_%=; }" ::"r"(place(barrier)), "r"(turn & 1) : "memory");
}

__device__ __forceinline__ void copy(void *to, const void *from, int bytes, const unsigned long long *ready) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(place(to)),
                 "l"(from), "r"(bytes), "r"(place(ready)) : "memory");
}

__device__ __forceinline__ void expect(const unsigned long long *ready, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(place(ready)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void done(const unsigned long long *barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(place(barrier)) : "memory");
}
