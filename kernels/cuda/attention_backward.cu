// The backward pass of attention, for tensor cores from sm_80 on: one kernel for the gradients of keys and values, one for that of the
// queries. Scores are made twice (7 products instead of 5), so every output has one owner and no sum depends on what runs when.
//
// With P the probabilities, dP = dO V^T, delta = rowsum(O * dO): dS = P * (dP - delta), dV = P^T dO, dK = scale dS^T Q, dQ = scale dS K.
// P and dS are rounded to bf16 before they enter a product. docs/kernels.md.

#define BACKWARD_PARAMETERS                                                                                                             \
    const uint16_t *query, const uint16_t *key, const uint16_t *value, const uint16_t *output_grad, const float *log_sum_exp,           \
        const float *delta, const uint32_t *lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale
#define BACKWARD_ARGUMENTS query, key, value, output_grad, log_sum_exp, delta, lo, rows, query_heads, key_heads, scale

// Two tiles stay and two are streamed. Heads of 256 have room for one stage only in the 99 KiB of Ada.
constexpr int FIXED_ROWS = 64;
constexpr int MOVING_ROWS = 32;
template <int HEAD_DIM>
constexpr int STAGES = HEAD_DIM > 128 ? 1 : 2;
// Accumulators for keys and values of 256 columns do not fit one warp's registers: two warps share rows, each with half the columns.
template <int HEAD_DIM>
constexpr int SPLIT = HEAD_DIM > 128 ? 2 : 1;

// delta[head, row] = the sum of output * output_grad over a head of [rows, heads, head_dim]. Sixteen lanes per head.
KERNEL(attention_delta, 256)(float* delta, const uint16_t* output, const uint16_t* output_grad, uint32_t rows, uint32_t heads,
                             uint32_t head_dim) {
    const uint64_t item = uint64_t(blockIdx.x) * 16 + threadIdx.x / 16;
    const bool valid = item < uint64_t(rows) * heads;
    float sum = 0.0f;
    for (uint32_t at = 8 * (threadIdx.x % 16); valid && at < head_dim; at += 128) {
        const Eight value = load_eight(output, item * head_dim + at), grad = load_eight(output_grad, item * head_dim + at);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += value.value[i] * grad.value[i];
    }
    sum = warp_sum(sum, 16);
    if (valid && threadIdx.x % 16 == 0) delta[item % heads * rows + item / heads] = sum;
}

// What the streamed query rows bring besides their tiles.
struct RowStage {
    float log_sum_exp[MOVING_ROWS];
    float delta[MOVING_ROWS];
    uint32_t lo[MOVING_ROWS];
};

// Scores, keys by queries, into probabilities, and the gradients of probabilities into those of scores.
DEVICE void slopes_of_keys(float (&score)[MOVING_ROWS / 8][4], float (&slope)[MOVING_ROWS / 8][4], const RowStage& stage, float factor,
                           uint32_t first_key, uint32_t first_query) {
    const unsigned group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
#pragma unroll
    for (int n = 0; n < MOVING_ROWS / 8; n++) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            const unsigned row = 8 * n + 2 * member + k % 2;
            const uint32_t key = first_key + group + 8 * (k / 2);
            // A row past the end has a sum of infinity, so that its probabilities are zero.
            const float probability = exp2_fast(score[n][k] * factor - stage.log_sum_exp[row] * LOG2_E);
            const bool seen = stage.lo[row] <= key && key <= first_query + row;
            score[n][k] = seen ? probability : 0.0f;
            slope[n][k] = seen ? probability * (slope[n][k] - stage.delta[row]) : 0.0f;
        }
    }
}

// A block has 64 keys of one key head and walks over the query heads that read it and the rows that see it. 128 threads times SPLIT.
template <int HEAD_DIM>
DEVICE void backward_keys(uint16_t* key_grad, uint16_t* value_grad, BACKWARD_PARAMETERS) {
    constexpr int STRIDE = Layout<HEAD_DIM>::STRIDE, THREADS = 128 * SPLIT<HEAD_DIM>, COLUMNS = HEAD_DIM / SPLIT<HEAD_DIM>;
    constexpr int STAGE = MOVING_ROWS * STRIDE;
    DYNAMIC_SHARED(uint16_t, keys);
    SHARED_ARRAY(RowStage, row_stages, STAGES<HEAD_DIM>);
    uint16_t* values = keys + FIXED_ROWS * STRIDE;
    uint16_t* queries = values + FIXED_ROWS * STRIDE;
    uint16_t* grads = queries + STAGES<HEAD_DIM> * STAGE;
    const unsigned warp_row = threadIdx.x / 32 % 4 * 16, first_chunk = threadIdx.x / 128 * (COLUMNS / 8);
    const uint32_t key_head = blockIdx.y, group_heads = query_heads / key_heads;
    const uint64_t query_stride = uint64_t(query_heads) * HEAD_DIM, key_stride = uint64_t(key_heads) * HEAD_DIM;
    const uint32_t first_key = blockIdx.x * FIXED_ROWS;
    const uint32_t end_query = last_seen_by(lo, rows, min(first_key + FIXED_ROWS, rows) - 1) + 1;
    const uint32_t tiles = (end_query - first_key + MOVING_ROWS - 1) / MOVING_ROWS, steps = tiles * group_heads;

    const auto load = [&](uint32_t step, unsigned stage) {
        const uint32_t head = key_head * group_heads + step / tiles, first = first_key + step % tiles * MOVING_ROWS;
        load_tile<HEAD_DIM, MOVING_ROWS, THREADS>(queries + stage * STAGE, query + head * HEAD_DIM, first, end_query, query_stride);
        load_tile<HEAD_DIM, MOVING_ROWS, THREADS>(grads + stage * STAGE, output_grad + head * HEAD_DIM, first, end_query, query_stride);
        if (threadIdx.x < MOVING_ROWS) {
            const uint32_t row = first + threadIdx.x;
            const uint64_t at = uint64_t(head) * rows + row;
            row_stages[stage].log_sum_exp[threadIdx.x] = row < end_query ? log_sum_exp[at] : infinite();
            row_stages[stage].delta[threadIdx.x] = row < end_query ? delta[at] : 0.0f;
            row_stages[stage].lo[threadIdx.x] = row < end_query ? lo[row] : 0xFFFFFFFFu;
        }
    };
    load_tile<HEAD_DIM, FIXED_ROWS, THREADS>(keys, key + key_head * HEAD_DIM, first_key, rows, key_stride);
    load_tile<HEAD_DIM, FIXED_ROWS, THREADS>(values, value + key_head * HEAD_DIM, first_key, rows, key_stride);
    if (STAGES<HEAD_DIM> == 2) load(0, 0);
    cp_async_commit();

    float key_sum[COLUMNS / 8][4] = {}, value_sum[COLUMNS / 8][4] = {};
    for (uint32_t step = 0; step < steps; step++) {
        const unsigned stage = step % STAGES<HEAD_DIM>;
        if (STAGES<HEAD_DIM> == 1) load(step, 0);
        else if (step + 1 < steps) load(step + 1, stage ^ 1);
        cp_async_commit();
        cp_async_wait<STAGES<HEAD_DIM> - 1>();
        __syncthreads();
        float score[MOVING_ROWS / 8][4] = {}, slope[MOVING_ROWS / 8][4] = {};
        multiply_rows<HEAD_DIM, MOVING_ROWS>(score, keys, warp_row, queries + stage * STAGE);
        multiply_rows<HEAD_DIM, MOVING_ROWS>(slope, values, warp_row, grads + stage * STAGE);
        slopes_of_keys(score, slope, row_stages[stage], scale * LOG2_E, first_key + warp_row, first_key + step % tiles * MOVING_ROWS);
        multiply_registers<HEAD_DIM, MOVING_ROWS, COLUMNS>(value_sum, score, grads + stage * STAGE, first_chunk);
        multiply_registers<HEAD_DIM, MOVING_ROWS, COLUMNS>(key_sum, slope, queries + stage * STAGE, first_chunk);
        __syncthreads();
    }
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    const uint64_t column = key_head * HEAD_DIM + 8 * first_chunk;
    store_rows<COLUMNS>(key_grad + column, key_sum, scales, first_key + warp_row, rows, key_stride);
    store_rows<COLUMNS>(value_grad + column, value_sum, ones, first_key + warp_row, rows, key_stride);
}

// A block has 64 rows of one query head and walks over the keys that any of them sees. 128 threads.
template <int HEAD_DIM>
DEVICE void backward_queries(uint16_t* query_grad, BACKWARD_PARAMETERS) {
    constexpr int STRIDE = Layout<HEAD_DIM>::STRIDE, STAGE = MOVING_ROWS * STRIDE;
    DYNAMIC_SHARED(uint16_t, queries);
    uint16_t* grads = queries + FIXED_ROWS * STRIDE;
    uint16_t* keys = grads + FIXED_ROWS * STRIDE;
    uint16_t* values = keys + STAGES<HEAD_DIM> * STAGE;
    const unsigned warp_row = threadIdx.x / 32 * 16, group = threadIdx.x % 32 / 4, member = threadIdx.x % 4;
    const uint32_t head = blockIdx.y, key_head = head / (query_heads / key_heads);
    const uint64_t query_stride = uint64_t(query_heads) * HEAD_DIM, key_stride = uint64_t(key_heads) * HEAD_DIM;
    const uint32_t first_query = (gridDim.x - 1 - blockIdx.x) * FIXED_ROWS, end_query = min(first_query + FIXED_ROWS, rows);
    const uint32_t first_key = lo[first_query], steps = (end_query - first_key + MOVING_ROWS - 1) / MOVING_ROWS;

    const auto load = [&](uint32_t step, unsigned stage) {
        const uint32_t first = first_key + step * MOVING_ROWS;
        load_tile<HEAD_DIM, MOVING_ROWS, 128>(keys + stage * STAGE, key + key_head * HEAD_DIM, first, end_query, key_stride);
        load_tile<HEAD_DIM, MOVING_ROWS, 128>(values + stage * STAGE, value + key_head * HEAD_DIM, first, end_query, key_stride);
    };
    load_tile<HEAD_DIM, FIXED_ROWS, 128>(queries, query + head * HEAD_DIM, first_query, rows, query_stride);
    load_tile<HEAD_DIM, FIXED_ROWS, 128>(grads, output_grad + head * HEAD_DIM, first_query, rows, query_stride);
    if (STAGES<HEAD_DIM> == 2) load(0, 0);
    cp_async_commit();

    float row_sum[2], row_delta[2];
    uint32_t row_first[2], row_last[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t row = first_query + warp_row + group + 8 * i;
        const bool inside = row < rows;
        const uint64_t at = uint64_t(head) * rows + row;
        row_sum[i] = inside ? log_sum_exp[at] * LOG2_E : infinite();
        row_delta[i] = inside ? delta[at] : 0.0f;
        row_first[i] = inside ? lo[row] : 0xFFFFFFFFu;
        row_last[i] = row;
    }
    float sum[HEAD_DIM / 8][4] = {};
    for (uint32_t step = 0; step < steps; step++) {
        const unsigned stage = step % STAGES<HEAD_DIM>;
        if (STAGES<HEAD_DIM> == 1) load(step, 0);
        else if (step + 1 < steps) load(step + 1, stage ^ 1);
        cp_async_commit();
        cp_async_wait<STAGES<HEAD_DIM> - 1>();
        __syncthreads();
        float score[MOVING_ROWS / 8][4] = {}, slope[MOVING_ROWS / 8][4] = {};
        multiply_rows<HEAD_DIM, MOVING_ROWS>(score, queries, warp_row, keys + stage * STAGE);
        multiply_rows<HEAD_DIM, MOVING_ROWS>(slope, grads, warp_row, values + stage * STAGE);
#pragma unroll
        for (int n = 0; n < MOVING_ROWS / 8; n++) {
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const uint32_t at = first_key + step * MOVING_ROWS + 8 * n + 2 * member + k % 2;
                const float probability = exp2_fast(score[n][k] * (scale * LOG2_E) - row_sum[k / 2]);
                const bool seen = row_first[k / 2] <= at && at <= row_last[k / 2];
                slope[n][k] = seen ? probability * (slope[n][k] - row_delta[k / 2]) : 0.0f;
            }
        }
        multiply_registers<HEAD_DIM, MOVING_ROWS, HEAD_DIM>(sum, slope, keys + stage * STAGE, 0);
        __syncthreads();
    }
    const float scales[2] = {scale, scale};
    store_rows<HEAD_DIM>(query_grad + head * HEAD_DIM, sum, scales, first_query + warp_row, rows, query_stride);
}

#define KEYS_PARAMETERS uint16_t *key_grad, uint16_t *value_grad, BACKWARD_PARAMETERS
#define KEYS_ARGUMENTS key_grad, value_grad, BACKWARD_ARGUMENTS
KERNEL(attention_backward_keys_32, 128)(KEYS_PARAMETERS) { backward_keys<32>(KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_64, 128)(KEYS_PARAMETERS) { backward_keys<64>(KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_80, 128)(KEYS_PARAMETERS) { backward_keys<80>(KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_96, 128)(KEYS_PARAMETERS) { backward_keys<96>(KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_128, 128)(KEYS_PARAMETERS) { backward_keys<128>(KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_256, 256)(KEYS_PARAMETERS) { backward_keys<256>(KEYS_ARGUMENTS); }

#define QUERIES_PARAMETERS uint16_t *query_grad, BACKWARD_PARAMETERS
#define QUERIES_ARGUMENTS query_grad, BACKWARD_ARGUMENTS
KERNEL(attention_backward_queries_32, 128)(QUERIES_PARAMETERS) { backward_queries<32>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_64, 128)(QUERIES_PARAMETERS) { backward_queries<64>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_80, 128)(QUERIES_PARAMETERS) { backward_queries<80>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_96, 128)(QUERIES_PARAMETERS) { backward_queries<96>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_128, 128)(QUERIES_PARAMETERS) { backward_queries<128>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_256, 128)(QUERIES_PARAMETERS) { backward_queries<256>(QUERIES_ARGUMENTS); }
