// The phases of loop_kernel.cu in their order, and what they are given.

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
