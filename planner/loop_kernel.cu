// The denoising loop of one plan as one persistent kernel: programs stay on their multiprocessors for all layers and
// steps and tell each other what they have computed, where separate kernels would end and start anew.
//
// A program owns 8 of the D columns. Programs come in clusters of C, which write into each other's shared memory: a cluster
// computes all of the attention for itself, each of its programs some heads' scores and a slice of the columns behind them. So
// all programs wait for all others once a layer, for a C-th of them once more, and for all again in a step's head:
//
//   rate, attend, up  in a cluster: softmax of the own heads' scores; the own slice of the residual with the attended values;
//                     32 columns of the feed-forward's hidden layer
//   down              a program has a part of the inner axis for all columns of its cluster, which puts the parts together
//   project, recur    8 units of the GRU, their three gates: of all tokens' given part, then of one token after the other
//   advance           in the first programs: one row's predicted noise, DDIM's step, the token of the next step
//
// The algebra, and what is folded into keys, values, `fold` and `fold_bias`, is that of kernels.py and fused_decoder.py.
// What nobody writes (weights, keys, values) is copied to shared memory an item (a layer, or the head) ahead, each into the
// place that it had, as soon as that is free, by a warp of its own; weights lie in memory in the order in which the tensor
// cores take them (fused_loop.py). What a program has sent to its cluster may be overwritten in the next layer: its sender
// has heard since what could not be told before all had used it.
//
// A launch does some of a plan's items. `recurring` makes it stop behind the GRU's first tokens: so the history goes through the
// layers of the first step.
//
// Tensor-core products are m16n8k16. Within 32 places of the inner axis, lane 4 g + q takes the eight from 8 q on, the
// first four in one product, the others in the next: a permutation that both operands share, so that each lane reads 16
// contiguous bytes of a row. In the attention the operand that was fp32 goes in two parts, rounded and rest.
//
// Compiled as one text behind loop_parts.cu and loop_phases.cu. The host defines D (width), H (heads), M (memory tokens), L
// (layers), T (waypoints, at most 8), C, CLIP, BF16 (weights in bfloat16 instead of half), the norms' EPS, HEAD_EPS and
// INPUT_EPS, and SHARED_BYTES that it gives.

// One warp: what every item needs that nobody writes on its way to shared memory.
__device__ void bring(Shared &s, const Arguments &a, const Self &me, int first_item, int last_item, int steps, int fold_stride,
                      int bias_stride) {
    const int lane = me.lane, slice = me.rank * SLICE;
    int layers = 0;
    for (int item = first_item; item < last_item; item++) {
        const int count = item - first_item, layer = item % ITEMS, step = item / ITEMS;
        const bool is_layer = layer < L;
        const unsigned short *modulation = (const unsigned short *)a.modulation + (size_t)(step * L + layer) * 9 * D;
        const unsigned char *weights = (const unsigned char *)a.items + ((size_t)layer * PROGRAMS + me.program) * 2 * PRODUCT_BYTES;
        if (is_layer) {
            const size_t line = (size_t)layer * H * steps * M + step * M;  // of keys and values
            if (layers) await_turn(&s.keys_empty, layers - 1);
            if (lane == 0) {
                expect(&s.keys_ready, (KEYS + 2) * D * 2);
                copy(s.scale, modulation + 3 * D, 2 * D * 2, &s.keys_ready);
            }
            __syncwarp();
            if (lane < KEYS) {
                const size_t row = line + (size_t)(me.rank * HEADS + lane / M) * steps * M + lane % M;
                copy(s.keys + lane * WIDE_ROW, (const unsigned short *)a.keys + row * D, D * 2, &s.keys_ready);
            }
            if (layers) await_turn(&s.values_empty, layers - 1);
            if (lane == 0) {
                expect(&s.values_ready, (H * M + 3) * SLICE * 2);
                copy(s.gate, modulation + 5 * D + slice, SLICE * 2, &s.values_ready);
                copy(s.next, modulation + 7 * D + slice, SLICE * 2, &s.values_ready);
                copy(s.out_bias, (const unsigned short *)a.out_bias + layer * D + slice, SLICE * 2, &s.values_ready);
            }
            __syncwarp();
            for (int p = lane; p < H * M; p += 32) {
                const size_t row = line + (size_t)(p / M) * steps * M + p % M;
                copy(s.values + (p / M * 8 + p % M) * SLICE_ROW, (const unsigned short *)a.values + row * D + slice, SLICE * 2,
                     &s.values_ready);
            }
            layers++;
        }
        if (count) await_turn(&s.up_empty, count - 1);
        if (lane == 0) {
            expect(&s.up_ready, PRODUCT_BYTES + (is_layer ? 2 * 128 : 0));
            if (is_layer) {
                const int line = step * 4 * D + me.program * 32;
                copy(s.fold, a.fold + (size_t)layer * fold_stride + line, 128, &s.up_ready);
                copy(s.fold_bias, a.fold_bias + (size_t)layer * bias_stride + line, 128, &s.up_ready);
            }
            copy(s.up, weights, PRODUCT_BYTES, &s.up_ready);
        }
        __syncwarp();
        if (count) await_turn(&s.down_empty, count - 1);
        if (lane == 0) {
            expect(&s.down_ready, PRODUCT_BYTES + (is_layer ? 16 : 0));
            if (is_layer) copy(s.down_gate, modulation + 8 * D + me.own, 16, &s.down_ready);
            copy(s.down, weights + PRODUCT_BYTES, PRODUCT_BYTES, &s.down_ready);
        }
        __syncwarp();
    }
}

extern "C" __global__ void __cluster_dims__(C, 1, 1) __launch_bounds__(384, 1)
loop_kernel(const float *first, float *x, void *hidden, float *states, float *trajectory, int *arrived, const void *items, const void
            *modulation, const float *fold, const float *fold_bias, const void *keys, const void *key_bias, const void
            *values, const float *history, const float *levels, const void *down_bias, const void *out_bias, const float
            *gru_bias, const void *candidate_bias, const void *head_norm, const void *head_norm_bias, const void *head_out,
            const void *head_out_bias, const void *points, const void *points_bias, const void *input_norm, const void
            *input_norm_bias,
            int first_item, int last_item, int steps, int fold_stride, int bias_stride, int first_history, int recurring) {
    extern __shared__ __align__(128) unsigned char memory[];
    Shared &s = *(Shared *)memory;
    const Arguments a = {first, x, hidden, states, trajectory, arrived, items, modulation, fold, fold_bias, keys, key_bias, values,
                         history, levels, down_bias, out_bias, gru_bias, candidate_bias, head_norm, head_norm_bias, head_out,
                         head_out_bias, points, points_bias, input_norm, input_norm_bias};
    Self me;
    me.program = blockIdx.x, me.rank = me.program % C, me.cluster = me.program / C;
    me.own = me.rank * SLICE + me.cluster * 8;
    me.warp = threadIdx.x / 32, me.lane = threadIdx.x % 32, me.g = me.lane >> 2, me.q = me.lane & 3;
    me.column = me.own + me.g, me.row_here = me.warp < T;

    if (threadIdx.x < 11)  // seven that are ready, four that are empty
        asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(place(&s.keys_ready + threadIdx.x)), "r"(threadIdx.x < 7 ? 1 : WARPS));
    for (int at = threadIdx.x; at < H * 8 * SLICE_ROW / 2; at += blockDim.x) ((u32 *)s.values)[at] = 0;
    for (int at = threadIdx.x; at < L * 8; at += blockDim.x)
        s.down_bias[at] = ((const unsigned short *)a.down_bias)[at / 8 * D + me.own + at % 8];
    if (threadIdx.x < 24) s.gru_bias[threadIdx.x] = a.gru_bias[threadIdx.x / 8 * D + me.own + threadIdx.x % 8];
    if (threadIdx.x < 8) s.candidate_bias[threadIdx.x] = wide1(a.candidate_bias, me.own + threadIdx.x);
    if (me.program < T) {
        const void *const read[] = {a.head_norm, a.head_norm_bias, a.head_out, (const unsigned short *)a.head_out + D, a.points,
                                    (const unsigned short *)a.points + D, (const unsigned short *)a.points_bias + me.program * D,
                                    a.input_norm, a.input_norm_bias};
#pragma unroll
        for (int which = 0; which < 9; which++)
            for (int at = threadIdx.x; at < D; at += blockDim.x) s.ahead[which * D + at] = ((const unsigned short *)read[which])[at];
    }
    asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async;" ::: "memory");
    cluster_sync();
    if (me.warp >= WARPS) {  // four warps, of which one works: registers are given away by four
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (me.warp == WARPS) bring(s, a, me, first_item, last_item, steps, fold_stride, bias_stride);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        Crowd all = {a.arrived, me.program / (PROGRAMS / C), 0};
        int layers = 0;  // begun
        for (int number = first_item; number < last_item; number++) {
            Item item;
            item.layer = number % ITEMS, item.step = number / ITEMS, item.turn = number - first_item, item.layer_turn = layers;
            item.x = number ? a.x + (size_t)(number - 1) * T * D : a.first;
            item.late = number > first_item;
            item.next_x = a.x + (size_t)number * T * D;
            item.hidden = (unsigned short *)a.hidden + (size_t)(item.step * L + item.layer) * T * 4 * D;
            if (item.layer < L) {
                rate(s, a, me, item, steps, all);
                attend(s, me, item);
                up(s, me, item);
                all.arrive();
                down(s, me, item, all);
                all.arrive();
                layers++;
            } else {
                project(s, me, item, all);
                float state = 0.f;
                const int tokens = recurring ? recurring : T;
                for (int token = 0; token < tokens; token++)
                    recur(s, a, me, item, token, token == tokens - 1, item.step - first_history, state);
                if (me.program < T && !recurring) advance(s, a, me, item);
                all.arrive();
            }
        }
    }
    cluster_sync();  // nobody leaves while others may write into its memory
}
