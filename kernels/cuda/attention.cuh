// What both directions of attention share: tiles of rows in shared memory, and products of 16 rows per warp with tensor cores (sm_80).
//
// A lane is 4 * group + member. Of an accumulator [16, 8 n] it has rows `group` and `group + 8`, and of each eight columns the two from
// 2 * member on: sum[n][0], sum[n][1] in the first row, sum[n][2], sum[n][3] in the second.

constexpr float LOG2_E = 1.44269504f;

// Starts copying ROWS rows from `first` on of a tensor whose rows lie `stride` numbers apart; rows from `end` on become zero.
template <int HEAD_DIM, int ROWS, int THREADS>
DEVICE void load_tile(uint16_t* tile, const uint16_t* from, uint32_t first, uint32_t end, uint64_t stride) {
    constexpr int CHUNKS = Layout<HEAD_DIM>::CHUNKS;
    for (unsigned at = threadIdx.x; at < ROWS * CHUNKS; at += THREADS) {
        const unsigned row = at / CHUNKS, chunk = at % CHUNKS;
        const bool inside = first + row < end;
        const uint64_t offset = inside ? (first + row) * stride + 8 * chunk : 0;
        cp_async_16(tile + Layout<HEAD_DIM>::at(row, chunk), from + offset, inside ? 16 : 0);
    }
}

// sum[16, COLUMNS] += left[from left_row on, HEAD_DIM] * right[COLUMNS, HEAD_DIM] transposed; both in shared memory.
template <int HEAD_DIM, int COLUMNS>
DEVICE void multiply_rows(float (&sum)[COLUMNS / 8][4], const uint16_t* left, unsigned left_row, const uint16_t* right) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < HEAD_DIM / 16; k++) {
        uint32_t rows[4];
        ldmatrix_x4(rows, left + Layout<HEAD_DIM>::at(left_row + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t columns[4];
            ldmatrix_x4(columns, right + Layout<HEAD_DIM>::at(16 * n + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
            const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
            mma_m16n8k16(sum[2 * n], rows, first);
            mma_m16n8k16(sum[2 * n + 1], rows, second);
        }
    }
}

// sum[16, COLUMNS] += left[16, INNER] * right[INNER, from first_chunk on]. `left` comes from an accumulator and is rounded here: the
// layout of an accumulator's two column blocks is that of one operand, so it never leaves the registers.
template <int HEAD_DIM, int INNER, int COLUMNS>
DEVICE void multiply_registers(float (&sum)[COLUMNS / 8][4], const float (&left)[INNER / 8][4], const uint16_t* right,
                               unsigned first_chunk) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < INNER / 16; k++) {
        const uint32_t rows[4] = {pack_bf16(left[2 * k][0], left[2 * k][1]), pack_bf16(left[2 * k][2], left[2 * k][3]),
                                  pack_bf16(left[2 * k + 1][0], left[2 * k + 1][1]), pack_bf16(left[2 * k + 1][2], left[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t columns[4];
            ldmatrix_x4_transposed(columns, right + Layout<HEAD_DIM>::at(16 * k + lane % 16, first_chunk + 2 * n + lane / 16));
            const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
            mma_m16n8k16(sum[2 * n], rows, first);
            mma_m16n8k16(sum[2 * n + 1], rows, second);
        }
    }
}

// Writes an accumulator's rows times `factor` (one per row) to rows from `first` on, those below `end`.
template <int COLUMNS>
DEVICE void store_rows(uint16_t* to, const float (&sum)[COLUMNS / 8][4], const float (&factor)[2], uint32_t first, uint32_t end,
                       uint64_t stride) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint32_t row = first + lane / 4 + 8 * i;
        if (row >= end) continue;
        uint16_t* place = to + row * stride + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            *reinterpret_cast<uint32_t*>(place + 8 * n) = pack_bf16(sum[n][2 * i] * factor[i], sum[n][2 * i + 1] * factor[i]);
        }
    }
}

// The last row that sees `key`: `lo` never falls, so rows up to it are those with lo <= key.
DEVICE uint32_t last_seen_by(const uint32_t* lo, uint32_t rows, uint32_t key) {
    uint32_t seen = key, unseen = rows;
    while (unseen - seen > 1) {
        const uint32_t middle = seen + (unseen - seen) / 2;
        if (lo[middle] <= key) seen = middle;
        else unseen = middle;
    }
    return seen;
}
