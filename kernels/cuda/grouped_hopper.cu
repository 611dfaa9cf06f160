// One linear map per expert and its gradients for Hopper (sm_90a), all experts in one launch: operands come by TMA, products are made by
// warpgroups, and one warpgroup does nothing but fetch. docs/kernels.md.
//
// Blocks stay and take tile after tile of the experts' products, as in grouped.cu. Fetching goes on into the next tile while a tile is stored. Of
// rows that another expert has, operands may bring some: where rows are summed over they are cleared, elsewhere they are not stored. Inputs
// and outputs come in whole steps, multiples of INNER.

constexpr int TILE_ROWS = 128, TILE_COLUMNS = 256;
constexpr int INNER = 64;  // numbers of the inner dimension that are brought at a time
constexpr int STAGES = 4;  // of them on their way
constexpr int THREADS = 384, CONSUMERS = 256;
constexpr int LEFT = TILE_ROWS * INNER, RIGHT = TILE_COLUMNS * INNER;
constexpr int BOX = INNER * BOX_COLUMNS;  // of an operand that lies across
constexpr unsigned CLEARED = 1;           // the consumers' barrier

using Walk = Tiles<TILE_ROWS, TILE_COLUMNS>;

// A stage is full when its bytes have landed, and empty when every consuming warp has said so.
struct Ring {
    uint64_t full[STAGES], empty[STAGES];
};

DEVICE void init(Ring* ring) {
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; stage++) {
            mbarrier_init(&ring->full[stage], 1);
            mbarrier_init(&ring->empty[stage], CONSUMER_WARPS);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
}

// At least one: where there is nothing to sum over, all of it is cleared.
DEVICE uint32_t steps_of(uint32_t len) { return max(parts_of(len, INNER), 1u); }

// Where operands begin in their matrices. Of one that lies along the inner dimension, a row holds inner numbers; of one across, a row is
// one of them.
struct Place {
    uint32_t outer, inner;
};

// One thread: starts copying OUTER numbers by INNER.
template <bool ALONG, int OUTER>
DEVICE void fetch(uint16_t* to, const TensorMap* map, uint64_t* full, Place place) {
    if (ALONG) {
        tma_load(to, map, full, int(place.inner), int(place.outer));
    } else {
        for (int at = 0; at < OUTER; at += BOX_COLUMNS) tma_load(to + at * INNER, map, full, int(place.outer) + at, int(place.inner));
    }
}

// One thread: the operands of every tile of this block, step by step, as stages become empty.
template <bool LEFT_ALONG, bool RIGHT_ALONG, typename Places>
DEVICE void produce(Ring* ring, uint16_t* stages, const TensorMap* left, const TensorMap* right, const Walk& walk, const Places& places) {
    uint32_t taken = 0;
    for (uint32_t number = blockIdx.x; number < walk.len(); number += gridDim.x) {
        const Tile tile = walk.find(number);
        Place from_left = places.left(tile), from_right = places.right(tile);
        for (uint32_t steps = steps_of(places.inner(tile)); steps > 0; steps--, taken++) {
            const unsigned stage = taken % STAGES;
            mbarrier_wait(&ring->empty[stage], (taken / STAGES % 2) ^ 1);
            mbarrier_arrive_expect(&ring->full[stage], (LEFT + RIGHT) * 2);
            uint16_t* to = stages + stage * (LEFT + RIGHT);
            fetch<LEFT_ALONG, TILE_ROWS>(to, left, &ring->full[stage], from_left);
            fetch<RIGHT_ALONG, TILE_COLUMNS>(to + LEFT, right, &ring->full[stage], from_right);
            from_left.inner += INNER;
            from_right.inner += INNER;
        }
    }
}

// Clears the inner numbers from `end` on of a stage whose operands lie across. By all consumers; what they wrote is then known to products.
DEVICE void clear_rows(uint16_t* stage, uint32_t end) {
    const uint32_t chunks = (INNER - end) * BOX_COLUMNS / 8;
    for (uint32_t at = threadIdx.x - 128; at < chunks * ((LEFT + RIGHT) / BOX); at += CONSUMERS) {
        uint16_t* box = stage + at / chunks * BOX;
        *reinterpret_cast<uint4*>(box + end * BOX_COLUMNS + at % chunks * 8) = make_uint4(0, 0, 0, 0);
    }
    fence_proxy_async();
    barrier_sync(CLEARED, CONSUMERS);
}

// Starts sum[64, 256] (+)= the products of one stage. `group` is the warpgroup's number among the consumers.
template <bool LEFT_ALONG, bool RIGHT_ALONG>
DEVICE void start_stage(float (&sum)[TILE_COLUMNS / 2], const uint16_t* left, unsigned group, bool accumulate) {
    const uint16_t* right = left + LEFT;
#pragma unroll
    for (int k = 0; k < INNER / 16; k++) {
        // 16 inner numbers are 32 bytes of a row along, and 16 rows across.
        const uint16_t* rows = left + group * BOX + k * 16 * (LEFT_ALONG ? 1 : BOX_COLUMNS);
        const uint16_t* columns = right + k * 16 * (RIGHT_ALONG ? 1 : BOX_COLUMNS);
        wgmma<TILE_COLUMNS, !LEFT_ALONG, !RIGHT_ALONG>(sum, product_descriptor(rows, BOX * 2, GROUP_BYTES),
                                                       product_descriptor(columns, BOX * 2, GROUP_BYTES), accumulate || k > 0);
    }
}

// sum = the products of `len` inner numbers, of which `taken` counts the stages. Where rows are summed over, the last may be another's.
template <bool LEFT_ALONG, bool RIGHT_ALONG>
DEVICE void consume(Ring* ring, float (&sum)[TILE_COLUMNS / 2], uint16_t* stages, uint32_t& taken, uint32_t len) {
    const unsigned group = threadIdx.x / 128 - 1;
    const uint32_t steps = steps_of(len);
    for (uint32_t step = 0; step < steps; step++, taken++) {
        const unsigned stage = taken % STAGES;
        uint16_t* operands = stages + stage * (LEFT + RIGHT);
        mbarrier_wait(&ring->full[stage], taken / STAGES % 2);
        if (!LEFT_ALONG && len - step * INNER < INNER) clear_rows(operands, len - step * INNER);
        wgmma_fence();
        start_stage<LEFT_ALONG, RIGHT_ALONG>(sum, operands, group, step > 0);
        wgmma_commit();
        if (step > 0) {
            wgmma_wait<1>();
            release(&ring->empty[(taken - 1) % STAGES]);
        }
    }
    wgmma_wait<0>();
    release(&ring->empty[(taken - 1) % STAGES]);
}

// Stores each pair of neighbouring numbers of a tile, those inside the ends: what is there of four pairs is asked for before the first is waited
// for.
template <typename Number, typename Pair>
DEVICE void store_pairs(const Tile& tile, const float* sum, uint32_t row_end, uint32_t column_end, const Pairs<Number, Pair>& pairs) {
    const uint32_t first_row = tile.row + (threadIdx.x / 128 - 1) * 64 + row_in_group(), column = tile.column + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = first_row + 8 * half;
#pragma unroll
        for (int n = 0; n < TILE_COLUMNS / 8; n += 4) {
            // Columns come in whole boxes.
            if (row >= row_end || tile.column + 8 * n >= column_end) continue;
            Pair before[4];
#pragma unroll
            for (int at = 0; at < 4; at++) before[at] = pairs.load(row, column + 8 * (n + at));
#pragma unroll
            for (int at = 0; at < 4; at++) {
                const float* both = sum + 4 * (n + at) + 2 * half;
                pairs.store(row, column + 8 * (n + at), before[at], both[0], both[1]);
            }
        }
    }
}

// The roles of a block: warpgroup 0 fetches, the others multiply and, with `store`, write a tile's sums.
template <bool LEFT_ALONG, bool RIGHT_ALONG, typename Places, typename Store>
DEVICE void multiply(const TensorMap* left, const TensorMap* right, Walk walk, const Places& places, const Store& store) {
    DYNAMIC_SHARED(uint16_t, stages);
    SHARED_ARRAY(Ring, ring, 1);
    SHARED_ARRAY(uint32_t, first, EXPERTS_MAX + 1);
    walk.first = first;
    walk.count();
    init(ring);
    if (threadIdx.x < 128) {
        registers_decrease<40>();
        if (threadIdx.x == 0) produce<LEFT_ALONG, RIGHT_ALONG>(ring, stages, left, right, walk, places);
        return;
    }
    registers_increase<232>();
    float sum[TILE_COLUMNS / 2];
    uint32_t taken = 0;
    for (uint32_t number = blockIdx.x; number < walk.len(); number += gridDim.x) {
        const Tile tile = walk.find(number);
        consume<LEFT_ALONG, RIGHT_ALONG>(ring, sum, stages, taken, places.inner(tile));
        store(tile, sum);
    }
}

// The rows of each expert, `inner_len` numbers each, by its matrix, which lies along them or across.
template <bool ALONG>
struct ByRow {
    uint32_t inner_len, columns;

    DEVICE uint32_t inner(const Tile&) const { return inner_len; }
    DEVICE Place left(const Tile& tile) const { return {tile.first_row + tile.row, 0}; }
    DEVICE Place right(const Tile& tile) const {
        if (ALONG) return {tile.expert * columns + tile.column, 0};
        return {tile.column, tile.expert * inner_len};
    }
};

// The transpose of each expert's rows of one matrix by its rows of another.
struct OverRows {
    DEVICE uint32_t inner(const Tile& tile) const { return tile.end_row - tile.first_row; }
    DEVICE Place left(const Tile& tile) const { return {tile.row, tile.first_row}; }
    DEVICE Place right(const Tile& tile) const { return {tile.column, tile.first_row}; }
};

#define ROWS_PARAMETERS                                                                                                                   \
    uint16_t *product, TENSOR_MAP(left), TENSOR_MAP(weight), const uint32_t *segments, uint32_t experts, uint32_t rows, uint32_t inputs,  \
        uint32_t outputs

// The product's rows, added to what is there if `add`.
template <bool ALONG>
DEVICE void multiply_rows(uint16_t* product, const TensorMap* left, const TensorMap* weight, const uint32_t* segments, uint32_t experts,
                          uint32_t rows, uint32_t inner, uint32_t columns, bool add) {
    const ByRow<ALONG> places = {inner, columns};
    multiply<true, ALONG>(left, weight, {segments, experts, rows, columns, 0, true, nullptr}, places, [&](const Tile& tile, const float* sum) {
        const StoredPairs pairs = {product + uint64_t(tile.first_row) * columns, columns, add};
        store_pairs(tile, sum, tile.end_row - tile.first_row, columns, pairs);
    });
}

// output[r] = weight[e] * input[r] for the rows r of each expert e.
KERNEL(grouped_forward_hopper, THREADS)(ROWS_PARAMETERS) {
    multiply_rows<true>(product, &left, &weight, segments, experts, rows, inputs, outputs, false);
}

// input_grad[r] (+)= output_grad[r] * weight[e], added to what is there if `add`.
KERNEL(grouped_backward_input_hopper, THREADS)(ROWS_PARAMETERS, uint32_t add) {
    multiply_rows<false>(product, &left, &weight, segments, experts, rows, outputs, inputs, add != 0);
}

#define WEIGHT_PARAMETERS                                                                                                                  \
    TENSOR_MAP(output_grad), TENSOR_MAP(input), const uint32_t *segments, uint32_t experts, uint32_t rows, uint32_t inputs,                 \
        uint32_t outputs, uint32_t add
#define WEIGHT_ARGUMENTS &output_grad, &input, segments, experts, rows, inputs, outputs, add

// weight_grad[e] (+)= output_grad transposed * input, over the rows of e, added to what is there if `add`.
template <typename Pair, typename Number>
DEVICE void multiply_over_rows(Number* weight_grad, const TensorMap* output_grad, const TensorMap* input, const uint32_t* segments,
                               uint32_t experts, uint32_t rows, uint32_t inputs, uint32_t outputs, uint32_t add) {
    const Walk walk = {segments, experts, rows, inputs, outputs, add != 0, nullptr};
    multiply<false, false>(output_grad, input, walk, OverRows(), [&](const Tile& tile, const float* sum) {
        Number* grad = weight_grad + uint64_t(tile.expert) * outputs * inputs;
        store_pairs(tile, sum, outputs, inputs, Pairs<Number, Pair>{grad, inputs, add != 0});
    });
}
KERNEL(grouped_backward_weight_hopper, THREADS)(float* weight_grad, WEIGHT_PARAMETERS) {
    multiply_over_rows<float2>(weight_grad, WEIGHT_ARGUMENTS);
}
KERNEL(grouped_backward_weight_stored_hopper, THREADS)(uint16_t* weight_grad, WEIGHT_PARAMETERS) {
    multiply_over_rows<uint32_t>(weight_grad, WEIGHT_ARGUMENTS);
}
