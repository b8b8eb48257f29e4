// What the phases of loop_kernel.cu are built of: its sizes, types of 16 bits, what programs tell each other, tensor-core
// products, and what is sent and copied to shared memory.

typedef unsigned int u32;

constexpr int W = D / H;
constexpr int PROGRAMS = D / 8;
constexpr int WARPS = 8;
constexpr int ITEMS = L + 1;            // layers, then the head
constexpr int PAIRS = D / 32;           // of products along an inner axis of D
constexpr int PRODUCT_BYTES = 64 * D;   // 32 columns of D weights, or 8 of 4 D
constexpr int VECTORS = (D + 255) / 256;  // of 8 elements, for each lane of a warp that has a row
constexpr int HEADS = H / C;            // of a program
constexpr int SLICE = D / C;            // of a program: columns behind the attention
constexpr int KEYS = HEADS * M;
constexpr int TILES = (KEYS + 15) / 16;
constexpr int BLOCKS = SLICE / 64;      // of 8 columns behind the attention, for each warp
// Elements between rows in shared memory: no bank conflicts
constexpr int ROW = 36;
constexpr int WIDE_ROW = D + 32;
constexpr int SLICE_ROW = SLICE + 8;
constexpr int HEADS_ROW = H * 8 + 8;

static_assert(D % 32 == 0 && W % 16 == 0 && (W & (W - 1)) == 0 && W <= 256 && M <= 8 && T >= 2 && T <= 8, "");
static_assert(H % C == 0 && H % 2 == 0 && SLICE % 64 == 0 && KEYS <= 32 && T * HEADS <= 32 && C <= 4, "");

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

// Two rounded, and what rounding left
__device__ __forceinline__ void split2(float first, float second, u32 &high, u32 &low) {
    high = narrow2(first, second);
    const float2 held = wide2(high);
    low = narrow2(first - held.x, second - held.y);
}

__device__ __forceinline__ float wide1(const void *start, size_t at) {
    return wide2(((const unsigned short *)start)[at]).x;
}

// What programs tell each other through memory: all bits of a word are set as long as nobody has told it. Every word is told once.
__device__ __forceinline__ void tell(void *at, u32 word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(at), "r"(word) : "memory");
}

__device__ __forceinline__ void tell(float *at, float value) {
    const u32 word = __float_as_uint(value);
    tell((void *)at, word == ~0u ? 0x7fffffffu : word);  // NaN stays NaN
}

__device__ __forceinline__ float2 hear_pair(const float *at) {  // that were told before
    float2 out;
    asm volatile("ld.relaxed.gpu.global.v2.f32 {%0, %1}, [%2];" : "=f"(out.x), "=f"(out.y) : "l"(at) : "memory");
    return out;
}

__device__ __forceinline__ float hear1(const float *at) {
    float out;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(out) : "l"(at) : "memory");
    return out;
}

__device__ __forceinline__ uint4 hear4(const void *at) {
    uint4 out;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w) : "l"(at) : "memory");
    return out;
}

// COUNT times 16 bytes, `stride` bytes apart. Unless ALL, only those below `end` exist; the others are zero.
template <int COUNT, bool ALL> __device__ __forceinline__ void hear(const void *at, int stride, const void *end, uint4 *out) {
    bool all;
    do {
        all = true;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const char *from = (const char *)at + i * stride;
            out[i] = ALL || from < (const char *)end ? hear4(from) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) all = all && out[i].x != ~0u && out[i].y != ~0u && out[i].z != ~0u && out[i].w != ~0u;
    } while (!all);
}

__device__ __forceinline__ void as_floats(const uint4 &low, const uint4 &high, float *out) {  // 8
    out[0] = __uint_as_float(low.x), out[1] = __uint_as_float(low.y), out[2] = __uint_as_float(low.z);
    out[3] = __uint_as_float(low.w), out[4] = __uint_as_float(high.x), out[5] = __uint_as_float(high.y);
    out[6] = __uint_as_float(high.z), out[7] = __uint_as_float(high.w);
}

// COUNT times 8 floats, `stride` floats apart, likewise; unless `late` they were there before the kernel was.
template <int COUNT, bool ALL>
__device__ __forceinline__ void hear_floats(const float *at, int stride, const float *end, bool late, float (*out)[8]) {
    uint4 words[2 * COUNT];
    bool all;
    do {
        all = true;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            const float *from = at + i * stride;
            words[2 * i] = ALL || from < end ? hear4(from) : make_uint4(0, 0, 0, 0);
            words[2 * i + 1] = ALL || from < end ? hear4(from + 4) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < 2 * COUNT; i++) all = all && words[i].x != ~0u && words[i].y != ~0u && words[i].z != ~0u && words[i].w != ~0u;
    } while (late && !all);
#pragma unroll
    for (int i = 0; i < COUNT; i++) as_floats(words[2 * i], words[2 * i + 1], out[i]);
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

// Of the warps that compute
__device__ __forceinline__ void sync() { asm volatile("bar.sync 1, 256;" ::: "memory"); }

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int at = 16; at; at >>= 1) value += __shfl_xor_sync(~0u, value, at);
    return value;
}

__device__ __forceinline__ float gelu(float x) { return x * 0.5f * (1.f + erff(x * 0.70710678118f)); }
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

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

// Each warp's part of the product of 16 COUNT columns and up to 8 rows over an inner axis of 32 ALL. Weights are loaded before
// the tokens are waited for. `tokens` holds the warp's 8 elements of row lane / 4 for each of its 32.
template <int ALL, int COUNT> struct Lines {
    static constexpr int PARTS = (ALL + WARPS - 1) / WARPS;
    uint4 held[PARTS * 2 * COUNT];
    float sums[COUNT][4];

    __device__ __forceinline__ void load(const unsigned char *weights, int warp, int lane) {
#pragma unroll
        for (int i = 0; i < PARTS; i++) {
            const int pair = warp + WARPS * i;
#pragma unroll
            for (int e = 0; e < 2 * COUNT; e++) {
                const uint4 *from = (const uint4 *)(weights + (pair * 2 * COUNT + e) * 512 + lane * 16);
                held[i * 2 * COUNT + e] = ALL % WARPS == 0 || pair < ALL ? *from : make_uint4(0, 0, 0, 0);
            }
        }
    }

    __device__ __forceinline__ void multiply(const uint4 *tokens) {
#pragma unroll
        for (int tile = 0; tile < COUNT; tile++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[tile][e] = 0.f;
        __syncwarp();
#pragma unroll
        for (int i = 0; i < PARTS; i++)
#pragma unroll
            for (int e = 0; e < 2 * COUNT; e++) {
                const uint4 a = held[i * 2 * COUNT + e];
                const bool second = e >= COUNT;
                ::multiply(sums[e % COUNT], a.x, a.y, a.z, a.w, second ? tokens[i].z : tokens[i].x, second ? tokens[i].w : tokens[i].y);
            }
    }

    // Of all rows
    __device__ __forceinline__ void write(float *partial, int warp, int lane) const {
        float *own = partial + warp * 8 * ROW + (lane & 3) * 2 * ROW + (lane >> 2);
#pragma unroll
        for (int tile = 0; tile < COUNT; tile++)
#pragma unroll
            for (int e = 0; e < 4; e++) own[e % 2 * ROW + tile * 16 + e / 2 * 8] = sums[tile][e];
    }
};

// All warps' parts, behind a `sync`: row `warp`, column `lane`.
__device__ __forceinline__ float collect(const float *partial, int warp, int lane) {
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

// Programs wait until the others have come, which is before they ask for what those have told: asking again and again for
// all of it would crowd the L2 cache. Nothing is ordered by this (a fence takes a thousand clocks); each word shows whether it
// is there. Programs are counted in C groups, each in a line of memory of its own, from -1 on.
struct Crowd {
    int *arrived;
    int group;
    int passed;

    __device__ __forceinline__ void arrive() {
        sync();
        if (threadIdx.x == 0)
            asm volatile("red.relaxed.gpu.global.add.s32 [%0], 1;" ::"l"(arrived + group * 32) : "memory");
        passed++;
    }

    __device__ __forceinline__ void ask(int of) const {
        int now;
        do asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(arrived + of * 32) : "memory");
        while (now < passed * (PROGRAMS / C) - 1);
    }

    // For all
    __device__ __forceinline__ void wait() const {
        if (threadIdx.x < C) ask(threadIdx.x);
        sync();
    }

    // For one group
    __device__ __forceinline__ void wait(int of) const {
        if (threadIdx.x == 0) ask(of);
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

// Where `at`, of this program's shared memory, lies in that of another of the cluster
__device__ __forceinline__ u32 of_other(const void *at, int rank) {
    u32 out;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(out) : "r"(place(at)), "r"(rank));
    return out;
}

// 16 bytes to a program of the cluster, which counts them at `ready`
__device__ __forceinline__ void send(void *at, int rank, uint4 word, const unsigned long long *ready) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                     of_other(at, rank)), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w), "r"(of_other(ready, rank)) : "memory");
}

__device__ __forceinline__ void send(float2 *at, int rank, float2 value, const unsigned long long *ready) {
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(of_other(at, rank)),
                 "f"(value.x), "f"(value.y), "r"(of_other(ready, rank)) : "memory");
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Of rows of 8 elements in shared memory, one for each of the lower 16 lanes, the right operand of a product: its inner axis
// runs over the rows.
__device__ __forceinline__ void turned(const void *row, u32 &b0, u32 &b1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];" : "=r"(b0), "=r"(b1) : "r"(place(row)) : "memory");
}
