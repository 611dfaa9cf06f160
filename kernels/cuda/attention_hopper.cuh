// What both directions of attention share on Hopper: tiles that come by TMA, and products of a warpgroup's 64 rows.

constexpr int STAGES = 2;

// Elements of a tile: whole boxes. Where a head ends within one, what follows it is there, too, and is not read.
template <int HEAD_DIM, int ROWS>
constexpr int TILE = (HEAD_DIM + BOX_COLUMNS - 1) / BOX_COLUMNS * BOX_COLUMNS * ROWS;

// One thread: starts copying ROWS rows of one head, and has `full` wait for their bytes.
template <int HEAD_DIM, int ROWS>
DEVICE void fetch(uint16_t* tile, const TensorMap* map, uint64_t* full, uint32_t head, uint32_t row) {
    mbarrier_arrive_expect(full, TILE<HEAD_DIM, ROWS> * 2);
    for (int column = 0; column < HEAD_DIM; column += BOX_COLUMNS) {
        tma_load(tile + column * ROWS, map, full, int(head * HEAD_DIM + column), int(row));
    }
}

// Starts sum[64, COLUMNS] = left * right transposed. `left` is the first of 64 rows of a tile of LEFT_ROWS, `right` that of COLUMNS rows of
// one of RIGHT_ROWS.
template <int HEAD_DIM, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS = RIGHT_ROWS>
DEVICE void start_rows(float (&sum)[COLUMNS / 2], const uint16_t* left, const uint16_t* right) {
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        // Four steps to a box, each 16 columns, 32 bytes, further in its rows.
        const unsigned box = k / 4 * BOX_COLUMNS, column = k % 4 * 16;
        const uint64_t left_at = product_descriptor(left + box * LEFT_ROWS + column, 16, GROUP_BYTES);
        const uint64_t right_at = product_descriptor(right + box * RIGHT_ROWS + column, 16, GROUP_BYTES);
        wgmma<COLUMNS>(sum, left_at, right_at, k > 0);
    }
}

// Starts sum[64, HEAD_DIM] (+)= left[64, RIGHT_ROWS] * right, whose columns are contiguous.
template <int HEAD_DIM, int RIGHT_ROWS>
DEVICE void start_registers(float (&sum)[HEAD_DIM / 2], const uint32_t (&left)[RIGHT_ROWS / 16][4], const uint16_t* right,
                            bool accumulate) {
#pragma unroll
    for (int k = 0; k < RIGHT_ROWS / 16; k++) {
        const uint64_t rows = product_descriptor(right + k * 16 * BOX_COLUMNS, RIGHT_ROWS * BOX_COLUMNS * 2, GROUP_BYTES);
        wgmma_registers<HEAD_DIM, true>(sum, left[k], rows, accumulate || k > 0);
    }
}

// Rounds an accumulator into left operands: two of its column blocks are one operand's registers.
template <int COLUMNS>
DEVICE void pack(uint32_t (&packed)[COLUMNS / 16][4], const float (&sum)[COLUMNS / 2]) {
#pragma unroll
    for (int k = 0; k < COLUMNS / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) packed[k][i] = pack_bf16(sum[8 * k + 2 * i], sum[8 * k + 2 * i + 1]);
    }
}

// Writes the thread's rows, times `factor` each, where they are below `end`.
template <int HEAD_DIM>
DEVICE void store_group(uint16_t* to, const float (&sum)[HEAD_DIM / 2], const float (&factor)[2], uint32_t first_row, uint32_t end,
                        uint64_t stride) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const uint32_t row = first_row + 8 * half;
        if (row >= end) continue;
        uint16_t* place = to + row * stride + 2 * (threadIdx.x % 4);
#pragma unroll
        for (int n = 0; n < HEAD_DIM / 8; n++) {
            const float low = sum[4 * n + 2 * half] * factor[half], high = sum[4 * n + 2 * half + 1] * factor[half];
            *reinterpret_cast<uint32_t*>(place + 8 * n) = pack_bf16(low, high);
        }
    }
}
