// The backward pass of attention for Hopper (sm_90a), by the formulas of attention_backward.cu, but in one pass: scores are made once, and
// what a block of keys adds to queries goes to memory, where each sum is added to in the order of its keys. docs/kernels.md.
//
// A block has 128 keys of one head, 64 to each consuming warpgroup, and streams the rows that see them, 64 at a time, through a ring of two
// stages. It begins with the last of them, for all query heads, and ends with its own rows: blocks that run at the same time then come to
// a tile one after the other, and hardly ever wait.

constexpr int KEY_ROWS = 128;
// Slopes of one tile, keys by rows.
constexpr int SLOPES = KEY_ROWS * QUERY_ROWS;
// Of the sums of a tile of queries each warpgroup makes one part: 64 columns, or half the head's. What is past the head's own is not read.
constexpr int PARTS = 2;
template <int HEAD_DIM>
constexpr int PART_COLUMNS = HEAD_DIM > 64 ? 64 : HEAD_DIM / 2;
template <int HEAD_DIM>
constexpr int PART = QUERY_ROWS * PART_COLUMNS<HEAD_DIM>;

struct Ring {
    // The keys and values are there, and a stage's rows.
    uint64_t fixed_full, full[STAGES];
    uint64_t empty[STAGES];
    // Both warpgroups have written their slopes, in the one place and in the other.
    uint64_t slopes_full[2];
    // A part of the sums can be added, has been added.
    uint64_t part_full[PARTS], part_empty[PARTS];
    // Which block of keys this is.
    uint32_t ticket;
};

// Takes the next block of keys. Its number is not the block's own: a block waits for those with lower numbers alone, and they have begun.
DEVICE KeyWalk begin(Ring* ring, uint32_t* ticket, const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads) {
    if (threadIdx.x == 0) {
        ring->ticket = atomicAdd(ticket, 1u);
        mbarrier_init(&ring->fixed_full, 2);
        for (int at = 0; at < 2; at++) {
            // One thread announces the bytes of two tiles, and a warp writes what belongs to their rows.
            mbarrier_init(&ring->full[at], 2 + 32);
            mbarrier_init(&ring->empty[at], CONSUMER_WARPS);
            mbarrier_init(&ring->slopes_full[at], CONSUMER_WARPS);
            mbarrier_init(&ring->part_full[at], CONSUMER_WARPS / 2);
            mbarrier_init(&ring->part_empty[at], 1);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    return walk_of<KEY_ROWS>(ring->ticket, lo, rows, query_heads, key_heads);
}

// The tiles by TMA, by one thread.
template <int HEAD_DIM>
DEVICE void fetch_tiles(Ring* ring, uint16_t* keys, const TensorMap* query, const TensorMap* key, const TensorMap* value,
                        const TensorMap* output_grad, const KeyWalk& walk) {
    constexpr int FIXED = TILE<HEAD_DIM, KEY_ROWS>, STAGE = TILE<HEAD_DIM, QUERY_ROWS>;
    uint16_t *queries = keys + 2 * FIXED, *grads = queries + STAGES * STAGE;
    fetch<HEAD_DIM, KEY_ROWS>(keys, key, &ring->fixed_full, walk.key_head, walk.first_key);
    fetch<HEAD_DIM, KEY_ROWS>(keys + FIXED, value, &ring->fixed_full, walk.key_head, walk.first_key);
    walk.each([&](uint32_t step, uint32_t first_row, uint32_t head) {
        const unsigned stage = step % STAGES;
        mbarrier_wait(&ring->empty[stage], (step / STAGES % 2) ^ 1);
        fetch<HEAD_DIM, QUERY_ROWS>(queries + stage * STAGE, query, &ring->full[stage], head, first_row);
        fetch<HEAD_DIM, QUERY_ROWS>(grads + stage * STAGE, output_grad, &ring->full[stage], head, first_row);
    });
}

// Adds one part of each tile's sums to memory, by one thread. `query_sums` is [query_heads, tiles, PARTS, PART].
template <int HEAD_DIM>
DEVICE void add_parts(Ring* ring, float* query_sums, uint32_t* turns, const float* staged, unsigned part, const uint32_t* lo,
                      const KeyWalk& walk, uint32_t rows) {
    const uint32_t tiles = (rows + QUERY_ROWS - 1) / QUERY_ROWS;
    walk.each([&](uint32_t step, uint32_t first_row, uint32_t head) {
        const uint64_t tile = uint64_t(head) * tiles + first_row / QUERY_ROWS;
        const uint32_t turn = walk.first_key / KEY_ROWS - lo[first_row] / KEY_ROWS;
        mbarrier_wait(&ring->part_full[part], step % 2);
        add_part<PART<HEAD_DIM>>(query_sums, turns, staged, tile * PARTS + part, turn);
        mbarrier_arrive(&ring->part_empty[part]);
    });
}

// Sums of one warpgroup's 64 keys. `slope_tiles` and the parts of sums are shared.
template <int HEAD_DIM>
DEVICE void consume(Ring* ring, float (&key_sum)[HEAD_DIM / 2], float (&value_sum)[HEAD_DIM / 2], const RowStage* row_stages,
                    const uint16_t* keys, const uint16_t* queries, uint16_t* slope_tiles, float* parts, const KeyWalk& walk, float factor) {
    constexpr int STAGE = TILE<HEAD_DIM, QUERY_ROWS>, COLUMNS = PART_COLUMNS<HEAD_DIM>;
    const unsigned group = threadIdx.x / 128 - 1;
    const uint16_t *own = keys + group * 64 * BOX_COLUMNS, *values = own + TILE<HEAD_DIM, KEY_ROWS>, *grads = queries + STAGES * STAGE;
    // The first of the part's columns: a box is 128 rows of 64 columns.
    const uint16_t* columns = keys + group * COLUMNS / BOX_COLUMNS * KEY_ROWS * BOX_COLUMNS + group * COLUMNS % BOX_COLUMNS;
    float* part = parts + group * PART<HEAD_DIM>;
    const uint32_t group_key = walk.first_key + group * 64;
    float score[QUERY_ROWS / 2], slope[QUERY_ROWS / 2], sum[COLUMNS / 2];
    uint32_t probability[QUERY_ROWS / 16][4], packed_slope[QUERY_ROWS / 16][4];
    mbarrier_wait(&ring->fixed_full, 0);
    walk.each([&](uint32_t step, uint32_t first_query, uint32_t) {
        const unsigned stage = step % STAGES, round = step / STAGES % 2;
        const RowStage& row_stage = row_stages[stage];
        const uint16_t *query = queries + stage * STAGE, *grad = grads + stage * STAGE;
        uint16_t* slope_tile = slope_tiles + stage * SLOPES;
        mbarrier_wait(&ring->full[stage], round);
        wgmma_fence();
        start_rows<HEAD_DIM, KEY_ROWS, QUERY_ROWS>(score, own, query);
        wgmma_commit();
        start_rows<HEAD_DIM, KEY_ROWS, QUERY_ROWS>(slope, values, grad);
        wgmma_commit();
        wgmma_wait<1>();
        probabilities<QUERY_ROWS>(score, row_stage, 0, group_key, first_query, factor);
        pack<QUERY_ROWS>(probability, score);
        // The values' sum runs while slopes are made.
        wgmma_fence();
        start_registers<HEAD_DIM, QUERY_ROWS>(value_sum, probability, grad, step > 0);
        wgmma_commit();
        wgmma_wait<1>();
        slopes<QUERY_ROWS>(slope, score, row_stage, 0);
        pack<QUERY_ROWS>(packed_slope, slope);
        // What was here was read two steps ago, and who read it has written slopes since.
        store_tile<QUERY_ROWS>(slope_tile, packed_slope, group * 64 + row_in_group(), 0, &ring->slopes_full[stage]);
        wgmma_fence();
        start_registers<HEAD_DIM, QUERY_ROWS>(key_sum, packed_slope, query, step > 0);
        wgmma_commit();
        // The other warpgroup's slopes may come while the keys' sum is made.
        mbarrier_wait(&ring->slopes_full[stage], round);
        start_queries<KEY_ROWS, COLUMNS>(sum, slope_tile, columns);
        wgmma_commit();
        // No product goes on into the next step: its operands and the next scores do not fit the registers together, and then the
        // compiler lets no two products overlap. The other warpgroup has the tensor cores meanwhile.
        wgmma_wait<0>();
        release(&ring->empty[stage]);
        mbarrier_wait(&ring->part_empty[group], (step % 2) ^ 1);
        stage_part<COLUMNS / 2>(part, sum, &ring->part_full[group]);
    });
}

template <int HEAD_DIM>
DEVICE void backward_hopper(float* query_sums, uint32_t* turns, uint16_t* key_grad, uint16_t* value_grad, const TensorMap* query,
                            const TensorMap* key, const TensorMap* value, const TensorMap* output_grad, const float* log_sum_exp,
                            const float* delta, const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale) {
    DYNAMIC_SHARED(uint16_t, keys);
    SHARED_ARRAY(Ring, ring, 1);
    SHARED_ARRAY(RowStage, row_stages, STAGES);
    const KeyWalk walk = begin(ring, turns, lo, rows, query_heads, key_heads);
    uint16_t *queries = keys + 2 * TILE<HEAD_DIM, KEY_ROWS>, *slope_tiles = queries + 2 * STAGES * TILE<HEAD_DIM, QUERY_ROWS>;
    float* parts = reinterpret_cast<float*>(slope_tiles + 2 * SLOPES);
    const unsigned warp = threadIdx.x / 32;
    if (warp < 4) {
        registers_decrease<24>();
        if (warp == 1) fetch_rows(ring->full, ring->empty, row_stages, log_sum_exp, delta, lo, walk, rows);
        else if (threadIdx.x == 0) fetch_tiles<HEAD_DIM>(ring, keys, query, key, value, output_grad, walk);
        else if (warp > 1 && threadIdx.x % 32 == 0) {
            add_parts<HEAD_DIM>(ring, query_sums, turns + 1, parts + (warp - 2) * PART<HEAD_DIM>, warp - 2, lo, walk, rows);
        }
        return;
    }
    registers_increase<240>();
    float key_sum[HEAD_DIM / 2], value_sum[HEAD_DIM / 2];
    consume<HEAD_DIM>(ring, key_sum, value_sum, row_stages, keys, queries, slope_tiles, parts, walk, scale * LOG2_E);
    const uint32_t first_key = walk.first_key + (threadIdx.x / 128 - 1) * 64 + row_in_group();
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    const uint64_t stride = uint64_t(key_heads) * HEAD_DIM;
    store_group<HEAD_DIM>(key_grad + walk.key_head * HEAD_DIM, key_sum, scales, first_key, rows, stride);
    store_group<HEAD_DIM>(value_grad + walk.key_head * HEAD_DIM, value_sum, ones, first_key, rows, stride);
}

// query_grad = scale * the sums, of 64 rows of a head in a block.
template <int HEAD_DIM>
DEVICE void query_slopes(uint16_t* query_grad, const float* query_sums, uint32_t rows, uint32_t query_heads, float scale) {
    constexpr int COLUMNS = PART_COLUMNS<HEAD_DIM>;
    const float* part = query_sums + (uint64_t(blockIdx.y) * gridDim.x + blockIdx.x) * PARTS * PART<HEAD_DIM>;
    store_part<HEAD_DIM, COLUMNS>(query_grad, part, 0, rows, query_heads, scale);
    store_part<HEAD_DIM, HEAD_DIM - COLUMNS>(query_grad, part + PART<HEAD_DIM>, COLUMNS, rows, query_heads, scale);
}

KERNEL(attention_backward_hopper_64, 384)(BACKWARD_PARAMETERS) { backward_hopper<64>(BACKWARD_ARGUMENTS); }
KERNEL(attention_backward_hopper_80, 384)(BACKWARD_PARAMETERS) { backward_hopper<80>(BACKWARD_ARGUMENTS); }
KERNEL(attention_backward_hopper_96, 384)(BACKWARD_PARAMETERS) { backward_hopper<96>(BACKWARD_ARGUMENTS); }
KERNEL(attention_backward_hopper_128, 384)(BACKWARD_PARAMETERS) { backward_hopper<128>(BACKWARD_ARGUMENTS); }

KERNEL(attention_query_slopes_hopper_64, 128)(SUMS_PARAMETERS) { query_slopes<64>(SUMS_ARGUMENTS); }
KERNEL(attention_query_slopes_hopper_80, 128)(SUMS_PARAMETERS) { query_slopes<80>(SUMS_ARGUMENTS); }
KERNEL(attention_query_slopes_hopper_96, 128)(SUMS_PARAMETERS) { query_slopes<96>(SUMS_ARGUMENTS); }
KERNEL(attention_query_slopes_hopper_128, 128)(SUMS_PARAMETERS) { query_slopes<128>(SUMS_ARGUMENTS); }
