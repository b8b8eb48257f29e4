// The phases of loop_kernel.cu in their order, and what they are given.

struct Shared {
    alignas(128) unsigned char up[PRODUCT_BYTES], down[PRODUCT_BYTES];  // or a GRU's two products
    alignas(16) unsigned short keys[KEYS * WIDE_ROW];        // of the own heads
    alignas(16) unsigned short values[H * 8 * SLICE_ROW];    // of the own slice; rows past M of a head are zero
    alignas(16) unsigned short scale[2 * D];                 // modulation 3 and 4
    alignas(16) unsigned short gate[SLICE], next[SLICE], out_bias[SLICE];  // modulation 5 and 7
    alignas(16) unsigned short down_gate[8];                 // modulation 8, own columns
    alignas(16) float fold[32], fold_bias[32];
    alignas(16) unsigned short query[2 * T * WIDE_ROW];      // rounded, and what rounding left
    // Sent by the programs of the cluster
    alignas(16) unsigned short attention[2 * T * HEADS_ROW];  // likewise; 8 places for each head
    alignas(16) unsigned short narrow[T * WIDE_ROW];         // behind the attention, times the norm's scale
    alignas(16) float2 stats[T * C];                         // sums and sums of squares before that, of each slice
    alignas(16) float down_sums[C * T * 8];                  // of the own columns, from each part of the inner axis
    float2 own_stats[WARPS * 8];
    float middle[T * 8];                                     // the residual behind the attention, own columns
    unsigned short down_bias[L * 8];
    float gru_bias[24], candidate_bias[8];
    float partial[WARPS * 8 * ROW];
    float gru_partial[2][WARPS * 32];  // used in turn
    float given[T * 32];
    alignas(16) unsigned short ahead[9 * D];  // what the first programs use in `advance`
    float2 norm[T], sums[2][WARPS];
    unsigned long long keys_ready, values_ready, up_ready, down_ready, attention_ready, narrow_ready, down_sent;
    unsigned long long keys_empty, values_empty, up_empty, down_empty;
};

static_assert(sizeof(Shared) <= SHARED_BYTES, "");

struct Arguments {
    const float *first;    // (T, D) tokens of the noise
    float *x;              // (S ITEMS, T, D) told: tokens behind each item
    void *hidden;          // (S L, T, 4 D) told
    float *states;         // (S, T, D) told, of the head's GRU
    float *trajectory;     // (T, 2)
    int *arrived;          // C counts, each 32 from the next, -1
    const void *items;     // (ITEMS, PROGRAMS, 2, PRODUCT_BYTES)
    const void *modulation;  // (S, L, 9, D)
    const float *fold;     // (L, S, 4 D), layers `fold_stride` apart
    const float *fold_bias;  // likewise, `bias_stride` apart
    const void *keys;      // (L, H, S M, D)
    const void *key_bias;  // (L, H, S M)
    const void *values;    // (L, H, S M, D)
    const float *history;  // (…, D) the GRU's states before the first waypoint, of steps
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
    int rank, cluster;  // of the program in its cluster, and of that
    int own;            // first of its 8 columns: of its slice, the cluster-th 8
    int column;         // the g-th of them
    bool row_here;      // whether there is such a row
};

// One item's place.
struct Item {
    int layer, step;
    int turn, layer_turn;  // how many items, and how many layers, went before
    const float *x;        // (T, D) tokens
    bool late;             // whether they are told
    float *next_x;
    unsigned short *hidden;  // (T, 4 D)
};

// The normed tokens, each head-sized slice by its length, against the own heads' keys; their softmax goes to the cluster.
__device__ __forceinline__ void rate(Shared &s, const Arguments &a, const Self &me, const Item &i, int steps, const Crowd &all) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS;
    const int group = threadIdx.x / 8, token = threadIdx.x % 8, row = group / HEADS, head = group % HEADS;
    const bool here = group < T * HEADS && token < M;
    const size_t at_bias = (size_t)(i.layer * H + me.rank * HEADS + head) * steps * M + i.step * M + token;
    const float bias = here ? wide1(a.key_bias, at_bias) : 0.f;
    if (threadIdx.x == 0) {
        expect(&s.attention_ready, 2 * T * H * 16);
        expect(&s.narrow_ready, T * (D - SLICE) * 2 + T * C * 8);
        expect(&s.down_sent, C * T * 32);
    }
    await_turn(&s.keys_ready, i.layer_turn);
    uint4 keys[COUNT][TILES][2], shifts[VECTORS], scales[VECTORS];
#pragma unroll
    for (int c = 0; c < COUNT; c++)
#pragma unroll
        for (int e = 0; e < 2 * TILES; e++) {
            const int key = min(e * 8 + me.g, KEYS - 1), pair = min(me.warp + WARPS * c, PAIRS - 1);
            keys[c][e / 2][e % 2] = *(const uint4 *)(s.keys + key * WIDE_ROW + pair * 32 + me.q * 8);
        }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int at = min(v * 256 + me.lane * 8, D - 8);
        shifts[v] = *(const uint4 *)(s.scale + at);
        scales[v] = *(const uint4 *)(s.scale + D + at);
    }
    all.wait();
    if (me.row_here) {
        float x[VECTORS][8];
        hear_floats<VECTORS, D % 256 == 0>(i.x + me.warp * D + me.lane * 8, 256, i.x + (me.warp + 1) * D, i.late, x);
        const float2 norm = norm_of(x, EPS);
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            if (D % 256 == 0 || v * 256 + me.lane * 8 < D) {
                float of_shift[8], of_scale[8], length = 0.f;
                const int at = v * 256 + me.lane * 8;
                widen(shifts[v], of_shift);
                widen(scales[v], of_scale);
#pragma unroll
                for (int e = 0; e < 8; e++) {
                    x[v][e] = (x[v][e] - norm.x) * norm.y * of_scale[e] + of_shift[e];
                    length += x[v][e] * x[v][e];
                }
                // a slice's RMSNorm, whose sqrt(W) cancels the scores' 1 / sqrt(W)
                const u32 lanes = D % 256 && v == VECTORS - 1 ? (u32)((1ull << (D % 256 / 8)) - 1) : ~0u;
#pragma unroll
                for (int by = 1; by < W / 8; by <<= 1) length += __shfl_xor_sync(lanes, length, by);
                const float by = rsqrtf(length + W * 1e-6f);
                u32 high[4], low[4];
#pragma unroll
                for (int e = 0; e < 4; e++) split2(x[v][2 * e] * by, x[v][2 * e + 1] * by, high[e], low[e]);
                *(uint4 *)(s.query + me.warp * WIDE_ROW + at) = make_uint4(high[0], high[1], high[2], high[3]);
                *(uint4 *)(s.query + (T + me.warp) * WIDE_ROW + at) = make_uint4(low[0], low[1], low[2], low[3]);
            }
        }
    }
    sync();
    float sums[TILES][2][4] = {};
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        const int pair = me.warp + WARPS * c, at = pair * 32 + me.q * 8;
        if (PAIRS % WARPS == 0 || pair < PAIRS) {
            uint4 high = make_uint4(0, 0, 0, 0), low = high;
            if (me.g < T) {
                high = *(const uint4 *)(s.query + me.g * WIDE_ROW + at);
                low = *(const uint4 *)(s.query + (T + me.g) * WIDE_ROW + at);
            }
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                const uint4 k = keys[c][tile][0], l = keys[c][tile][1];
                multiply(sums[tile][0], k.x, l.x, k.y, l.y, high.x, high.y);
                multiply(sums[tile][1], k.x, l.x, k.y, l.y, low.x, low.y);
                multiply(sums[tile][0], k.z, l.z, k.w, l.w, high.z, high.w);
                multiply(sums[tile][1], k.z, l.z, k.w, l.w, low.z, low.w);
            }
        }
    }
    float *own = s.partial + me.warp * 8 * ROW + me.q * 2 * ROW + me.g;
#pragma unroll
    for (int tile = 0; tile < TILES; tile++)
#pragma unroll
        for (int e = 0; e < 4; e++) own[e % 2 * ROW + tile * 16 + e / 2 * 8] = sums[tile][0][e] + sums[tile][1][e];
    __syncwarp();
    if (me.lane == 0) done(&s.keys_empty);
    sync();
    if (me.warp * 4 >= T * HEADS) return;
    float score = -1e30f;
    if (here) {
        score = bias;
#pragma unroll
        for (int w = 0; w < WARPS; w++) score += s.partial[(w * 8 + row) * ROW + head * M + token];
    }
    float top = score;
#pragma unroll
    for (int by = 1; by < 8; by <<= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, by));
    score = here ? __expf(score - top) : 0.f;
    float total = score;
#pragma unroll
    for (int by = 1; by < 8; by <<= 1) total += __shfl_xor_sync(~0u, total, by);
    score = here ? score / total : 0.f;
    u32 high, low, parts[8];
    split2(score, __shfl_down_sync(~0u, score, 1), high, low);  // of two, where `token` is even
#pragma unroll
    for (int p = 0; p < 4; p++) {
        parts[p] = __shfl_sync(~0u, high, (me.lane & 24) + 2 * p);
        parts[4 + p] = __shfl_sync(~0u, low, (me.lane & 24) + 2 * p);
    }
    if (group < T * HEADS && token < 2 * C) {
        const int part = token / C;
        const uint4 word = part ? make_uint4(parts[4], parts[5], parts[6], parts[7]) : make_uint4(parts[0], parts[1], parts[2], parts[3]);
        send(s.attention + (part * T + row) * HEADS_ROW + (me.rank * HEADS + head) * 8, token % C, word, &s.attention_ready);
    }
}

// The own slice of the residual behind the attention, to the cluster.
__device__ __forceinline__ void attend(Shared &s, const Self &me, const Item &i) {
    const int first = me.warp * BLOCKS;
    float2 residual[BLOCKS];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
        residual[b] = me.g < T ? hear_pair(i.x + me.g * D + me.rank * SLICE + (first + b) * 8 + me.q * 2) : make_float2(0.f, 0.f);
    await_turn(&s.values_ready, i.layer_turn);
    u32 values[H / 2][BLOCKS][2];
#pragma unroll
    for (int two = 0; two < H / 2; two++)
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            turned(s.values + (two * 16 + (me.lane & 15)) * SLICE_ROW + (first + b) * 8, values[two][b][0], values[two][b][1]);
    float2 gate[BLOCKS], next[BLOCKS], bias[BLOCKS];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        const int at = (first + b) * 8 + me.q * 2;
        gate[b] = wide2(*(const u32 *)(s.gate + at)), next[b] = wide2(*(const u32 *)(s.next + at));
        bias[b] = wide2(*(const u32 *)(s.out_bias + at));
    }
    await_turn(&s.attention_ready, i.layer_turn);
    float sums[BLOCKS][2][4] = {};
#pragma unroll
    for (int two = 0; two < H / 2; two++) {  // heads
        u32 high[2] = {}, low[2] = {};
        if (me.g < T) {
            const unsigned short *from = s.attention + me.g * HEADS_ROW + two * 16 + me.q * 2;
#pragma unroll
            for (int e = 0; e < 2; e++) {
                high[e] = *(const u32 *)(from + e * 8);
                low[e] = *(const u32 *)(from + T * HEADS_ROW + e * 8);
            }
        }
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
            multiply(sums[b][0], high[0], 0, high[1], 0, values[two][b][0], values[two][b][1]);
            multiply(sums[b][1], low[0], 0, low[1], 0, values[two][b][0], values[two][b][1]);
        }
    }
    __syncwarp();
    if (me.lane == 0) done(&s.values_empty);
    float total = 0.f, squares = 0.f;
    unsigned short *row = s.narrow + me.g * WIDE_ROW + me.rank * SLICE;
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
        const float left = residual[b].x + gate[b].x * (sums[b][0][0] + sums[b][1][0] + bias[b].x);
        const float right = residual[b].y + gate[b].y * (sums[b][0][1] + sums[b][1][1] + bias[b].y);
        total += left + right;
        squares += left * left + right * right;
        if (me.g < T) {
            *(u32 *)(row + (first + b) * 8 + me.q * 2) = narrow2(left * next[b].x, right * next[b].y);
            if (first + b == me.cluster) *(float2 *)(s.middle + me.g * 8 + me.q * 2) = make_float2(left, right);
        }
    }
#pragma unroll
    for (int by = 1; by < 4; by <<= 1) {
        total += __shfl_xor_sync(~0u, total, by);
        squares += __shfl_xor_sync(~0u, squares, by);
    }
    if (me.q == 0 && me.g < T) s.own_stats[me.warp * 8 + me.g] = make_float2(total, squares);
    sync();
    // neighbours send what lies side by side: so it goes in few parts
    for (int at = threadIdx.x; at < T * SLICE / 8; at += 32 * WARPS) {
        unsigned short *from = s.narrow + at / (SLICE / 8) * WIDE_ROW + me.rank * SLICE + at % (SLICE / 8) * 8;
#pragma unroll
        for (int other = 1; other < C; other++) send(from, (me.rank + other) % C, *(const uint4 *)from, &s.narrow_ready);
    }
    if (me.warp == WARPS - 1 && me.lane < T * C) {
        const int of = me.lane / C;
        float2 sum = make_float2(0.f, 0.f);
#pragma unroll
        for (int w = 0; w < WARPS; w++) sum.x += s.own_stats[w * 8 + of].x, sum.y += s.own_stats[w * 8 + of].y;
        send(s.stats + of * C + me.rank, me.lane % C, sum, &s.narrow_ready);
    }
}

__device__ __forceinline__ void up(Shared &s, const Self &me, const Item &i) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS;
    const int line = me.program * 32 + me.lane;
    await_turn(&s.up_ready, i.turn);
    const float fold = s.fold[me.lane], bias = s.fold_bias[me.lane];
    Lines<PAIRS, 2> lines;
    lines.load(s.up, me.warp, me.lane);
    uint4 tokens[COUNT] = {};
    await_turn(&s.narrow_ready, i.layer_turn);
    if (me.g < T) {
        const unsigned short *from = s.narrow + me.g * WIDE_ROW + me.warp * 32 + me.q * 8;
#pragma unroll
        for (int c = 0; c < COUNT; c++)
            if (PAIRS % WARPS == 0 || me.warp + WARPS * c < PAIRS) tokens[c] = *(const uint4 *)(from + c * WARPS * 32);
    }
    lines.multiply(tokens);
    if (me.lane == 0) done(&s.up_empty);
    lines.write(s.partial, me.warp, me.lane);
    float2 of = make_float2(0.f, 0.f);
    if (me.row_here) {
#pragma unroll
        for (int rank = 0; rank < C; rank++) of.x += s.stats[me.warp * C + rank].x, of.y += s.stats[me.warp * C + rank].y;
    }
    const float mean = of.x / D, squares = of.y / D;
    const float inverse = rsqrtf(squares - mean * mean + EPS);
    sync();
    if (!me.row_here) return;
    const float sum = collect(s.partial, me.warp, me.lane);
    const float out = gelu((sum - mean * fold) * inverse + bias);
    const u32 pair = narrow2(out, __shfl_down_sync(~0u, out, 1));
    if (me.lane % 2 == 0) tell(i.hidden + me.warp * 4 * D + line, pair);
}

// The cluster's columns over a part of the inner axis; the parts of each program's own ones come together there.
__device__ __forceinline__ void down(Shared &s, const Self &me, const Item &i, const Crowd &all) {
    constexpr int INNER = 4 * PAIRS / C, COUNT = (INNER + WARPS - 1) / WARPS;
    await_turn(&s.down_ready, i.turn);
    const float gate = wide2(s.down_gate[me.g]).x, bias = wide2(s.down_bias[i.layer * 8 + me.g]).x;
    const float middle = me.row_here ? s.middle[me.warp * 8 + me.g] : 0.f;
    Lines<INNER, C / 2> lines;
    lines.load(s.down, me.warp, me.lane);
    uint4 tokens[COUNT] = {};
    all.wait(me.rank);
    if (me.g < T) {
        const unsigned short *from = i.hidden + me.g * 4 * D + me.rank * INNER * 32;
        hear<COUNT, INNER % WARPS == 0>(from + me.warp * 32 + me.q * 8, WARPS * 64, from + INNER * 32, tokens);
    }
    lines.multiply(tokens);
    if (me.lane == 0) done(&s.down_empty);
    lines.write(s.partial, me.warp, me.lane);
    sync();
    if (!me.row_here) return;
    const u32 part = __float_as_uint(me.lane < 8 * C ? collect(s.partial, me.warp, me.lane) : 0.f);
    const uint4 four = make_uint4(part, __shfl_down_sync(~0u, part, 1), __shfl_down_sync(~0u, part, 2), __shfl_down_sync(~0u, part, 3));
    if (me.q == 0 && me.lane < 8 * C)
        send(s.down_sums + (me.rank * T + me.warp) * 8 + me.lane % 8, me.lane / 8, four, &s.down_sent);
    await_turn(&s.down_sent, i.layer_turn);
    float sum = me.q < C ? s.down_sums[(me.q * T + me.warp) * 8 + me.g] : 0.f;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (me.q == 0) tell(i.next_x + me.warp * D + me.column, middle + gate * (sum + bias));
}

// All normed tokens against the own units' input weights.
__device__ __forceinline__ void project(Shared &s, const Self &me, const Item &i, const Crowd &all) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS;
    await_turn(&s.up_ready, i.turn);
    Lines<PAIRS, 2> lines;
    lines.load(s.up, me.warp, me.lane);
    all.wait();
    if (me.row_here) {
        float x[VECTORS][8];
        hear_floats<VECTORS, D % 256 == 0>(i.x + me.warp * D + me.lane * 8, 256, i.x + (me.warp + 1) * D, i.late, x);
        const float2 norm = norm_of(x, HEAD_EPS);
        if (me.lane == 0) s.norm[me.warp] = norm;
#pragma unroll
        for (int v = 0; v < VECTORS; v++) {
            float *r = x[v];
#pragma unroll
            for (int e = 0; e < 8; e++) r[e] = (r[e] - norm.x) * norm.y;
            if (D % 256 == 0 || v * 256 + me.lane * 8 < D)
                *(uint4 *)(s.query + me.warp * WIDE_ROW + v * 256 + me.lane * 8) =
                    make_uint4(narrow2(r[0], r[1]), narrow2(r[2], r[3]), narrow2(r[4], r[5]), narrow2(r[6], r[7]));
        }
    }
    sync();
    uint4 tokens[COUNT] = {};
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        const int pair = me.warp + WARPS * c;
        if ((PAIRS % WARPS == 0 || pair < PAIRS) && me.g < T) tokens[c] = *(const uint4 *)(s.query + me.g * WIDE_ROW + pair * 32 + me.q * 8);
    }
    lines.multiply(tokens);
    if (me.lane == 0) done(&s.up_empty);
    lines.write(s.partial, me.warp, me.lane);
    sync();
    const float sum = collect(s.partial, me.warp, me.lane);
    if (me.row_here && me.lane < 24) s.given[me.warp * 32 + me.lane] = sum + s.gru_bias[me.lane];
    sync();
}

// One token of the GRU. Its states are told as they come: a barrier for each would take longer than what lies between.
__device__ __forceinline__ void recur(Shared &s, const Arguments &a, const Self &me, const Item &i, int token, bool last, int history,
                                      float &state) {
    constexpr int COUNT = (PAIRS + WARPS - 1) / WARPS;
    float *states = a.states + (size_t)i.step * T * D;
    const int unit = me.own + me.lane;
    const float *before = token ? states + (token - 1) * D : a.history + (size_t)history * D;
    await_turn(&s.down_ready, i.turn);
    Lines<PAIRS, 2> lines;
    lines.load(s.down, me.warp, me.lane);
    uint4 tokens[COUNT] = {};
    if (me.g == 0) {  // one row
        float held[COUNT][8];
        hear_floats<COUNT, PAIRS % WARPS == 0>(before + me.warp * 32 + me.q * 8, WARPS * 32, before + D, token, held);
#pragma unroll
        for (int c = 0; c < COUNT; c++) {
            const float *r = held[c];
            tokens[c] = make_uint4(narrow2(r[0], r[1]), narrow2(r[2], r[3]), narrow2(r[4], r[5]), narrow2(r[6], r[7]));
        }
    }
    if (token == 0 && me.warp == 0 && me.lane < 8) state = before[unit];
    lines.multiply(tokens);
    float *partial = s.gru_partial[token & 1];
    if (me.q == 0)
#pragma unroll
        for (int e = 0; e < 4; e++) partial[me.warp * 32 + e * 8 + me.g] = lines.sums[e / 2][e % 2 * 2];
    __syncwarp();
    if (me.lane == 0 && last) done(&s.down_empty);
    sync();
    if (me.warp) return;
    float sum = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) sum += partial[w * 32 + me.lane];
    const float of_update = __shfl_sync(~0u, sum, (me.lane + 8) & 31);
    const float of_candidate = __shfl_sync(~0u, sum, (me.lane + 16) & 31);
    if (me.lane < 8) {
        const float *projected = s.given + token * 32 + me.lane;
        const float reset = sigmoid(sum + projected[0]), update = sigmoid(of_update + projected[8]);
        float candidate = projected[16] + reset * (of_candidate + s.candidate_bias[me.lane]);
        candidate = 2.f * sigmoid(2.f * candidate) - 1.f;  // tanh
        state = candidate + update * (state - candidate);
        tell(states + token * D + unit, state);
    }
}

// Sums over all warps
__device__ __forceinline__ float2 sum_all(float2 *partial, float2 value, const Self &me) {
    value.x = warp_sum(value.x), value.y = warp_sum(value.y);
    if (me.lane == 0) partial[me.warp] = value;
    sync();
    float2 out = make_float2(0.f, 0.f);
#pragma unroll
    for (int w = 0; w < WARPS; w++) out.x += partial[w].x, out.y += partial[w].y;
    return out;
}

// One row's predicted noise, DDIM's step, and the token of the next step.
__device__ __forceinline__ void advance(Shared &s, const Arguments &a, const Self &me, const Item &i) {
    constexpr int COUNT = (D + 255) / 256;
    const int row = me.program;
    const float2 norm = s.norm[row];
    const float *states = a.states + ((size_t)i.step * T + row) * D, *level = a.levels + 4 * i.step;
    volatile float *point = a.trajectory + 2 * row;
    const float point_x = point[0], point_y = point[1];
    float x[COUNT], state[COUNT];
#pragma unroll
    for (int c = 0; c < COUNT; c++) x[c] = hear1(i.x + row * D + min(c * 256 + (int)threadIdx.x, D - 1));  // was heard before
    bool all;
    do {
        all = true;
#pragma unroll
        for (int c = 0; c < COUNT; c++) state[c] = hear1(states + min(c * 256 + (int)threadIdx.x, D - 1));
#pragma unroll
        for (int c = 0; c < COUNT; c++) all = all && __float_as_uint(state[c]) != ~0u;
    } while (!all);
    float2 sums = make_float2(0.f, 0.f);
#pragma unroll
    for (int c = 0; c < COUNT; c++)
        if (D % 256 == 0 || c * 256 + threadIdx.x < D) {
            const unsigned short *of = s.ahead + c * 256 + threadIdx.x;
            const float token = (x[c] - norm.x) * norm.y * wide1(of, 0) + wide1(of, D) + gelu(state[c]);
            sums.x += token * wide1(of, 2 * D);
            sums.y += token * wide1(of, 3 * D);
        }
    const float2 predicted = sum_all(s.sums[0], sums, me);
    const float predicted_x = predicted.x + wide1(a.head_out_bias, 0), predicted_y = predicted.y + wide1(a.head_out_bias, 1);
    float now_x = (point_x - level[1] * predicted_x) / level[0];
    float now_y = (point_y - level[1] * predicted_y) / level[0];
#if CLIP  // NaN stays NaN
    now_x = now_x > 1.f ? 1.f : now_x < -1.f ? -1.f : now_x;
    now_y = now_y > 1.f ? 1.f : now_y < -1.f ? -1.f : now_y;
#endif
    now_x = level[2] * now_x + level[3] * predicted_x;
    now_y = level[2] * now_y + level[3] * predicted_y;
    sums = make_float2(0.f, 0.f);
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        const bool here = D % 256 == 0 || c * 256 + threadIdx.x < D;
        const unsigned short *of = s.ahead + 4 * D + c * 256 + threadIdx.x;
        x[c] = here ? wide1(of, 2 * D) + now_x * wide1(of, 0) + now_y * wide1(of, D) : 0.f;
        sums.x += x[c];
        sums.y += x[c] * x[c];
    }
    sums = sum_all(s.sums[1], sums, me);
    if (threadIdx.x == 0) {  // all have read it
        point[0] = now_x;
        point[1] = now_y;
    }
    const float mean = sums.x / D, inverse = rsqrtf(sums.y / D - mean * mean + INPUT_EPS);
#pragma unroll
    for (int c = 0; c < COUNT; c++) {
        const int at = c * 256 + threadIdx.x;
        if (at < D) tell(i.next_x + row * D + at, (x[c] - mean) * inverse * wide1(s.ahead, 7 * D + at) + wide1(s.ahead, 8 * D + at));
    }
}
