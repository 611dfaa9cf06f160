// Fused causal attention for Hopper (sm_90a): tensors come by TMA, products are made by warpgroups, and one warpgroup does nothing but
// fetch, as in FlashAttention-3 (Shah et al. 2024). Which keys a row sees is as in attention_forward.cu.
//
// A block has 128 rows of one head. Warpgroup 0 fetches keys and values into a ring of two stages, warpgroups 1 and 2 have 64 rows each.
// The product of one tile's probabilities and values runs while the scores of the next are softened, and of the two warpgroups one starts products
// while the other softens. docs/kernels.md.

#define HOPPER_PARAMETERS                                                                                                              \
    uint16_t *output, float *log_sum_exp, TENSOR_MAP(query), TENSOR_MAP(key), TENSOR_MAP(value), const uint32_t *lo, uint32_t rows,    \
        uint32_t before, uint32_t query_heads, uint32_t key_heads, float scale
#define HOPPER_ARGUMENTS output, log_sum_exp, &query, &key, &value, lo, rows, before, query_heads, key_heads, scale

constexpr float LN_2 = 0.69314718f;
constexpr int QUERY_ROWS = 128;
// The warpgroups' barriers, one each: a warpgroup waits for its turn to start products. Those of wide heads have no registers to spare for it.
constexpr unsigned TURN = 1;
template <int HEAD_DIM>
constexpr bool TAKES_TURNS = HEAD_DIM <= 128;
// Of a tile. Two stages of keys and values of 256 numbers are half as long.
template <int HEAD_DIM>
constexpr int KEY_ROWS = HEAD_DIM > 128 ? 64 : 128;

// Barriers of the ring. A stage is full when its bytes have landed, and empty when every consuming warp has said so.
struct Ring {
    uint64_t query_full;
    uint64_t key_full[STAGES], value_full[STAGES];
    uint64_t key_empty[STAGES], value_empty[STAGES];
};

// The keys that a block's rows see: from `first` to before `end`, in tiles.
struct Span {
    uint32_t first, end, tiles;
};

// One thread: the queries, then keys and values of each tile as stages become empty.
template <int HEAD_DIM>
DEVICE void produce(Ring* ring, uint16_t* queries, const TensorMap* query, const TensorMap* key, const TensorMap* value, Span span,
                    uint32_t first_query, uint32_t head, uint32_t key_head) {
    constexpr int KEYS = KEY_ROWS<HEAD_DIM>, STAGE = TILE<HEAD_DIM, KEYS>;
    uint16_t *keys = queries + TILE<HEAD_DIM, QUERY_ROWS>, *values = keys + STAGES * STAGE;
    fetch<HEAD_DIM, QUERY_ROWS>(queries, query, &ring->query_full, head, first_query);
    for (uint32_t tile = 0; tile < span.tiles; tile++) {
        const unsigned stage = tile % STAGES, round = tile / STAGES % 2;
        const uint32_t row = span.first + tile * KEYS;
        // The first round finds every stage empty: the phase before the first counts as ended.
        mbarrier_wait(&ring->key_empty[stage], round ^ 1);
        fetch<HEAD_DIM, KEYS>(keys + stage * STAGE, key, &ring->key_full[stage], key_head, row);
        mbarrier_wait(&ring->value_empty[stage], round ^ 1);
        fetch<HEAD_DIM, KEYS>(values + stage * STAGE, value, &ring->value_full[stage], key_head, row);
    }
}

// The two rows of a lane: what they see, and their softmax so far. `sum` is of the lane's own columns until the end.
struct Rows {
    uint32_t first[2], last[2];
    float largest[2], sum[2];
};

// Hides what the rows do not see; `tile` is the key of column 0.
template <int KEYS>
DEVICE void hide(float (&score)[KEYS / 2], const Rows& rows, uint32_t tile) {
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        const uint32_t at = tile + 8 * (i / 4) + 2 * (threadIdx.x % 4) + i % 2;
        if (at < rows.first[i / 2 % 2] || at > rows.last[i / 2 % 2]) score[i] = -infinite();
    }
}

// Turns scores into powers below the running maximum; `shrink` is what brings earlier sums down to it. `factor` is scale * log2(e).
template <int KEYS>
DEVICE void soften(float (&score)[KEYS / 2], Rows& rows, float (&shrink)[2], float factor) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float largest = rows.largest[half];
#pragma unroll
        for (int i = 2 * half; i < KEYS / 2; i += 4) largest = fmaxf(largest, fmaxf(score[i], score[i + 1]));
        largest = warp_max(largest, 4);
        // A row that has seen nothing yet has minus infinity, which cannot be taken away from itself.
        const float base = largest == -infinite() ? 0.0f : largest * factor;
        shrink[half] = exp2_fast(rows.largest[half] * factor - base);
        rows.largest[half] = largest;
        float sum = 0.0f;
#pragma unroll
        for (int i = 2 * half; i < KEYS / 2; i += 4) {
            score[i] = exp2_fast(score[i] * factor - base);
            score[i + 1] = exp2_fast(score[i + 1] * factor - base);
            sum += score[i] + score[i + 1];
        }
        rows.sum[half] = rows.sum[half] * shrink[half] + sum;
    }
}

// The context and the softmax of one warpgroup's rows over all tiles. `all_seen` is where tiles that every row sees whole begin and end.
template <int HEAD_DIM>
DEVICE void consume(Ring* ring, float (&context)[HEAD_DIM / 2], Rows& rows, const uint16_t* queries, const uint16_t* keys, Span span,
                    uint32_t all_seen_from, uint32_t all_seen_to, float factor) {
    constexpr int KEYS = KEY_ROWS<HEAD_DIM>, STAGE = TILE<HEAD_DIM, KEYS>;
    const uint16_t* values = keys + STAGES * STAGE;
    float score[KEYS / 2], shrink[2];
    uint32_t probability[KEYS / 16][4];
    const unsigned group = threadIdx.x / 128 - 1;
    // The second gives the first its turn before its own, and so has none to give after its last.
    uint32_t turns_given = group == 0 ? 0 : 1;
    const auto give_turn = [&] {
        if (TAKES_TURNS<HEAD_DIM> && turns_given++ < span.tiles) barrier_arrive(TURN + (group ^ 1), 32 * CONSUMER_WARPS);
    };
    if (TAKES_TURNS<HEAD_DIM> && group == 1) barrier_arrive(TURN, 32 * CONSUMER_WARPS);
    mbarrier_wait(&ring->query_full, 0);
    for (uint32_t tile = 0; tile < span.tiles; tile++) {
        const unsigned stage = tile % STAGES, round = tile / STAGES % 2, earlier = (tile + 1) % STAGES;
        mbarrier_wait(&ring->key_full[stage], round);
        if (TAKES_TURNS<HEAD_DIM>) barrier_sync(TURN + group, 32 * CONSUMER_WARPS);
        wgmma_fence();
        start_rows<HEAD_DIM, QUERY_ROWS, KEYS>(score, queries, keys + stage * STAGE);
        wgmma_commit();
        if (tile > 0) {
            // The values of the tile before, while this one's scores are softened.
            mbarrier_wait(&ring->value_full[earlier], (tile - 1) / STAGES % 2);
            wgmma_fence();
            start_registers<HEAD_DIM, KEYS>(context, probability, values + earlier * STAGE, tile > 1);
            wgmma_commit();
            give_turn();
            wgmma_wait<1>();
        } else {
            give_turn();
            wgmma_wait<0>();
        }
        release(&ring->key_empty[stage]);
        const uint32_t first_key = span.first + tile * KEYS;
        if (first_key < all_seen_from || first_key + KEYS - 1 > all_seen_to) hide<KEYS>(score, rows, first_key);
        soften<KEYS>(score, rows, shrink, factor);
        if (tile > 0) {
            wgmma_wait<0>();
            release(&ring->value_empty[earlier]);
#pragma unroll
            for (int i = 0; i < HEAD_DIM / 2; i++) context[i] *= shrink[i / 2 % 2];
        }
        pack<KEYS>(probability, score);
    }
    const unsigned last = (span.tiles - 1) % STAGES;
    mbarrier_wait(&ring->value_full[last], (span.tiles - 1) / STAGES % 2);
    wgmma_fence();
    start_registers<HEAD_DIM, KEYS>(context, probability, values + last * STAGE, span.tiles > 1);
    wgmma_commit();
    wgmma_wait<0>();
}

template <int HEAD_DIM>
DEVICE void attention_forward_hopper(uint16_t* output, float* log_sum_exp, const TensorMap* query, const TensorMap* key,
                                     const TensorMap* value, const uint32_t* lo, uint32_t rows, uint32_t before, uint32_t query_heads,
                                     uint32_t key_heads, float scale) {
    DYNAMIC_SHARED(uint16_t, queries);
    SHARED_ARRAY(Ring, ring, 1);
    const uint32_t head = blockIdx.y, key_head = head / (query_heads / key_heads);
    // Later rows see more: they begin first, so that none is left alone at the end.
    const uint32_t first_query = (gridDim.x - 1 - blockIdx.x) * QUERY_ROWS, last_query = min(first_query + QUERY_ROWS, rows) - 1;
    Span span = {lo[first_query], before + last_query + 1, 0};
    span.tiles = (span.end - span.first + KEY_ROWS<HEAD_DIM> - 1) / KEY_ROWS<HEAD_DIM>;
    if (threadIdx.x == 0) {
        mbarrier_init(&ring->query_full, 1);
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(&ring->key_full[stage], 1);
            mbarrier_init(&ring->value_full[stage], 1);
            mbarrier_init(&ring->key_empty[stage], CONSUMER_WARPS);
            mbarrier_init(&ring->value_empty[stage], CONSUMER_WARPS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    const unsigned warpgroup = threadIdx.x / 128;
    if (warpgroup == 0) {
        registers_decrease<24>();
        if (threadIdx.x == 0) produce<HEAD_DIM>(ring, queries, query, key, value, span, first_query, head, key_head);
        return;
    }
    registers_increase<240>();
    const uint32_t group_rows = (warpgroup - 1) * 64;
    const uint32_t first_row = first_query + group_rows + row_in_group();
    // A row past the end sees nothing, and nothing of it is stored.
    Rows mine;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = first_row + 8 * half;
        mine.first[half] = row < rows ? lo[row] : 0xFFFFFFFFu;
        mine.last[half] = row < rows ? before + row : 0;
        mine.largest[half] = -infinite();
        mine.sum[half] = 0.0f;
    }
    float context[HEAD_DIM / 2];
    consume<HEAD_DIM>(ring, context, mine, queries + group_rows * BOX_COLUMNS, queries + TILE<HEAD_DIM, QUERY_ROWS>, span, lo[last_query],
                      before + first_query, scale * LOG2_E);
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float sum = warp_sum(mine.sum[half], 4);
        const uint32_t row = first_row + 8 * half;
        inverse[half] = 1.0f / sum;
        if (log_sum_exp && row < rows && threadIdx.x % 4 == 0) {
            log_sum_exp[uint64_t(head) * rows + row] = mine.largest[half] * scale + log2_fast(sum) * LN_2;
        }
    }
    store_group<HEAD_DIM>(output + head * HEAD_DIM, context, inverse, first_row, rows, uint64_t(query_heads) * HEAD_DIM);
}

KERNEL(attention_forward_hopper_64, 384)(HOPPER_PARAMETERS) { attention_forward_hopper<64>(HOPPER_ARGUMENTS); }
KERNEL(attention_forward_hopper_80, 384)(HOPPER_PARAMETERS) { attention_forward_hopper<80>(HOPPER_ARGUMENTS); }
KERNEL(attention_forward_hopper_96, 384)(HOPPER_PARAMETERS) { attention_forward_hopper<96>(HOPPER_ARGUMENTS); }
KERNEL(attention_forward_hopper_128, 384)(HOPPER_PARAMETERS) { attention_forward_hopper<128>(HOPPER_ARGUMENTS); }
KERNEL(attention_forward_hopper_256, 384)(HOPPER_PARAMETERS) { attention_forward_hopper<256>(HOPPER_ARGUMENTS); }
