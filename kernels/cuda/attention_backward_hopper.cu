// The backward pass of attention for Hopper (sm_90a), with the two kernels and the formulas of attention_backward.cu: tensors come by TMA,
// products are made by warpgroups, and what enters a product a second time stays in registers.
//
// A block has 128 rows that stay, 64 to each consuming warpgroup, and streams 64 at a time through a ring of two stages. Where the order of
// sums may be any, the kernel for keys adds what each tile of queries gets, too, and there is one pass. docs/kernels.md.

constexpr int FIXED_ROWS = 128;
constexpr int MOVING_ROWS = 64;

// What the streamed query rows bring besides their tiles.
struct RowStage {
    float log_sum_exp[MOVING_ROWS];
    float delta[MOVING_ROWS];
    uint32_t lo[MOVING_ROWS];
};

// Barriers: of the tiles that stay, and of the two tiles of each stage.
struct Ring {
    uint64_t fixed_full;
    uint64_t first_full[STAGES], second_full[STAGES];
    uint64_t empty[STAGES];
    // Of the second tile alone, where it is read for the last time before the first.
    uint64_t second_empty[STAGES];
};

// `arrivals` on a stage's first tile: who fills it.
DEVICE void init(Ring* ring, unsigned arrivals) {
    if (threadIdx.x == 0) {
        mbarrier_init(&ring->fixed_full, 2);
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(&ring->first_full[stage], arrivals);
            mbarrier_init(&ring->second_full[stage], 1);
            mbarrier_init(&ring->empty[stage], CONSUMER_WARPS);
            mbarrier_init(&ring->second_empty[stage], CONSUMER_WARPS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

// Scores, keys by queries, into probabilities. `first_key` is the thread's first.
DEVICE void probabilities_of_keys(float (&score)[MOVING_ROWS / 2], const RowStage& stage, uint32_t first_key, uint32_t first_query,
                                  float factor) {
#pragma unroll
    for (int i = 0; i < MOVING_ROWS / 2; i++) {
        const unsigned row = 8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2;
        const uint32_t key = first_key + 8 * (i / 2 % 2);
        // A row past the end has a sum of infinity, so that its probabilities are zero.
        const float probability = exp2_fast(score[i] * factor - stage.log_sum_exp[row] * LOG2_E);
        score[i] = stage.lo[row] <= key && key <= first_query + row ? probability : 0.0f;
    }
}

// The walk of one block of keys: heads that read them, and rows that see them, in steps of one tile.
struct KeyWalk {
    uint32_t first_key, tiles, steps, first_head;

    DEVICE uint32_t head(uint32_t step) const { return first_head + step / tiles; }
    DEVICE uint32_t row(uint32_t step) const { return first_key + step % tiles * MOVING_ROWS; }
};

// Warpgroup 0: its first thread fetches tiles, its second warp what belongs to their rows.
template <int HEAD_DIM>
DEVICE void produce_for_keys(Ring* ring, RowStage* row_stages, uint16_t* keys, const TensorMap* query, const TensorMap* key,
                             const TensorMap* value, const TensorMap* output_grad, const float* log_sum_exp, const float* delta,
                             const uint32_t* lo, const KeyWalk& walk, uint32_t key_head, uint32_t rows) {
    constexpr int FIXED = TILE<HEAD_DIM, FIXED_ROWS>, STAGE = TILE<HEAD_DIM, MOVING_ROWS>;
    uint16_t *queries = keys + 2 * FIXED, *grads = queries + STAGES * STAGE;
    if (threadIdx.x == 0) {
        fetch<HEAD_DIM, FIXED_ROWS>(keys, key, &ring->fixed_full, key_head, walk.first_key);
        fetch<HEAD_DIM, FIXED_ROWS>(keys + FIXED, value, &ring->fixed_full, key_head, walk.first_key);
    }
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (uint32_t step = 0; step < walk.steps && (threadIdx.x == 0 || warp == 1); step++) {
        const unsigned stage = step % STAGES;
        const uint32_t head = walk.head(step), first = walk.row(step);
        mbarrier_wait(&ring->empty[stage], (step / STAGES % 2) ^ 1);
        if (threadIdx.x == 0) {
            fetch<HEAD_DIM, MOVING_ROWS>(queries + stage * STAGE, query, &ring->first_full[stage], head, first);
            fetch<HEAD_DIM, MOVING_ROWS>(grads + stage * STAGE, output_grad, &ring->second_full[stage], head, first);
            continue;
        }
        for (unsigned at = lane; at < MOVING_ROWS; at += 32) {
            const uint32_t row = first + at;
            const bool inside = row < rows;
            row_stages[stage].log_sum_exp[at] = inside ? log_sum_exp[uint64_t(head) * rows + row] : infinite();
            row_stages[stage].delta[at] = inside ? delta[uint64_t(head) * rows + row] : 0.0f;
            row_stages[stage].lo[at] = inside ? lo[row] : 0xFFFFFFFFu;
        }
        mbarrier_arrive(&ring->first_full[stage]);
    }
}

// Without sums of queries.
struct NoQueries {
    DEVICE void slopes(const uint32_t (&)[MOVING_ROWS / 16][4], uint32_t) {}
    DEVICE void start(uint32_t) {}
    DEVICE void add(const KeyWalk&, uint32_t) {}
    DEVICE void end() {}
};

// Sums of queries, 64 columns of them to each warpgroup: what 128 keys add to a tile of them, whole from one block. Slopes go to shared
// memory, keys by rows, and are read by column. A warpgroup's part of a sum is added in one copy, in the order in which threads hold it.
template <int HEAD_DIM>
struct WithQueries {
    static constexpr int PART = MOVING_ROWS * 64;   // of a sum: a warpgroup's
    static constexpr int SLOPES = FIXED_ROWS * MOVING_ROWS;
    static constexpr unsigned WRITTEN = 1, STAGED = 2;  // barriers: of all consumers, and of one warpgroup

    // The block's keys; two tiles of slopes, so that one is written while another is read; what a warpgroup is to add.
    const uint16_t* keys;
    uint16_t* slope_tiles;
    float* staged;
    // [query_heads, tiles, HEAD_DIM / 64, PART]
    float* query_sums;
    uint32_t tiles;
    float sum[32];

    DEVICE unsigned group() const { return threadIdx.x / 128 - 1; }

    DEVICE void slopes(const uint32_t (&packed)[MOVING_ROWS / 16][4], uint32_t step) {
        uint16_t* tile = slope_tiles + step % 2 * SLOPES;
#pragma unroll
        for (int k = 0; k < MOVING_ROWS / 16; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const unsigned key = group() * 64 + row_in_group() + 8 * (i % 2), chunk = (2 * k + i / 2) ^ key % 8;
                *reinterpret_cast<uint32_t*>(tile + key * MOVING_ROWS + chunk * 8 + 2 * (threadIdx.x % 4)) = packed[k][i];
            }
        }
        fence_proxy_async();
        barrier_sync(WRITTEN, 32 * CONSUMER_WARPS);
    }

    DEVICE void start(uint32_t step) {
        const uint16_t* tile = slope_tiles + step % 2 * SLOPES;
        const uint16_t* columns = keys + group() * 64 * FIXED_ROWS;
#pragma unroll
        for (int k = 0; k < FIXED_ROWS / 16; k++) {
            const uint64_t left = product_descriptor(tile + k * 16 * MOVING_ROWS, SLOPES * 2, GROUP_BYTES);
            const uint64_t right = product_descriptor(columns + k * 16 * BOX_COLUMNS, FIXED_ROWS * BOX_COLUMNS * 2, GROUP_BYTES);
            wgmma<64, true, true>(sum, left, right, k > 0);
        }
    }

    DEVICE void add(const KeyWalk& walk, uint32_t step) {
        const unsigned thread = threadIdx.x % 128;
        float* own = staged + group() * PART;
        // What was added before must have been read.
        if (thread == 0) bulk_wait_read<0>();
        barrier_sync(STAGED + group(), 128);
#pragma unroll
        for (int i = 0; i < 32; i++) own[i * 128 + thread] = sum[i];
        fence_proxy_async();
        barrier_sync(STAGED + group(), 128);
        if (thread != 0) return;
        const uint64_t tile = uint64_t(walk.head(step)) * tiles + walk.row(step) / MOVING_ROWS;
        bulk_reduce_add(query_sums + (tile * (HEAD_DIM / 64) + group()) * PART, own, PART * 4);
        bulk_commit();
    }

    // Shared memory is the block's until then.
    DEVICE void end() {
        if (threadIdx.x % 128 == 0) bulk_wait<0>();
    }
};

// Sums of one warpgroup's 64 keys. `first_key` is the first of the thread's two.
template <int HEAD_DIM, typename Queries>
DEVICE void consume_for_keys(Ring* ring, float (&key_sum)[HEAD_DIM / 2], float (&value_sum)[HEAD_DIM / 2], const RowStage* row_stages,
                             const uint16_t* keys, const uint16_t* queries, const KeyWalk& walk, uint32_t first_key, float factor,
                             Queries& for_queries) {
    constexpr int STAGE = TILE<HEAD_DIM, MOVING_ROWS>;
    const uint16_t *values = keys + TILE<HEAD_DIM, FIXED_ROWS>, *grads = queries + STAGES * STAGE;
    float score[MOVING_ROWS / 2], slope[MOVING_ROWS / 2];
    uint32_t probability[MOVING_ROWS / 16][4], packed_slope[MOVING_ROWS / 16][4];
    mbarrier_wait(&ring->fixed_full, 0);
    for (uint32_t step = 0; step < walk.steps; step++) {
        const unsigned stage = step % STAGES, round = step / STAGES % 2;
        mbarrier_wait(&ring->first_full[stage], round);
        mbarrier_wait(&ring->second_full[stage], round);
        wgmma_fence();
        start_rows<HEAD_DIM, FIXED_ROWS, MOVING_ROWS>(score, keys, queries + stage * STAGE);
        wgmma_commit();
        start_rows<HEAD_DIM, FIXED_ROWS, MOVING_ROWS>(slope, values, grads + stage * STAGE);
        wgmma_commit();
        wgmma_wait<1>();
        probabilities_of_keys(score, row_stages[stage], first_key, walk.row(step), factor);
        pack<MOVING_ROWS>(probability, score);
        // The values' sum runs while slopes are made.
        wgmma_fence();
        start_registers<HEAD_DIM, MOVING_ROWS>(value_sum, probability, grads + stage * STAGE, step > 0);
        wgmma_commit();
        wgmma_wait<1>();
#pragma unroll
        for (int i = 0; i < MOVING_ROWS / 2; i++) {
            // What is hidden has no slope, whatever the gradients are.
            const float delta = row_stages[stage].delta[8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2];
            slope[i] = score[i] == 0.0f ? 0.0f : score[i] * (slope[i] - delta);
        }
        pack<MOVING_ROWS>(packed_slope, slope);
        for_queries.slopes(packed_slope, step);
        wgmma_fence();
        start_registers<HEAD_DIM, MOVING_ROWS>(key_sum, packed_slope, queries + stage * STAGE, step > 0);
        for_queries.start(step);
        wgmma_commit();
        // No product goes on into the next step: its operands and the next scores do not fit the registers together, and then the
        // compiler lets no two products overlap. The other warpgroup has the tensor cores meanwhile.
        wgmma_wait<0>();
        release(&ring->empty[stage]);
        for_queries.add(walk, step);
    }
    for_queries.end();
}

#define KEYS_PARAMETERS                                                                                                                  \
    uint16_t *key_grad, uint16_t *value_grad, TENSOR_MAP(query), TENSOR_MAP(key), TENSOR_MAP(value), TENSOR_MAP(output_grad),            \
        const float *log_sum_exp, const float *delta, const uint32_t *lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads,       \
        float scale
#define KEYS_ARGUMENTS                                                                                                                   \
    key_grad, value_grad, &query, &key, &value, &output_grad, log_sum_exp, delta, lo, rows, query_heads, key_heads, scale

// `query_sums` where queries are summed, too.
template <int HEAD_DIM, bool ONE_PASS = false>
DEVICE void backward_keys_hopper(float* query_sums, uint16_t* key_grad, uint16_t* value_grad, const TensorMap* query, const TensorMap* key,
                                 const TensorMap* value, const TensorMap* output_grad, const float* log_sum_exp, const float* delta,
                                 const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale) {
    DYNAMIC_SHARED(uint16_t, keys);
    SHARED_ARRAY(Ring, ring, 1);
    SHARED_ARRAY(RowStage, row_stages, STAGES);
    const uint32_t key_head = blockIdx.y, group_heads = query_heads / key_heads, block_key = blockIdx.x * FIXED_ROWS;
    const uint32_t end_query = last_seen_by(lo, rows, min(block_key + FIXED_ROWS, rows) - 1) + 1;
    const uint32_t tiles = (end_query - block_key + MOVING_ROWS - 1) / MOVING_ROWS;
    const KeyWalk walk = {block_key, tiles, tiles * group_heads, key_head * group_heads};
    // One thread announces the queries' bytes, and a warp writes what belongs to their rows.
    init(ring, 1 + 32);
    const unsigned warpgroup = threadIdx.x / 128;
    if (warpgroup == 0) {
        registers_decrease<24>();
        produce_for_keys<HEAD_DIM>(ring, row_stages, keys, query, key, value, output_grad, log_sum_exp, delta, lo, walk, key_head, rows);
        return;
    }
    registers_increase<240>();
    const uint32_t group_rows = (warpgroup - 1) * 64, first_key = block_key + group_rows + row_in_group();
    float key_sum[HEAD_DIM / 2], value_sum[HEAD_DIM / 2];
    uint16_t *queries = keys + 2 * TILE<HEAD_DIM, FIXED_ROWS>, *own = keys + group_rows * BOX_COLUMNS;
    if constexpr (ONE_PASS) {
        WithQueries<HEAD_DIM> for_queries;
        for_queries.keys = keys;
        for_queries.slope_tiles = queries + 2 * STAGES * TILE<HEAD_DIM, MOVING_ROWS>;
        for_queries.staged = reinterpret_cast<float*>(for_queries.slope_tiles + 2 * WithQueries<HEAD_DIM>::SLOPES);
        for_queries.query_sums = query_sums;
        for_queries.tiles = (rows + MOVING_ROWS - 1) / MOVING_ROWS;
        consume_for_keys<HEAD_DIM>(ring, key_sum, value_sum, row_stages, own, queries, walk, first_key, scale * LOG2_E, for_queries);
    } else {
        NoQueries none;
        consume_for_keys<HEAD_DIM>(ring, key_sum, value_sum, row_stages, own, queries, walk, first_key, scale * LOG2_E, none);
    }
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    const uint64_t stride = uint64_t(key_heads) * HEAD_DIM;
    store_group<HEAD_DIM>(key_grad + key_head * HEAD_DIM, key_sum, scales, first_key, rows, stride);
    store_group<HEAD_DIM>(value_grad + key_head * HEAD_DIM, value_sum, ones, first_key, rows, stride);
}

KERNEL(attention_backward_keys_hopper_64, 384)(KEYS_PARAMETERS) { backward_keys_hopper<64>(nullptr, KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_hopper_80, 384)(KEYS_PARAMETERS) { backward_keys_hopper<80>(nullptr, KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_hopper_96, 384)(KEYS_PARAMETERS) { backward_keys_hopper<96>(nullptr, KEYS_ARGUMENTS); }
KERNEL(attention_backward_keys_hopper_128, 384)(KEYS_PARAMETERS) { backward_keys_hopper<128>(nullptr, KEYS_ARGUMENTS); }
KERNEL(attention_backward_one_pass_hopper_128, 384)(float* query_sums, KEYS_PARAMETERS) {
    backward_keys_hopper<128, true>(query_sums, KEYS_ARGUMENTS);
}

// query_grad = scale * the sums that one pass made, of 64 rows of a head in a block; a warpgroup has the columns that one had there.
KERNEL(attention_query_sums_hopper_128, 256)(uint16_t* query_grad, const float* query_sums, uint32_t rows, uint32_t query_heads, float scale) {
    constexpr int HEAD_DIM = 128, PART = WithQueries<HEAD_DIM>::PART;
    const unsigned group = threadIdx.x / 128, thread = threadIdx.x % 128;
    const float* part = query_sums + ((uint64_t(blockIdx.y) * gridDim.x + blockIdx.x) * (HEAD_DIM / 64) + group) * PART;
    float sum[32];
#pragma unroll
    for (int i = 0; i < 32; i++) sum[i] = part[i * 128 + thread];
    const float scales[2] = {scale, scale};
    store_group<64>(query_grad + blockIdx.y * HEAD_DIM + group * 64, sum, scales, blockIdx.x * MOVING_ROWS + row_in_group(), rows,
                    uint64_t(query_heads) * HEAD_DIM);
}

// One thread: queries and gradients of the block's rows, then keys and values of each tile.
template <int HEAD_DIM>
DEVICE void produce_for_queries(Ring* ring, uint16_t* queries, const TensorMap* query, const TensorMap* key, const TensorMap* value,
                                const TensorMap* output_grad, uint32_t head, uint32_t key_head, uint32_t first_query, uint32_t first_key,
                                uint32_t steps) {
    constexpr int FIXED = TILE<HEAD_DIM, FIXED_ROWS>, STAGE = TILE<HEAD_DIM, MOVING_ROWS>;
    uint16_t *keys = queries + 2 * FIXED, *values = keys + STAGES * STAGE;
    fetch<HEAD_DIM, FIXED_ROWS>(queries, query, &ring->fixed_full, head, first_query);
    fetch<HEAD_DIM, FIXED_ROWS>(queries + FIXED, output_grad, &ring->fixed_full, head, first_query);
    for (uint32_t step = 0; step < steps; step++) {
        const unsigned stage = step % STAGES, round = step / STAGES % 2;
        const uint32_t row = first_key + step * MOVING_ROWS;
        mbarrier_wait(&ring->second_empty[stage], round ^ 1);
        fetch<HEAD_DIM, MOVING_ROWS>(values + stage * STAGE, value, &ring->second_full[stage], key_head, row);
        mbarrier_wait(&ring->empty[stage], round ^ 1);
        fetch<HEAD_DIM, MOVING_ROWS>(keys + stage * STAGE, key, &ring->first_full[stage], key_head, row);
    }
}

// A thread's two rows: what they see, and what the forward pass saved of them, the sum as a power of two.
struct Rows {
    uint32_t first[2], last[2];
    float sum[2], delta[2];
};

// The gradient of one warpgroup's 64 queries, without the scale.
template <int HEAD_DIM>
DEVICE void consume_for_queries(Ring* ring, float (&sum)[HEAD_DIM / 2], const Rows& rows, const uint16_t* queries, const uint16_t* keys,
                                uint32_t first_key, uint32_t steps, float factor) {
    constexpr int STAGE = TILE<HEAD_DIM, MOVING_ROWS>;
    const uint16_t *grads = queries + TILE<HEAD_DIM, FIXED_ROWS>, *values = keys + STAGES * STAGE;
    float score[MOVING_ROWS / 2], slope[MOVING_ROWS / 2];
    uint32_t packed[MOVING_ROWS / 16][4];
    mbarrier_wait(&ring->fixed_full, 0);
    for (uint32_t step = 0; step < steps; step++) {
        const unsigned stage = step % STAGES, round = step / STAGES % 2;
        mbarrier_wait(&ring->first_full[stage], round);
        mbarrier_wait(&ring->second_full[stage], round);
        wgmma_fence();
        start_rows<HEAD_DIM, FIXED_ROWS, MOVING_ROWS>(score, queries, keys + stage * STAGE);
        wgmma_commit();
        start_rows<HEAD_DIM, FIXED_ROWS, MOVING_ROWS>(slope, grads, values + stage * STAGE);
        wgmma_commit();
        if (step > 0) {
            // The sum of the step before, which read its keys once more.
            wgmma_wait<2>();
            release(&ring->empty[stage ^ 1]);
        }
        wgmma_wait<0>();
        release(&ring->second_empty[stage]);
#pragma unroll
        for (int i = 0; i < MOVING_ROWS / 2; i++) {
            const int half = i / 2 % 2;
            const uint32_t at = first_key + step * MOVING_ROWS + 8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2;
            const float probability = exp2_fast(score[i] * factor - rows.sum[half]);
            const bool seen = rows.first[half] <= at && at <= rows.last[half];
            slope[i] = seen ? probability * (slope[i] - rows.delta[half]) : 0.0f;
        }
        pack<MOVING_ROWS>(packed, slope);
        wgmma_fence();
        start_registers<HEAD_DIM, MOVING_ROWS>(sum, packed, keys + stage * STAGE, step > 0);
        wgmma_commit();
    }
    wgmma_wait<0>();
}

#define QUERIES_PARAMETERS                                                                                                               \
    uint16_t *query_grad, TENSOR_MAP(query), TENSOR_MAP(key), TENSOR_MAP(value), TENSOR_MAP(output_grad), const float *log_sum_exp,      \
        const float *delta, const uint32_t *lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale
#define QUERIES_ARGUMENTS                                                                                                                \
    query_grad, &query, &key, &value, &output_grad, log_sum_exp, delta, lo, rows, query_heads, key_heads, scale

template <int HEAD_DIM>
DEVICE void backward_queries_hopper(uint16_t* query_grad, const TensorMap* query, const TensorMap* key, const TensorMap* value,
                                    const TensorMap* output_grad, const float* log_sum_exp, const float* delta, const uint32_t* lo,
                                    uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale) {
    DYNAMIC_SHARED(uint16_t, queries);
    SHARED_ARRAY(Ring, ring, 1);
    const uint32_t head = blockIdx.y, key_head = head / (query_heads / key_heads);
    const uint32_t first_query = (gridDim.x - 1 - blockIdx.x) * FIXED_ROWS, end_query = min(first_query + FIXED_ROWS, rows);
    const uint32_t first_key = lo[first_query], steps = (end_query - first_key + MOVING_ROWS - 1) / MOVING_ROWS;
    init(ring, 1);
    const unsigned warpgroup = threadIdx.x / 128;
    if (warpgroup == 0) {
        registers_decrease<24>();
        if (threadIdx.x == 0) {
            produce_for_queries<HEAD_DIM>(ring, queries, query, key, value, output_grad, head, key_head, first_query, first_key, steps);
        }
        return;
    }
    registers_increase<240>();
    const uint32_t group_rows = (warpgroup - 1) * 64, first_row = first_query + group_rows + row_in_group();
    Rows mine;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = first_row + 8 * half;
        const bool inside = row < rows;
        const uint64_t at = uint64_t(head) * rows + row;
        mine.sum[half] = inside ? log_sum_exp[at] * LOG2_E : infinite();
        mine.delta[half] = inside ? delta[at] : 0.0f;
        mine.first[half] = inside ? lo[row] : 0xFFFFFFFFu;
        mine.last[half] = row;
    }
    float sum[HEAD_DIM / 2];
    consume_for_queries<HEAD_DIM>(ring, sum, mine, queries + group_rows * BOX_COLUMNS, queries + 2 * TILE<HEAD_DIM, FIXED_ROWS>, first_key,
                                  steps, scale * LOG2_E);
    const float scales[2] = {scale, scale};
    store_group<HEAD_DIM>(query_grad + head * HEAD_DIM, sum, scales, first_row, rows, uint64_t(query_heads) * HEAD_DIM);
}

KERNEL(attention_backward_queries_hopper_64, 384)(QUERIES_PARAMETERS) { backward_queries_hopper<64>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_hopper_80, 384)(QUERIES_PARAMETERS) { backward_queries_hopper<80>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_hopper_96, 384)(QUERIES_PARAMETERS) { backward_queries_hopper<96>(QUERIES_ARGUMENTS); }
KERNEL(attention_backward_queries_hopper_128, 384)(QUERIES_PARAMETERS) { backward_queries_hopper<128>(QUERIES_ARGUMENTS); }
