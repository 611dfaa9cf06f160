// Fused causal attention with a running softmax (Milakov and Gimelshein 2018; Dao et al. 2022), for tensor cores from sm_80 on.
//
// Row i, whose place among the keys is before + i, sees keys lo[i] to before + i. A block has 64 rows of one head, a warp 16 of them. It
// walks over the keys that any of its rows sees in tiles, the next tile on its way while one is worked on. docs/kernels.md.

#define FORWARD_PARAMETERS                                                                                                           \
    uint16_t *output, float *log_sum_exp, const uint16_t *query, const uint16_t *key, const uint16_t *value, const uint32_t *lo,     \
        uint32_t rows, uint32_t before, uint32_t query_heads, uint32_t key_heads, float scale
#define FORWARD_ARGUMENTS output, log_sum_exp, query, key, value, lo, rows, before, query_heads, key_heads, scale

constexpr float LN_2 = 0.69314718f;
constexpr int QUERY_ROWS = 64;

// The two rows of a lane on their way through the keys. `sum` is of the lane's own columns until the end.
struct Softmax {
    float largest[2] = {-infinite(), -infinite()};
    float sum[2] = {0.0f, 0.0f};
};

// Turns scores into powers below the running maximum, and brings sum and context down to it. `factor` is scale * log2(e): powers of two
// are what the hardware has.
template <int HEAD_DIM, int KEY_ROWS>
DEVICE void soften(Softmax& softmax, float (&score)[KEY_ROWS / 8][4], float (&context)[HEAD_DIM / 8][4], float factor) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float largest = softmax.largest[i];
#pragma unroll
        for (int n = 0; n < KEY_ROWS / 8; n++) largest = fmaxf(largest, fmaxf(score[n][2 * i], score[n][2 * i + 1]));
        largest = warp_max(largest, 4);
        // A row that has seen nothing yet has minus infinity, which cannot be taken away from itself.
        const float base = largest == -infinite() ? 0.0f : largest * factor;
        const float shrink = exp2_fast(softmax.largest[i] * factor - base);
        softmax.largest[i] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int n = 0; n < KEY_ROWS / 8; n++) {
#pragma unroll
            for (int k = 2 * i; k < 2 * i + 2; k++) {
                score[n][k] = exp2_fast(score[n][k] * factor - base);
                sum += score[n][k];
            }
        }
        softmax.sum[i] = softmax.sum[i] * shrink + sum;
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            context[n][2 * i] *= shrink;
            context[n][2 * i + 1] *= shrink;
        }
    }
}

// Hides what a row does not see: keys before its `first` and after its `last`. `tile` is the key of column 0.
template <int KEY_ROWS>
DEVICE void hide(float (&score)[KEY_ROWS / 8][4], const uint32_t (&first)[2], const uint32_t (&last)[2], uint32_t tile) {
    const unsigned member = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < KEY_ROWS / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const uint32_t at = tile + 8 * n + 2 * member + k % 2;
            if (at < first[k / 2] || at > last[k / 2]) score[n][k] = -infinite();
        }
    }
}

template <int HEAD_DIM>
DEVICE void attention_forward(FORWARD_PARAMETERS) {
    // Two stages of keys and values and the queries fit 99 KiB, what a block of Ada may have.
    constexpr int KEY_ROWS = HEAD_DIM > 128 ? 32 : 64;
    constexpr int STRIDE = Layout<HEAD_DIM>::STRIDE;
    DYNAMIC_SHARED(uint16_t, queries);
    uint16_t* keys = queries + QUERY_ROWS * STRIDE;
    uint16_t* values = keys + 2 * KEY_ROWS * STRIDE;
    const unsigned warp = threadIdx.x / 32, group = threadIdx.x % 32 / 4;
    const uint32_t head = blockIdx.y, key_head = head / (query_heads / key_heads);
    const uint64_t query_stride = uint64_t(query_heads) * HEAD_DIM, key_stride = uint64_t(key_heads) * HEAD_DIM;
    // Later rows see more: they begin first, so that none is left alone at the end.
    const uint32_t first_query = (gridDim.x - 1 - blockIdx.x) * QUERY_ROWS, last_query = min(first_query + QUERY_ROWS, rows) - 1;
    const uint32_t first_key = lo[first_query], end_key = before + last_query + 1, every_row_from = lo[last_query];
    const uint16_t *key_from = key + key_head * HEAD_DIM, *value_from = value + key_head * HEAD_DIM;

    // A row past the end sees nothing, and nothing of it is stored.
    uint32_t row_first[2], row_last[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t row = first_query + 16 * warp + group + 8 * i;
        row_first[i] = row < rows ? lo[row] : 0xFFFFFFFFu;
        row_last[i] = row < rows ? before + row : 0;
    }
    load_tile<HEAD_DIM, QUERY_ROWS, 128>(queries, query + head * HEAD_DIM, first_query, rows, query_stride);
    load_tile<HEAD_DIM, KEY_ROWS, 128>(keys, key_from, first_key, end_key, key_stride);
    load_tile<HEAD_DIM, KEY_ROWS, 128>(values, value_from, first_key, end_key, key_stride);
    cp_async_commit();

    Softmax softmax;
    float context[HEAD_DIM / 8][4] = {};
    unsigned stage = 0;
    for (uint32_t tile = first_key; tile < end_key; tile += KEY_ROWS, stage ^= 1) {
        if (end_key - tile > KEY_ROWS) {
            load_tile<HEAD_DIM, KEY_ROWS, 128>(keys + (stage ^ 1) * KEY_ROWS * STRIDE, key_from, tile + KEY_ROWS, end_key, key_stride);
            load_tile<HEAD_DIM, KEY_ROWS, 128>(values + (stage ^ 1) * KEY_ROWS * STRIDE, value_from, tile + KEY_ROWS, end_key, key_stride);
        }
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        float score[KEY_ROWS / 8][4] = {};
        multiply_rows<HEAD_DIM, KEY_ROWS>(score, queries, 16 * warp, keys + stage * KEY_ROWS * STRIDE);
        const bool all_seen = every_row_from <= tile && tile + KEY_ROWS - 1 <= before + first_query;
        if (!all_seen) hide<KEY_ROWS>(score, row_first, row_last, tile);
        soften<HEAD_DIM, KEY_ROWS>(softmax, score, context, scale * LOG2_E);
        multiply_registers<HEAD_DIM, KEY_ROWS, HEAD_DIM>(context, score, values + stage * KEY_ROWS * STRIDE, 0);
        // The next round's copies overwrite this stage.
        __syncthreads();
    }

    float inverse[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = warp_sum(softmax.sum[i], 4);
        inverse[i] = 1.0f / sum;
        const uint32_t row = first_query + 16 * warp + group + 8 * i;
        if (log_sum_exp && row < rows && threadIdx.x % 4 == 0) {
            log_sum_exp[uint64_t(head) * rows + row] = softmax.largest[i] * scale + log2_fast(sum) * LN_2;
        }
    }
    store_rows<HEAD_DIM>(output + head * HEAD_DIM, context, inverse, first_query + 16 * warp, rows, query_stride);
}

KERNEL(attention_forward_32, 128)(FORWARD_PARAMETERS) { attention_forward<32>(FORWARD_ARGUMENTS); }
KERNEL(attention_forward_64, 128)(FORWARD_PARAMETERS) { attention_forward<64>(FORWARD_ARGUMENTS); }
KERNEL(attention_forward_80, 128)(FORWARD_PARAMETERS) { attention_forward<80>(FORWARD_ARGUMENTS); }
KERNEL(attention_forward_96, 128)(FORWARD_PARAMETERS) { attention_forward<96>(FORWARD_ARGUMENTS); }
KERNEL(attention_forward_128, 128)(FORWARD_PARAMETERS) { attention_forward<128>(FORWARD_ARGUMENTS); }
KERNEL(attention_forward_256, 128)(FORWARD_PARAMETERS) { attention_forward<256>(FORWARD_ARGUMENTS); }
