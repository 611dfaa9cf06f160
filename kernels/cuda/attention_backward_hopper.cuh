// What the kernels of attention's backward pass share on Hopper: the walk over the rows that see a block of keys, what these rows bring,
// and the sums of queries, which blocks add to in memory by turns.

constexpr int QUERY_ROWS = 64;

// What the streamed rows bring besides their tiles; log-sum-exp as a power of two.
struct RowStage {
    float log_sum_exp[QUERY_ROWS];
    float delta[QUERY_ROWS];
    uint32_t lo[QUERY_ROWS];
};

// Keys of a head that a block has, and the rows that see them.
struct KeyWalk {
    uint32_t key_head, first_key, tiles, first_head, end_head;

    // Visits (step, first row, head) from the last tile down to the block's own, each for all heads.
    template <typename Visit>
    DEVICE void each(Visit visit) const {
        uint32_t step = 0;
        for (uint32_t tile = tiles; tile-- > 0;) {
#pragma unroll 1
            for (uint32_t head = first_head; head < end_head; head++, step++) visit(step, first_key + tile * QUERY_ROWS, head);
        }
    }
};

// That of a block of keys, by its number.
template <int KEY_ROWS>
DEVICE KeyWalk walk_of(uint32_t block, const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads) {
    const uint32_t first_key = block / key_heads * KEY_ROWS, key_head = block % key_heads, heads = query_heads / key_heads;
    const uint32_t end_query = last_seen_by(lo, rows, min(first_key + KEY_ROWS, rows) - 1) + 1;
    return {key_head, first_key, (end_query - first_key + QUERY_ROWS - 1) / QUERY_ROWS, key_head * heads, (key_head + 1) * heads};
}

// What belongs to the tiles' rows, by one warp, as stages become empty.
DEVICE void fetch_rows(uint64_t* full, uint64_t* empty, RowStage* row_stages, const float* log_sum_exp, const float* delta,
                       const uint32_t* lo, const KeyWalk& walk, uint32_t rows) {
    walk.each([&](uint32_t step, uint32_t first_row, uint32_t head) {
        RowStage& stage = row_stages[step % STAGES];
        const uint64_t first = uint64_t(head) * rows;
        mbarrier_wait(&empty[step % STAGES], (step / STAGES % 2) ^ 1);
#pragma unroll 1
        for (unsigned at = threadIdx.x % 32; at < QUERY_ROWS; at += 32) {
            const uint32_t row = first_row + at;
            const bool inside = row < rows;
            // A row past the end has a sum of infinity, so that its probabilities are zero.
            stage.log_sum_exp[at] = inside ? log_sum_exp[first + row] * LOG2_E : infinite();
            stage.delta[at] = inside ? delta[first + row] : 0.0f;
            stage.lo[at] = inside ? lo[row] : 0xFFFFFFFFu;
        }
        mbarrier_arrive(&full[step % STAGES]);
    });
}

// Scores, keys by queries, into probabilities. The thread's first key is `first_key`, and `row` the stage's first row of these, a query
// `first_query`; where MASKED is false, all rows see all keys.
template <bool MASKED, int QUERIES>
DEVICE void powers(float (&score)[QUERIES / 2], const RowStage& stage, unsigned row, uint32_t first_key, uint32_t first_query,
                   float factor) {
#pragma unroll
    for (int i = 0; i < QUERIES / 2; i++) {
        const unsigned query = 8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2;
        const uint32_t key = first_key + 8 * (i / 2 % 2);
        const float probability = exp2_fast(score[i] * factor - stage.log_sum_exp[row + query]);
        score[i] = !MASKED || (stage.lo[row + query] <= key && key <= first_query + query) ? probability : 0.0f;
    }
}

// The same of a warpgroup's 64 keys from `group_key` on.
template <int QUERIES>
DEVICE void probabilities(float (&score)[QUERIES / 2], const RowStage& stage, unsigned row, uint32_t group_key, uint32_t first_query,
                          float factor) {
    const uint32_t first_key = group_key + row_in_group();
    const bool whole = stage.lo[row + QUERIES - 1] <= group_key && group_key + 63 <= first_query;
    if (whole) powers<false, QUERIES>(score, stage, row, first_key, first_query, factor);
    else powers<true, QUERIES>(score, stage, row, first_key, first_query, factor);
}

// Gradients of probabilities into those of scores, without the scale.
template <int QUERIES>
DEVICE void slopes(float (&slope)[QUERIES / 2], const float (&probability)[QUERIES / 2], const RowStage& stage, unsigned row) {
#pragma unroll
    for (int i = 0; i < QUERIES / 2; i++) {
        // What is hidden has no slope, whatever the gradients are.
        const float delta = stage.delta[row + 8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2];
        slope[i] = probability[i] == 0.0f ? 0.0f : probability[i] * (slope[i] - delta);
    }
}

// A warpgroup's numbers into a tile, keys by rows, from row `row` on, in the swizzle in which products read it: four lanes write 16 bytes,
// and eight keys fall into different ones. `first_key` is the thread's first in the tile.
template <int QUERIES>
DEVICE void store_tile(uint16_t* tile, const uint32_t (&packed)[QUERIES / 16][4], unsigned first_key, unsigned row, uint64_t* full) {
#pragma unroll
    for (int k = 0; k < QUERIES / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const unsigned key = first_key + 8 * (i % 2), chunk = (row / 8 + 2 * k + i / 2) ^ key % 8;
            *reinterpret_cast<uint32_t*>(tile + key * QUERY_ROWS + chunk * 8 + 2 * (threadIdx.x % 4)) = packed[k][i];
        }
    }
    fence_proxy_async();
    __syncwarp();
    release(full);
}

// Starts sum[rows, COLUMNS] = slopes transposed * so many columns of the keys.
template <int KEY_ROWS, int COLUMNS>
DEVICE void start_queries(float (&sum)[COLUMNS / 2], const uint16_t* slopes, const uint16_t* columns) {
#pragma unroll
    for (int k = 0; k < KEY_ROWS / 16; k++) {
        const uint64_t left = product_descriptor(slopes + k * 16 * QUERY_ROWS, KEY_ROWS * QUERY_ROWS * 2, GROUP_BYTES);
        const uint64_t right = product_descriptor(columns + k * 16 * BOX_COLUMNS, KEY_ROWS * BOX_COLUMNS * 2, GROUP_BYTES);
        wgmma<COLUMNS, true, true>(sum, left, right, k > 0);
    }
}

// Hands a part of the sums on, in the order in which threads hold it.
template <int NUMBERS>
DEVICE void stage_part(float* staged, const float* sum, uint64_t* full) {
#pragma unroll
    for (int i = 0; i < NUMBERS; i++) staged[i * 128 + threadIdx.x % 128] = sum[i];
    fence_proxy_async();
    __syncwarp();
    release(full);
}

// Adds one part of a tile's sums to memory, by one thread, when the blocks of all keys before these have added theirs; the first that the
// tile's first row sees has turn 0 and writes. `query_sums` is of parts of so many numbers, and `turns` counts blocks by part.
template <int NUMBERS>
DEVICE void add_part(float* query_sums, uint32_t* turns, const float* staged, uint64_t part, uint32_t turn) {
    float* sums = query_sums + part * NUMBERS;
    wait_for_turn(turns + part, turn);
    if (turn == 0) bulk_store(sums, staged, NUMBERS * 4);
    else bulk_reduce_add(sums, staged, NUMBERS * 4);
    bulk_commit();
    bulk_wait<0>();
    give_turn(turns + part);
}

// Columns of one part of a tile, from the sums into the gradient.
template <int HEAD_DIM, int COLUMNS>
DEVICE void store_part(uint16_t* query_grad, const float* part, uint32_t first_column, uint32_t rows, uint32_t query_heads, float scale) {
    float sum[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sum[i] = part[i * 128 + threadIdx.x];
    const float scales[2] = {scale, scale};
    store_group<COLUMNS>(query_grad + blockIdx.y * HEAD_DIM + first_column, sum, scales, blockIdx.x * QUERY_ROWS + row_in_group(), rows,
                         uint64_t(query_heads) * HEAD_DIM);
}

#define BACKWARD_PARAMETERS                                                                                                              \
    float *query_sums, uint32_t *turns, uint16_t *key_grad, uint16_t *value_grad, TENSOR_MAP(query), TENSOR_MAP(key), TENSOR_MAP(value), \
        TENSOR_MAP(output_grad), const float *log_sum_exp, const float *delta, const uint32_t *lo, uint32_t rows, uint32_t query_heads,  \
        uint32_t key_heads, float scale
#define BACKWARD_ARGUMENTS                                                                                                               \
    query_sums, turns, key_grad, value_grad, &query, &key, &value, &output_grad, log_sum_exp, delta, lo, rows, query_heads, key_heads,   \
        scale

#define SUMS_PARAMETERS uint16_t *query_grad, const float *query_sums, uint32_t rows, uint32_t query_heads, float scale
#define SUMS_ARGUMENTS query_grad, query_sums, rows, query_heads, scale
