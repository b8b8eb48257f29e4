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
// Compiled as one text behind loop_parts.cu and loop_phases.cu. The host defines D (width), H (heads), M (memory tokens), L
// (layers), T (waypoints, at most 8), CLIP, BF16 (weights in bfloat16 instead of half), the norms' EPS, HEAD_EPS and
// INPUT_EPS, PACE, and SHARED_BYTES that it gives.

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
