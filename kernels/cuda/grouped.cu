// One linear map per expert and its gradients, all experts in one launch, with tensor cores (sm_80): for many small experts, where a
// product per expert would leave most of a device idle and the host would have to know the segments.
//
// Blocks stay and take tile after tile of the experts' products, expert by expert. A tile is one block's from its first product to its last,
// so no bit depends on the number of blocks.

constexpr int TILE = 128;   // rows and columns of a tile
constexpr int INNER = 64;   // numbers of the inner dimension that are brought at a time
constexpr int STAGES = 3;   // of them on their way
constexpr int THREADS = 256;
constexpr int WARP_ROWS = 64, WARP_COLUMNS = 32;  // of a tile: warps lie in two rows of four
constexpr int OPERAND = TILE * INNER;

// A bf16 matrix of a product. Of one that lies along the inner dimension, a row holds inner numbers; of one across, a row is one of them.
struct Matrix {
    const uint16_t* from;
    uint64_t stride;
    uint32_t outer_end, inner_end;
};

// Starts copying a tile of WIDTH columns from (`row`, `column`) on; what is past the ends becomes zero.
template <int WIDTH, int ROWS>
DEVICE void load_part(uint16_t* tile, const uint16_t* from, uint64_t stride, uint32_t row, uint32_t row_end, uint32_t column,
                      uint32_t column_end) {
    constexpr int CHUNKS = WIDTH / 8;
    for (unsigned at = threadIdx.x; at < ROWS * CHUNKS; at += THREADS) {
        const unsigned tile_row = at / CHUNKS, chunk = at % CHUNKS;
        const bool inside = row + tile_row < row_end && column + 8 * chunk < column_end;
        const uint64_t offset = inside ? (row + tile_row) * stride + column + 8 * chunk : 0;
        cp_async_16(tile + Layout<WIDTH>::at(tile_row, chunk), from + offset, inside ? 16 : 0);
    }
}

template <bool ALONG>
DEVICE void load_operand(uint16_t* tile, const Matrix& matrix, uint32_t outer, uint32_t inner) {
    if (ALONG) load_part<INNER, TILE>(tile, matrix.from, matrix.stride, outer, matrix.outer_end, inner, matrix.inner_end);
    else load_part<TILE, INNER>(tile, matrix.from, matrix.stride, inner, matrix.inner_end, outer, matrix.outer_end);
}

// The operand of 16 rows from `row` on, in step `k` of 16 inner numbers.
template <bool ALONG>
DEVICE void left_operand(uint32_t (&operand)[4], const uint16_t* tile, unsigned row, unsigned k) {
    const unsigned lane = threadIdx.x % 32;
    if (ALONG) ldmatrix_x4(operand, tile + Layout<INNER>::at(row + lane % 16, 2 * k + lane / 16));
    else ldmatrix_x4_transposed(operand, tile + Layout<TILE>::at(16 * k + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2));
}

// The operands of two times eight columns from `column` on.
template <bool ALONG>
DEVICE void right_operands(uint32_t (&operand)[4], const uint16_t* tile, unsigned column, unsigned k) {
    const unsigned lane = threadIdx.x % 32;
    if (ALONG) ldmatrix_x4(operand, tile + Layout<INNER>::at(column + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
    else ldmatrix_x4_transposed(operand, tile + Layout<TILE>::at(16 * k + lane % 16, column / 8 + lane / 16));
}

// sum = the tile at (`row`, `column`) of left * right. `stages` holds STAGES tiles of the left, then as many of the right.
template <bool LEFT_ALONG, bool RIGHT_ALONG>
DEVICE void multiply(float (&sum)[WARP_ROWS / 16][WARP_COLUMNS / 8][4], uint16_t* stages, const Matrix& left, const Matrix& right, uint32_t row,
                     uint32_t column) {
    const unsigned warp = threadIdx.x / 32, warp_row = warp / 4 * WARP_ROWS, warp_column = warp % 4 * WARP_COLUMNS;
    const uint32_t steps = (left.inner_end + INNER - 1) / INNER;
    const auto load = [&](uint32_t step) {
        if (step < steps) {
            const unsigned stage = step % STAGES;
            load_operand<LEFT_ALONG>(stages + stage * OPERAND, left, row, step * INNER);
            load_operand<RIGHT_ALONG>(stages + (STAGES + stage) * OPERAND, right, column, step * INNER);
        }
        cp_async_commit();
    };
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
        for (int j = 0; j < WARP_COLUMNS / 8; j++) {
#pragma unroll
            for (int at = 0; at < 4; at++) sum[i][j][at] = 0.0f;
        }
    }
    // The last tile's stages may still be read.
    __syncthreads();
    for (int step = 0; step < STAGES - 1; step++) load(step);
    for (uint32_t step = 0; step < steps; step++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load(step + STAGES - 1);
        const uint16_t* left_tile = stages + step % STAGES * OPERAND;
        const uint16_t* right_tile = stages + (STAGES + step % STAGES) * OPERAND;
#pragma unroll
        for (int k = 0; k < INNER / 16; k++) {
            uint32_t columns[WARP_COLUMNS / 16][4];
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 16; j++) right_operands<RIGHT_ALONG>(columns[j], right_tile, warp_column + 16 * j, k);
#pragma unroll
            for (int i = 0; i < WARP_ROWS / 16; i++) {
                uint32_t rows[4];
                left_operand<LEFT_ALONG>(rows, left_tile, warp_row + 16 * i, k);
#pragma unroll
                for (int j = 0; j < WARP_COLUMNS / 16; j++) {
                    const uint32_t first[2] = {columns[j][0], columns[j][1]}, second[2] = {columns[j][2], columns[j][3]};
                    mma_m16n8k16(sum[i][2 * j], rows, first);
                    mma_m16n8k16(sum[i][2 * j + 1], rows, second);
                }
            }
        }
    }
    cp_async_wait<0>();
}

// Stores each pair of neighbouring numbers of a tile, those inside `row_end` and `column_end`: what is there of the four pairs of a row is asked
// for before the first is waited for.
template <typename Number, typename Pair>
DEVICE void store_pairs(const float (&sum)[WARP_ROWS / 16][WARP_COLUMNS / 8][4], uint32_t row, uint32_t row_end, uint32_t column,
                        uint32_t column_end, const Pairs<Number, Pair>& pairs) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    row += warp / 4 * WARP_ROWS + lane / 4;
    column += warp % 4 * WARP_COLUMNS + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < WARP_ROWS / 16; i++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint32_t at = row + 16 * i + 8 * half;
            if (at >= row_end) continue;
            Pair before[WARP_COLUMNS / 8];
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 8; j++) {
                if (column + 8 * j < column_end) before[j] = pairs.load(at, column + 8 * j);
            }
#pragma unroll
            for (int j = 0; j < WARP_COLUMNS / 8; j++) {
                if (column + 8 * j < column_end) pairs.store(at, column + 8 * j, before[j], sum[i][j][2 * half], sum[i][j][2 * half + 1]);
            }
        }
    }
}

// Multiplies the rows of each expert, `inner` numbers each, by its matrix, which lies along them or across: product[rows, columns], added to what
// is there if `add`.
template <bool ALONG>
DEVICE void multiply_rows(uint16_t* product, const uint16_t* left, uint32_t inner, const uint16_t* weight, uint32_t columns,
                          const uint32_t* segments, uint32_t experts, uint32_t rows, bool add) {
    DYNAMIC_SHARED(uint16_t, stages);
    SHARED_ARRAY(uint32_t, first_tile, EXPERTS_MAX + 1);
    const Tiles<TILE, TILE> tiles = {segments, experts, rows, columns, 0, true, first_tile};
    tiles.count();
    float sum[WARP_ROWS / 16][WARP_COLUMNS / 8][4];
    for (uint32_t number = blockIdx.x; number < tiles.len(); number += gridDim.x) {
        const Tile tile = tiles.find(number);
        const uint32_t first_row = tile.first_row, len = tile.end_row - first_row;
        const Matrix own = {left + uint64_t(first_row) * inner, inner, len, inner};
        const Matrix right = {weight + uint64_t(tile.expert) * columns * inner, ALONG ? inner : columns, columns, inner};
        multiply<true, ALONG>(sum, stages, own, right, tile.row, tile.column);
        store_pairs(sum, tile.row, len, tile.column, columns, StoredPairs{product + uint64_t(first_row) * columns, columns, add});
    }
}

// output[r] = weight[e] * input[r] for the rows r of each expert e.
KERNEL(grouped_forward, THREADS)(uint16_t* output, const uint16_t* input, const uint16_t* weight, const uint32_t* segments, uint32_t experts,
                                 uint32_t rows, uint32_t inputs, uint32_t outputs) {
    multiply_rows<true>(output, input, inputs, weight, outputs, segments, experts, rows, false);
}

// input_grad[r] (+)= output_grad[r] * weight[e], added to what is there if `add`.
KERNEL(grouped_backward_input, THREADS)(uint16_t* input_grad, const uint16_t* output_grad, const uint16_t* weight, const uint32_t* segments,
                                        uint32_t experts, uint32_t rows, uint32_t inputs, uint32_t outputs, uint32_t add) {
    multiply_rows<false>(input_grad, output_grad, outputs, weight, inputs, segments, experts, rows, add != 0);
}

#define WEIGHT_PARAMETERS                                                                                                                  \
    const uint16_t *output_grad, const uint16_t *input, const uint32_t *segments, uint32_t experts, uint32_t rows, uint32_t inputs,         \
        uint32_t outputs, uint32_t add
#define WEIGHT_ARGUMENTS output_grad, input, segments, experts, rows, inputs, outputs, add

// weight_grad[e] (+)= output_grad transposed * input, over the rows of e, added to what is there if `add`.
template <typename Pair, typename Number>
DEVICE void multiply_over_rows(Number* weight_grad, WEIGHT_PARAMETERS) {
    DYNAMIC_SHARED(uint16_t, stages);
    SHARED_ARRAY(uint32_t, first_tile, EXPERTS_MAX + 1);
    const Tiles<TILE, TILE> tiles = {segments, experts, rows, inputs, outputs, add != 0, first_tile};
    tiles.count();
    float sum[WARP_ROWS / 16][WARP_COLUMNS / 8][4];
    for (uint32_t number = blockIdx.x; number < tiles.len(); number += gridDim.x) {
        const Tile tile = tiles.find(number);
        const uint32_t len = tile.end_row - tile.first_row;
        const Matrix left = {output_grad + uint64_t(tile.first_row) * outputs, outputs, outputs, len};
        const Matrix right = {input + uint64_t(tile.first_row) * inputs, inputs, inputs, len};
        multiply<false, false>(sum, stages, left, right, tile.row, tile.column);
        Number* grad = weight_grad + uint64_t(tile.expert) * outputs * inputs;
        store_pairs(sum, tile.row, outputs, tile.column, inputs, Pairs<Number, Pair>{grad, inputs, add != 0});
    }
}
KERNEL(grouped_backward_weight, THREADS)(float* weight_grad, WEIGHT_PARAMETERS) { multiply_over_rows<float2>(weight_grad, WEIGHT_ARGUMENTS); }
KERNEL(grouped_backward_weight_stored, THREADS)(uint16_t* weight_grad, WEIGHT_PARAMETERS) {
    multiply_over_rows<uint32_t>(weight_grad, WEIGHT_ARGUMENTS);
}
