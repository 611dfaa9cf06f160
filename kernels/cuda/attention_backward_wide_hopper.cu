// attention_backward_hopper.cu for heads of 256, of which two sums of 64 keys do not fit a warpgroup's registers: the warpgroups share a
// block's keys, and each has half the columns of all sums.
//
// A block has 64 keys of one head and streams the rows that see them as there. Of a tile each warpgroup makes the scores and slopes of 32
// queries, and both lie in shared memory then, whole, for the products of both. docs/kernels.md.

constexpr int HEAD_DIM = 256;
constexpr int KEY_ROWS = 64;
// Walk, turns and the places of columns in tiles are the same for both.
static_assert(KEY_ROWS == QUERY_ROWS, "blocks of keys are tiles of queries");
// Half the queries of a tile, half the columns of a head: what one warpgroup makes.
constexpr int QUERIES = QUERY_ROWS / 2;
constexpr int COLUMNS = HEAD_DIM / 2;
// Probabilities or slopes of a tile, keys by rows.
constexpr int WEIGHTS = KEY_ROWS * QUERY_ROWS;
// A warpgroup hands its sums of queries on in two parts, through one place.
constexpr int PARTS = 4;
constexpr int PART_COLUMNS = HEAD_DIM / PARTS;
constexpr int PART = QUERY_ROWS * PART_COLUMNS;
constexpr int FIXED = TILE<HEAD_DIM, KEY_ROWS>, STAGE = TILE<HEAD_DIM, QUERY_ROWS>;

struct Ring {
    // The keys and values are there, a stage's queries and what belongs to its rows, and the gradients, which have one stage.
    uint64_t fixed_full, query_full[STAGES], grad_full;
    uint64_t query_empty[STAGES], grad_empty;
    // Both warpgroups have written theirs.
    uint64_t probabilities_full, slopes_full;
    // A warpgroup's part of the sums can be added, has been added.
    uint64_t part_full[2], part_empty[2];
    // Which block of keys this is.
    uint32_t ticket;
};

// What lies in dynamic shared memory.
struct Tiles {
    uint16_t *keys, *values, *queries, *grads, *probabilities, *slopes;
    // By warpgroup.
    float* parts;
};

DEVICE Tiles tiles_from(uint16_t* keys) {
    uint16_t *queries = keys + 2 * FIXED, *grads = queries + STAGES * STAGE, *probabilities = grads + STAGE;
    uint16_t *slopes = probabilities + WEIGHTS, *end = slopes + WEIGHTS;
    return {keys, keys + FIXED, queries, grads, probabilities, slopes, reinterpret_cast<float*>(end)};
}

// Takes the next block of keys, as there.
DEVICE KeyWalk begin(Ring* ring, uint32_t* ticket, const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads) {
    if (threadIdx.x == 0) {
        ring->ticket = atomicAdd(ticket, 1u);
        mbarrier_init(&ring->fixed_full, 2);
        mbarrier_init(&ring->grad_full, 1);
        mbarrier_init(&ring->grad_empty, CONSUMER_WARPS);
        mbarrier_init(&ring->probabilities_full, CONSUMER_WARPS);
        mbarrier_init(&ring->slopes_full, CONSUMER_WARPS);
        for (int at = 0; at < 2; at++) {
            // One thread announces the bytes of a tile, and a warp writes what belongs to its rows.
            mbarrier_init(&ring->query_full[at], 1 + 32);
            mbarrier_init(&ring->query_empty[at], CONSUMER_WARPS);
            mbarrier_init(&ring->part_full[at], CONSUMER_WARPS / 2);
            mbarrier_init(&ring->part_empty[at], 1);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    return walk_of<KEY_ROWS>(ring->ticket, lo, rows, query_heads, key_heads);
}

// The tiles by TMA, by one thread.
DEVICE void fetch_tiles(Ring* ring, const Tiles& tiles, const TensorMap* query, const TensorMap* key, const TensorMap* value,
                        const TensorMap* output_grad, const KeyWalk& walk) {
    fetch<HEAD_DIM, KEY_ROWS>(tiles.keys, key, &ring->fixed_full, walk.key_head, walk.first_key);
    fetch<HEAD_DIM, KEY_ROWS>(tiles.values, value, &ring->fixed_full, walk.key_head, walk.first_key);
    walk.each([&](uint32_t step, uint32_t first_row, uint32_t head) {
        const unsigned stage = step % STAGES;
        mbarrier_wait(&ring->query_empty[stage], (step / STAGES % 2) ^ 1);
        fetch<HEAD_DIM, QUERY_ROWS>(tiles.queries + stage * STAGE, query, &ring->query_full[stage], head, first_row);
        mbarrier_wait(&ring->grad_empty, (step % 2) ^ 1);
        fetch<HEAD_DIM, QUERY_ROWS>(tiles.grads, output_grad, &ring->grad_full, head, first_row);
    });
}

// Adds a warpgroup's parts of each tile's sums to memory, by one thread. `query_sums` is [query_heads, tiles, PARTS, PART].
DEVICE void add_parts(Ring* ring, float* query_sums, uint32_t* turns, const float* staged, unsigned group, const uint32_t* lo,
                      const KeyWalk& walk, uint32_t rows) {
    const uint32_t tiles = (rows + QUERY_ROWS - 1) / QUERY_ROWS;
    walk.each([&](uint32_t, uint32_t first_row, uint32_t head) {
        const uint64_t first = (uint64_t(head) * tiles + first_row / QUERY_ROWS) * PARTS + 2 * group;
        const uint32_t turn = walk.first_key / KEY_ROWS - lo[first_row] / KEY_ROWS;
#pragma unroll 1
        for (unsigned half = 0; half < 2; half++) {
            mbarrier_wait(&ring->part_full[group], half);
            add_part<PART>(query_sums, turns, staged, first + half, turn);
            mbarrier_arrive(&ring->part_empty[group]);
        }
    });
}

// Starts sum[keys, COLUMNS] (+)= weights * so many columns of the rows.
DEVICE void start_keys(float (&sum)[COLUMNS / 2], const uint16_t* weights, const uint16_t* columns, bool accumulate) {
#pragma unroll
    for (int k = 0; k < QUERY_ROWS / 16; k++) {
        const uint64_t left = product_descriptor(weights + k * 16, 16, GROUP_BYTES);
        const uint64_t right = product_descriptor(columns + k * 16 * BOX_COLUMNS, QUERY_ROWS * BOX_COLUMNS * 2, GROUP_BYTES);
        wgmma<COLUMNS, false, true>(sum, left, right, accumulate || k > 0);
    }
}

// Hands on one half of a warpgroup's sums, when the one before has been added.
DEVICE void hand_on(Ring* ring, const Tiles& tiles, const float (&sum)[COLUMNS / 2], unsigned group, unsigned half) {
    mbarrier_wait(&ring->part_empty[group], half ^ 1);
    stage_part<PART_COLUMNS / 2>(tiles.parts + group * PART, sum + half * PART_COLUMNS / 2, &ring->part_full[group]);
}

// One warpgroup's columns of the sums of the block's keys.
DEVICE void consume(Ring* ring, float (&key_sum)[COLUMNS / 2], float (&value_sum)[COLUMNS / 2], const RowStage* row_stages,
                    const Tiles& tiles, const KeyWalk& walk, float factor) {
    const unsigned group = threadIdx.x / 128 - 1, row = group * QUERIES;
    // The first of its columns, of a tile of 64 rows, and the first of its queries.
    const unsigned column = group * COLUMNS * QUERY_ROWS, query_row = row * BOX_COLUMNS;
    float score[QUERIES / 2], slope[QUERIES / 2], sum[COLUMNS / 2];
    uint32_t packed[QUERIES / 16][4];
    mbarrier_wait(&ring->fixed_full, 0);
    walk.each([&](uint32_t step, uint32_t first_query, uint32_t) {
        const unsigned stage = step % STAGES;
        const RowStage& row_stage = row_stages[stage];
        const uint16_t* query = tiles.queries + stage * STAGE;
        mbarrier_wait(&ring->query_full[stage], step / STAGES % 2);
        wgmma_fence();
        start_rows<HEAD_DIM, KEY_ROWS, QUERY_ROWS, QUERIES>(score, tiles.keys, query + query_row);
        wgmma_commit();
        mbarrier_wait(&ring->grad_full, step % 2);
        // A loop lies between the two products: without this the compiler adds a fence of its own.
        wgmma_fence();
        start_rows<HEAD_DIM, KEY_ROWS, QUERY_ROWS, QUERIES>(slope, tiles.values, tiles.grads + query_row);
        wgmma_commit();
        wgmma_wait<1>();
        probabilities<QUERIES>(score, row_stage, row, walk.first_key, first_query + row, factor);
        pack<QUERIES>(packed, score);
        // These gradients came when both warpgroups had done with those before, and with the probabilities before.
        store_tile<QUERIES>(tiles.probabilities, packed, row_in_group(), row, &ring->probabilities_full);
        // The second half of the step before, of which the first has been added meanwhile.
        if (step > 0) hand_on(ring, tiles, sum, group, 1);
        mbarrier_wait(&ring->probabilities_full, step % 2);
        // The values' sum runs while slopes are made.
        wgmma_fence();
        start_keys(value_sum, tiles.probabilities, tiles.grads + column, step > 0);
        wgmma_commit();
        wgmma_wait<1>();
        slopes<QUERIES>(slope, score, row_stage, row);
        pack<QUERIES>(packed, slope);
        // Who has written probabilities has done with the slopes of the step before.
        store_tile<QUERIES>(tiles.slopes, packed, row_in_group(), row, &ring->slopes_full);
        mbarrier_wait(&ring->slopes_full, step % 2);
        wgmma_fence();
        start_queries<KEY_ROWS, COLUMNS>(sum, tiles.slopes, tiles.keys + column);
        wgmma_commit();
        start_keys(key_sum, tiles.slopes, query + column, step > 0);
        wgmma_commit();
        wgmma_wait<2>();
        release(&ring->grad_empty);
        // The keys' sum runs while the first half of the queries' is handed on.
        wgmma_wait<1>();
        hand_on(ring, tiles, sum, group, 0);
        wgmma_wait<0>();
        release(&ring->query_empty[stage]);
    });
    hand_on(ring, tiles, sum, group, 1);
}

DEVICE void backward_wide(float* query_sums, uint32_t* turns, uint16_t* key_grad, uint16_t* value_grad, const TensorMap* query,
                          const TensorMap* key, const TensorMap* value, const TensorMap* output_grad, const float* log_sum_exp,
                          const float* delta, const uint32_t* lo, uint32_t rows, uint32_t query_heads, uint32_t key_heads, float scale) {
    DYNAMIC_SHARED(uint16_t, shared);
    SHARED_ARRAY(Ring, ring, 1);
    SHARED_ARRAY(RowStage, row_stages, STAGES);
    const KeyWalk walk = begin(ring, turns, lo, rows, query_heads, key_heads);
    const Tiles tiles = tiles_from(shared);
    const unsigned warp = threadIdx.x / 32;
    if (warp < 4) {
        registers_decrease<24>();
        if (warp == 1) fetch_rows(ring->query_full, ring->query_empty, row_stages, log_sum_exp, delta, lo, walk, rows);
        else if (threadIdx.x == 0) fetch_tiles(ring, tiles, query, key, value, output_grad, walk);
        else if (warp > 1 && threadIdx.x % 32 == 0) {
            add_parts(ring, query_sums, turns + 1, tiles.parts + (warp - 2) * PART, warp - 2, lo, walk, rows);
        }
        return;
    }
    registers_increase<240>();
    float key_sum[COLUMNS / 2], value_sum[COLUMNS / 2];
    consume(ring, key_sum, value_sum, row_stages, tiles, walk, scale * LOG2_E);
    const uint32_t first_column = walk.key_head * HEAD_DIM + (threadIdx.x / 128 - 1) * COLUMNS;
    const uint32_t first_key = walk.first_key + row_in_group();
    const float scales[2] = {scale, scale}, ones[2] = {1.0f, 1.0f};
    const uint64_t stride = uint64_t(key_heads) * HEAD_DIM;
    store_group<COLUMNS>(key_grad + first_column, key_sum, scales, first_key, rows, stride);
    store_group<COLUMNS>(value_grad + first_column, value_sum, ones, first_key, rows, stride);
}

// query_grad = scale * the sums, of 64 rows of a head in a block.
DEVICE void query_slopes(uint16_t* query_grad, const float* query_sums, uint32_t rows, uint32_t query_heads, float scale) {
    const float* parts = query_sums + (uint64_t(blockIdx.y) * gridDim.x + blockIdx.x) * PARTS * PART;
#pragma unroll 1
    for (int part = 0; part < PARTS; part++) {
        store_part<HEAD_DIM, PART_COLUMNS>(query_grad, parts + part * PART, part * PART_COLUMNS, rows, query_heads, scale);
    }
}

KERNEL(attention_backward_hopper_256, 384)(BACKWARD_PARAMETERS) { backward_wide(BACKWARD_ARGUMENTS); }

KERNEL(attention_query_slopes_hopper_256, 128)(SUMS_PARAMETERS) { query_slopes(SUMS_ARGUMENTS); }
