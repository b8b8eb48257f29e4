// The denoising loop of one plan as one persistent kernel: programs stay on their multiprocessors for all layers and
// steps and wait for each other at a grid barrier, where separate kernels would end and start anew.
//
// A program owns 8 of the D columns. A layer is four phases, a step's head one for each waypoint and one for DDIM:
//
//   scores   one warp: one row, one head, one memory token
//   values   softmax of all scores; the attended values of the own columns, added to the residual
//   up       32 columns of the feed-forward's hidden layer
//   down     own columns of its output, over the whole inner axis: nothing is left to be summed elsewhere
//   GRU      8 units, their three gates; the first token's phase also projects all tokens
//   advance  one warp: one row's predicted noise, DDIM's step, the token of the next step
//
// The algebra, and what is folded into keys, values, `fold` and `fold_bias`, is that of kernels.py and fused_decoder.py.
// What nobody writes (weights, keys, values) is copied to shared memory an item (a layer, or the head) ahead by a warp of
// its own; weights lie in memory in the order in which the tensor cores take them (fused_loop.py). What one program writes
// and another reads is read behind a barrier, whose acquire empties the multiprocessor's first-level cache.
//
// Tensor-core products are m16n8k16. Within 32 places of the inner axis, lane 4 g + q takes the eight from 8 q on, the
// first four in one product, the others in the next: a permutation that both operands share, so that each lane reads 16
// contiguous bytes of a row.
//
// The host defines D (width), H (heads), M (memory tokens), L (layers), T (waypoints, at most 8), CLIP, BF16 (weights in
// bfloat16 instead of half), the norms' EPS, HEAD_EPS and INPUT_EPS, PACE, and SHARED_BYTES that it gives.

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

struct Shared {
    alignas(128) unsigned char item[2][ITEM_BYTES];  // slots, used in turn
    alignas(16) unsigned short values[2][HM * 8];    // own columns
    alignas(16) unsigned short gates[2][3 * 8];      // modulation 5, 7 and 8, own columns
    alignas(16) float fold[2][32], fold_bias[2][32];
    alignas(16) unsigned short keys[SCORES * D];     // of the own scores, only for the item at hand
    alignas(16) unsigned short scale[2 * D];         // modulation 3 and 4
    unsigned short out_bias[L * 8], down_bias[L * 8];
    float gru_bias[24];
    float partial[WARPS * 8 * ROW];
    float narrow_partial[WARPS * 64];
    float attention[T * HM];
    float given[T * 32];
    float2 norm[T];
    unsigned long long ready[2], empty[2], keys_ready, keys_empty;
};

static_assert(sizeof(Shared) <= SHARED_BYTES, "");

struct Arguments {
    float *x;              // (T, D) tokens
    float *scores;         // (T, H, 8)
    float2 *stats;         // (T, PROGRAMS) sum and sum of squares of the own columns before the feed-forward
    void *narrow;          // (T, D) that times the norm's scale
    void *hidden;          // (T, 4 D)
    float *states;         // (T, D) of the head's GRU
    float *trajectory;     // (T, 2)
    int *arrived;          // zero
    const void *items;     // (ITEMS, PROGRAMS, ITEM_BYTES)
    const void *modulation;  // (S, L, 9, D)
    const float *fold;     // (L, S, 4 D), layers `fold_stride` apart
    const float *fold_bias;  // likewise, `bias_stride` apart
    const void *keys;      // (L, H, S M, D)
    const void *key_bias;  // (L, H, S M)
    const void *values;    // (L, H, S M, D)
    const float *history;  // (S, D) the GRU's states before the first waypoint
    const float *levels;   // (S, 4) roots of alpha_bar, 1 - alpha_bar, and of both at the next level
    const void *down_bias; // (L, D)
    const void *out_bias;  // (L, D) of the attention
    const float *gru_bias; // (3, D) of the projected tokens, with b_h of reset and update gate
    const void *candidate_bias;  // (D,)
    const void *head_norm, *head_norm_bias;    // (D,)
    const void *head_out, *head_out_bias;      // (2, D), (2,)
    const void *points, *points_bias;          // (2, D), (T, D)
    const void *input_norm, *input_norm_bias;  // (D,)
};

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

// One warp: what every item needs that nobody writes on its way to shared memory, an item ahead. Weights little by little:
// what the others read meanwhile stands behind them.
__device__ void bring(Shared &s, const Arguments &a, int lane, int first_item, int last_item, int steps, int fold_stride,
                      int bias_stride) {
    constexpr int PIECES = 16, BYTES = ITEM_BYTES / PIECES;
    const int program = blockIdx.x, own = program * 8;
    const int scores = min(SCORES, (T * HM - program + PROGRAMS - 1) / PROGRAMS);
    int layers = 0;
    for (int item = first_item; item < last_item; item++) {
        const int count = item - first_item, slot = count & 1, layer = item % ITEMS, step = item / ITEMS;
        const unsigned short *modulation = (const unsigned short *)a.modulation + (size_t)(step * L + layer) * 9 * D;
        unsigned long long *ready = &s.ready[slot];
        if (count >= 2) await_turn(&s.empty[slot], (count >> 1) - 1);
        if (lane == 0) expect(ready, ITEM_BYTES + (layer < L ? HM * 16 + 3 * 16 + 2 * 128 : 0));
        __syncwarp();
        if (layer < L) {
            for (int p = lane; p < HM; p += 32) {
                size_t row = (size_t)(layer * H + p / M) * steps * M + step * M + p % M;
                copy(s.values[slot] + p * 8, (const unsigned short *)a.values + row * D + own, 16, ready);
            }
            const int line = step * 4 * D + program * 32;
            if (lane < 3) copy(s.gates[slot] + lane * 8, modulation + (lane ? 6 + lane : 5) * D + own, 16, ready);
            if (lane == 3) copy(s.fold[slot], a.fold + (size_t)layer * fold_stride + line, 128, ready);
            if (lane == 4) copy(s.fold_bias[slot], a.fold_bias + (size_t)layer * bias_stride + line, 128, ready);
        }
        if (lane == 0) {
            const unsigned char *from = (const unsigned char *)a.items + ((size_t)layer * PROGRAMS + program) * ITEM_BYTES;
            for (int piece = 0; piece < PIECES; piece++) {
                copy(s.item[slot] + piece * BYTES, from + piece * BYTES, BYTES, ready);
                if (count >= 2)
                    for (long long begun = clock64(); clock64() - begun < PACE;);
            }
        }
        __syncwarp();
        if (layer < L) {
            if (layers) await_turn(&s.keys_empty, layers - 1);
            if (lane == 0) {
                expect(&s.keys_ready, (scores + 2) * D * 2);
                copy(s.scale, modulation + 3 * D, 2 * D * 2, &s.keys_ready);
            }
            __syncwarp();
            if (lane < scores) {
                const int score = lane * PROGRAMS + program;
                size_t row = (size_t)(layer * H + score % HM / M) * steps * M + step * M + score % M;
                copy(s.keys + lane * D, (const unsigned short *)a.keys + row * D, D * 2, &s.keys_ready);
            }
            layers++;
        }
    }
}

// Who a thread is. Of a tensor-core product, g is its row (of tokens) or column (of weights), q its part of the inner axis.
struct Self {
    int program, warp, lane, g, q;
    int column;       // of values and down: row `warp`; each q has a quarter of the sum
    bool row_here;    // whether there is such a row
    bool scoring;     // whether the warp has a score; the scores' warps are spread over all programs
    int row, head, token;  // of the score
};

// One item's place.
struct Item {
    int layer, step;
    int slot, turn;  // turn: of its slot
    const unsigned char *weights;
};

__device__ __forceinline__ void rate(Shared &s, const Arguments &a, const Self &me, const Item &i, int steps, int layers,
                                     const Barrier &all) {
    const size_t at_bias = (size_t)(i.layer * H + me.head) * steps * M + i.step * M + me.token;
    unsigned short bias = me.scoring ? ((const unsigned short *)a.key_bias)[at_bias] : 0;
    all.wait();
    if (!me.scoring) return;
    float x[VECTORS][8];
    peek_row(a.x + me.row * D, me.lane, x);
    await_turn(&s.keys_ready, layers);
    const float2 norm = norm_of(x, EPS);
    float sum = 0.f;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        if (v * 256 + 256 <= D || v * 256 + me.lane * 8 < D) {
            float of_key[8], of_shift[8], of_scale[8], length = 0.f, dot = 0.f;
            const int at = v * 256 + me.lane * 8;
            widen(*(const uint4 *)(s.keys + me.warp * D + at), of_key);
            widen(*(const uint4 *)(s.scale + at), of_shift);
            widen(*(const uint4 *)(s.scale + D + at), of_scale);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float y = (x[v][e] - norm.x) * norm.y * of_scale[e] + of_shift[e];
                length += y * y;
                dot += y * of_key[e];
            }
            // each head-sized slice by its length: its RMSNorm, whose sqrt(W) cancels the scores' 1 / sqrt(W)
            const u32 lanes = D % 256 && v == VECTORS - 1 ? (u32)((1ull << (D % 256 / 8)) - 1) : ~0u;
#pragma unroll
            for (int by = 1; by < W / 8; by <<= 1) length += __shfl_xor_sync(lanes, length, by);
            sum += dot * rsqrtf(length + W * 1e-6f);
        }
    }
    sum = warp_sum(sum);
    if (me.lane == 0) tell(a.scores + (me.row * H + me.head) * 8 + me.token, sum + wide2(bias).x);
}

// Returns the residual behind the attention: row `warp`, `column`.
__device__ __forceinline__ float attended(Shared &s, const Arguments &a, const Self &me, const Item &i, const Barrier &all) {
    constexpr int COUNT = (HM + 3) / 4;
    const float residual = me.row_here ? peek_float(a.x + me.warp * D + me.column) : 0.f;
    await_turn(&s.ready[i.slot], i.turn);
    const float gate = wide2(s.gates[i.slot][me.g]).x, next = wide2(s.gates[i.slot][8 + me.g]).x;
    const float bias = wide2(s.out_bias[i.layer * 8 + me.g]).x;
    all.wait();
    if (threadIdx.x < T * H) {
        float of[8], top = -1e30f, total = 0.f;
        peek_floats(a.scores + threadIdx.x * 8, of);
#pragma unroll
        for (int m = 0; m < M; m++) top = fmaxf(top, of[m]);
#pragma unroll
        for (int m = 0; m < M; m++) total += of[m] = __expf(of[m] - top);
#pragma unroll
        for (int m = 0; m < M; m++) s.attention[threadIdx.x * M + m] = of[m] / total;
    }
    sync();
    if (!me.row_here) return 0.f;
    const float *attention = s.attention + me.warp * HM + me.q;
    const unsigned short *values = s.values[i.slot] + me.q * 8 + me.g;
    float sum = 0.f;
#pragma unroll
    for (int c = 0; c < COUNT; c++)
        if (HM % 4 == 0 || 4 * c + me.q < HM) sum += attention[4 * c] * wide2(values[32 * c]).x;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float middle = residual + gate * (sum + bias);
    const u32 pair = narrow2(middle * next, __shfl_down_sync(~0u, middle * next, 4));
    if (me.q == 0 && me.g % 2 == 0)
        tell((unsigned short *)a.narrow + me.warp * D + me.column, pair);
    float total = middle, squares = middle * middle;
#pragma unroll
    for (int by = 4; by < 32; by <<= 1) {
        total += __shfl_xor_sync(~0u, total, by);
        squares += __shfl_xor_sync(~0u, squares, by);
    }
    float *stats = (float *)(a.stats + me.warp * PROGRAMS + me.program);
    if (me.lane < 2) tell(stats + me.lane, me.lane ? squares : total);
    return middle;
}

__device__ __forceinline__ void up(Shared &s, const Arguments &a, const Self &me, const Item &i, const Barrier &all) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS, PARTS = (PROGRAMS + 31) / 32;
    const int line = me.program * 32 + me.lane;
    uint4 tokens[COUNT];
#pragma unroll
    for (int c = 0; c < COUNT; c++) tokens[c] = make_uint4(0, 0, 0, 0);
    all.wait();
    if (me.g < T) {
        const unsigned short *from = (const unsigned short *)a.narrow + me.g * D + me.warp * 32 + me.q * 8;
#pragma unroll
        for (int c = 0; c < COUNT; c++)
            if (me.warp + WARPS * c < PAIRS) tokens[c] = peek4(from + c * WARPS * 32);
    }
    float total = 0.f, squares = 0.f;
    if (me.row_here) {
        const float2 *stats = a.stats + me.warp * PROGRAMS;
#pragma unroll
        for (int c = 0; c < PARTS; c++) {
            int at = c * 32 + me.lane;
            if (at < PROGRAMS) {
                total += peek_float(&stats[at].x);
                squares += peek_float(&stats[at].y);
            }
        }
    }
    multiply32(i.weights, tokens, s.partial, me.warp, me.lane);
    total = warp_sum(total) / D;
    squares = warp_sum(squares) / D;
    const float inverse = rsqrtf(squares - total * total + EPS);
    sync();
    if (!me.row_here) return;
    const float sum = collect32(s.partial, me.warp, me.lane);
    const float fold = s.fold[i.slot][me.lane], bias = s.fold_bias[i.slot][me.lane];
    const float out = gelu((sum - total * fold) * inverse + bias);
    const u32 pair = narrow2(out, __shfl_down_sync(~0u, out, 1));
    if (me.lane % 2 == 0) tell((unsigned short *)a.hidden + me.warp * 4 * D + line, pair);
}

__device__ __forceinline__ void down(Shared &s, const Arguments &a, const Self &me, const Item &i, float middle, const Barrier &all) {
    constexpr int COUNT = (4 * PAIRS + WARPS - 1) / WARPS;
    const float gate = wide2(s.gates[i.slot][16 + me.g]).x, bias = wide2(s.down_bias[i.layer * 8 + me.g]).x;
    uint4 tokens[COUNT];
#pragma unroll
    for (int c = 0; c < COUNT; c++) tokens[c] = make_uint4(0, 0, 0, 0);
    all.wait();
    if (me.g < T) {
        const unsigned short *from = (const unsigned short *)a.hidden + me.g * 4 * D + me.warp * 32 + me.q * 8;
#pragma unroll
        for (int c = 0; c < COUNT; c++)
            if (me.warp + WARPS * c < 4 * PAIRS) tokens[c] = peek4(from + c * WARPS * 32);
    }
    __syncwarp();
    float sums[2][4] = {};
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        int pair = me.warp + WARPS * c;
        if (pair < 4 * PAIRS) {
            uint4 b = *(const uint4 *)(i.weights + PRODUCT_BYTES + pair * 512 + me.lane * 16);
            multiply(sums[0], tokens[c].x, 0, tokens[c].y, 0, b.x, b.y);
            multiply(sums[1], tokens[c].z, 0, tokens[c].w, 0, b.z, b.w);
        }
    }
    *(float2 *)(s.narrow_partial + me.warp * 64 + me.g * 8 + me.q * 2) =
        make_float2(sums[0][0] + sums[1][0], sums[0][1] + sums[1][1]);
    sync();
    if (!me.row_here) return;
    float sum = s.narrow_partial[me.q * 64 + me.warp * 8 + me.g] + s.narrow_partial[(me.q + 4) * 64 + me.warp * 8 + me.g];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (me.q == 0) tell(a.x + me.warp * D + me.column, middle + gate * (sum + bias));
}

// The GRU's input: all tokens, normed, times W_i. And the own row for `advance`.
__device__ __forceinline__ void project(Shared &s, const Arguments &a, const Self &me, const Item &i, const Barrier &all) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS, LINES = (2 * D + 127) / 128;
    all.wait();
    if (me.row_here) {
        float x[VECTORS][8];
        peek_row(a.x + me.warp * D, me.lane, x);
        const float2 norm = norm_of(x, HEAD_EPS);
        if (me.lane == 0) s.norm[me.warp] = norm;
    }
    if (me.program < T && threadIdx.x < 9 * LINES) {  // what `advance` will read, from memory
        const int which = threadIdx.x / LINES, at = threadIdx.x % LINES * 64;
        const void *const read[] = {a.head_norm, a.head_norm_bias, a.head_out, (const unsigned short *)a.head_out + D, a.points,
                                    (const unsigned short *)a.points + D, (const unsigned short *)a.points_bias + me.program * D,
                                    a.input_norm, a.input_norm_bias};
        to_l2((const unsigned short *)read[which] + min(at, D - 1));
    }
    float raw[COUNT][8];
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        int pair = me.warp + WARPS * c;
        if (pair < PAIRS && me.g < T) peek_floats(a.x + me.g * D + pair * 32 + me.q * 8, raw[c]);
    }
    sync();
    uint4 tokens[COUNT];
    const float2 norm = me.g < T ? s.norm[me.g] : make_float2(0.f, 0.f);
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        tokens[c] = make_uint4(0, 0, 0, 0);
        if (me.warp + WARPS * c < PAIRS && me.g < T) {
            float *r = raw[c];
#pragma unroll
            for (int e = 0; e < 8; e++) r[e] = (r[e] - norm.x) * norm.y;
            tokens[c] = make_uint4(narrow2(r[0], r[1]), narrow2(r[2], r[3]), narrow2(r[4], r[5]), narrow2(r[6], r[7]));
        }
    }
    await_turn(&s.ready[i.slot], i.turn);
    multiply32(i.weights, tokens, s.partial, me.warp, me.lane);
    sync();
    const float sum = collect32(s.partial, me.warp, me.lane);
    if (me.row_here && me.lane < 24)
        s.given[me.warp * 32 + me.lane] = sum + s.gru_bias[me.lane];
    sync();
}

// One token of the GRU.
__device__ __forceinline__ void recur(Shared &s, const Arguments &a, const Self &me, const Item &i, int token, const Barrier &all) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS;
    float *states = a.states;
    const float *before = token ? states + (token - 1) * D : a.history + (size_t)i.step * D;
    const int unit = me.program * 8 + me.lane;
    if (token) all.wait();
    uint4 tokens[COUNT];
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        int pair = me.warp + WARPS * c;
        tokens[c] = make_uint4(0, 0, 0, 0);
        if (pair < PAIRS && me.g == 0) {  // one row
            float r[8];
            peek_floats(before + pair * 32 + me.q * 8, r);
            tokens[c] = make_uint4(narrow2(r[0], r[1]), narrow2(r[2], r[3]), narrow2(r[4], r[5]), narrow2(r[6], r[7]));
        }
    }
    float previous = 0.f;
    if (me.warp == 0 && me.lane < 8) previous = peek_float(before + unit);
    __syncwarp();
    multiply32(i.weights + PRODUCT_BYTES, tokens, s.partial, me.warp, me.lane);
    sync();
    const float sum = collect32(s.partial, me.warp, me.lane);
    if (me.warp) return;
    const float of_update = __shfl_sync(~0u, sum, (me.lane + 8) & 31);
    const float of_candidate = __shfl_sync(~0u, sum, (me.lane + 16) & 31);
    if (me.lane < 8) {
        const float *projected = s.given + token * 32 + me.lane;
        const float reset = sigmoid(sum + projected[0]), update = sigmoid(of_update + projected[8]);
        float candidate = projected[16] + reset * (of_candidate + wide1(a.candidate_bias, unit));
        candidate = 2.f * sigmoid(2.f * candidate) - 1.f;  // tanh
        tell(states + token * D + unit, candidate + update * (previous - candidate));
    }
}

// A warp: one row's predicted noise, DDIM's step, and the token of the next step.
__device__ __forceinline__ void advance(Shared &s, const Arguments &a, const Self &me, const Item &i) {
    const int row = me.program;
    const float2 norm = s.norm[row];
    const float *state = a.states + row * D;
    float x[VECTORS][8], gain[8], plus[8], predicted_x = 0.f, predicted_y = 0.f;
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int at = v * 256 + me.lane * 8;
        if (at < D) {
            float of_x[8], of_state[8], out_x[8], out_y[8];
            peek_floats(a.x + row * D + at, of_x);
            widen(halves(a.head_norm, at), gain);
            widen(halves(a.head_norm_bias, at), plus);
            widen(halves(a.head_out, at), out_x);
            widen(halves(a.head_out, D + at), out_y);
            peek_floats(state + at, of_state);
#pragma unroll
            for (int e = 0; e < 8; e++) {
                float token = (of_x[e] - norm.x) * norm.y * gain[e] + plus[e] + gelu(of_state[e]);
                predicted_x += token * out_x[e];
                predicted_y += token * out_y[e];
            }
        }
    }
    predicted_x = warp_sum(predicted_x) + wide1(a.head_out_bias, 0);
    predicted_y = warp_sum(predicted_y) + wide1(a.head_out_bias, 1);
    const float *level = a.levels + 4 * i.step;
    volatile float *point = a.trajectory + 2 * row;
    float now_x = (point[0] - level[1] * predicted_x) / level[0];
    float now_y = (point[1] - level[1] * predicted_y) / level[0];
#if CLIP  // NaN stays NaN
    now_x = now_x > 1.f ? 1.f : now_x < -1.f ? -1.f : now_x;
    now_y = now_y > 1.f ? 1.f : now_y < -1.f ? -1.f : now_y;
#endif
    now_x = level[2] * now_x + level[3] * predicted_x;
    now_y = level[2] * now_y + level[3] * predicted_y;
    __syncwarp();
    if (me.lane == 0) {
        point[0] = now_x;
        point[1] = now_y;
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int at = v * 256 + me.lane * 8;
#pragma unroll
        for (int e = 0; e < 8; e++) x[v][e] = 0.f;
        if (at < D) {
            float of_x[8], of_y[8];
            widen(halves(a.points, at), of_x);
            widen(halves(a.points, D + at), of_y);
            widen(halves(a.points_bias, row * D + at), plus);
#pragma unroll
            for (int e = 0; e < 8; e++) x[v][e] = plus[e] + now_x * of_x[e] + now_y * of_y[e];
        }
    }
    const float2 next_norm = norm_of(x, INPUT_EPS);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        int at = v * 256 + me.lane * 8;
        if (at < D) {
            widen(halves(a.input_norm, at), gain);
            widen(halves(a.input_norm_bias, at), plus);
            float *out = a.x + row * D + at;
#pragma unroll
            for (int e = 0; e < 8; e++) tell(out + e, (x[v][e] - next_norm.x) * next_norm.y * gain[e] + plus[e]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(288, 1)
loop_kernel(float *x, float *scores, float2 *stats, void *narrow, void *hidden, float *states, float
            *trajectory, int *arrived, const void *items, const void *modulation, const float *fold, const float
            *fold_bias, const void *keys, const void *key_bias, const void *values, const float *history, const
            float *levels, const void *down_bias, const void *out_bias, const float *gru_bias, const void
            *candidate_bias, const void *head_norm, const void *head_norm_bias, const void *head_out, const void
            *head_out_bias, const void *points, const void *points_bias, const void *input_norm, const void
            *input_norm_bias,
            int first_item, int last_item, int steps, int fold_stride, int bias_stride) {
    extern __shared__ __align__(128) unsigned char memory[];
    Shared &s = *(Shared *)memory;
    const Arguments a = {x, scores, stats, narrow, hidden, states, trajectory, arrived, items, modulation,
                          fold, fold_bias, keys, key_bias, values, history, levels, down_bias, out_bias,
                          gru_bias, candidate_bias, head_norm, head_norm_bias, head_out, head_out_bias,
                          points, points_bias, input_norm, input_norm_bias};
    if (threadIdx.x < 6)  // ready, empty, keys_ready, keys_empty
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(place(s.ready + threadIdx.x)), "r"(0x2c >> threadIdx.x & 1 ? WARPS : 1));
    for (int at = threadIdx.x; at < L * 8; at += blockDim.x) {
        s.out_bias[at] = ((const unsigned short *)a.out_bias)[at / 8 * D + blockIdx.x * 8 + at % 8];
        s.down_bias[at] = ((const unsigned short *)a.down_bias)[at / 8 * D + blockIdx.x * 8 + at % 8];
    }
    if (threadIdx.x < 24) s.gru_bias[threadIdx.x] = a.gru_bias[threadIdx.x / 8 * D + blockIdx.x * 8 + threadIdx.x % 8];
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    Self me;
    me.program = blockIdx.x, me.warp = threadIdx.x / 32, me.lane = threadIdx.x % 32;
    if (me.warp == WARPS) {
        bring(s, a, me.lane, first_item, last_item, steps, fold_stride, bias_stride);
        return;
    }
    me.g = me.lane >> 2, me.q = me.lane & 3, me.column = me.program * 8 + me.g, me.row_here = me.warp < T;
    const int score = me.warp * PROGRAMS + me.program;
    me.scoring = score < T * HM;
    me.row = score / HM, me.head = score % HM / M, me.token = score % M;

    Barrier all = {a.arrived, 0};
    int layers = 0;  // begun
    for (int number = first_item; number < last_item; number++) {
        const int count = number - first_item, slot = count & 1;
        Item item;
        item.layer = number % ITEMS, item.step = number / ITEMS, item.slot = slot, item.turn = count >> 1;
        item.weights = s.item[slot];
        if (item.layer < L) {
            rate(s, a, me, item, steps, layers, all);
            layers++;
            __syncwarp();
            if (me.lane == 0) done(&s.keys_empty);
            all.arrive();
            const float middle = attended(s, a, me, item, all);
            all.arrive();
            up(s, a, me, item, all);
            all.arrive();
            down(s, a, me, item, middle, all);
            all.arrive();
        } else {
            project(s, a, me, item, all);
            for (int token = 0; token < T; token++) {
                recur(s, a, me, item, token, all);
                all.arrive();
            }
            if (me.program < T) {
                all.wait();
                if (me.warp == 0) advance(s, a, me, item);
            }
            all.arrive();
        }
        __syncwarp();
        if (me.lane == 0) done(&s.empty[slot]);
    }
}
