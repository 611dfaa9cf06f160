// Sums over rows in one order, whatever runs when: each block sums a part of the rows, then a block has 32 columns and adds their parts.

// partials[block, column] = the sum of `rows_per_block` rows of input [rows, columns].
KERNEL(column_partials, 256)(float* partials, const uint16_t* input, uint64_t rows, uint32_t columns, uint32_t rows_per_block) {
    const uint64_t first = uint64_t(blockIdx.x) * rows_per_block;
    for (uint32_t column = threadIdx.x; column < columns; column += blockDim.x) {
        float sum = 0.0f;
        for (uint64_t row = first; row < rows && row < first + rows_per_block; row++) sum += bf16_to_float(input[row * columns + column]);
        partials[uint64_t(blockIdx.x) * columns + column] = sum;
    }
}

// output[column] += the sum over `parts` rows of partials [parts, columns]: each of eight warps adds an eighth of them, and the first adds the
// eighths.
KERNEL(add_partials, 256)(float* output, const float* partials, uint32_t parts, uint64_t columns) {
    constexpr unsigned WARPS = 8;
    SHARED_ARRAY(float, eighths, WARPS * 32);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint64_t column = uint64_t(blockIdx.x) * 32 + lane;
    const uint32_t each = (parts + WARPS - 1) / WARPS, first = warp * each, end = min(first + each, parts);
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (uint32_t part = first; part < end; part++) sum += partials[part * columns + column];
    }
    eighths[threadIdx.x] = sum;
    __syncthreads();
    if (warp != 0 || column >= columns) return;
    for (unsigned other = 1; other < WARPS; other++) sum += eighths[other * 32 + lane];
    output[column] += sum;
}

// sum[at] (+)= addends in their order, one after another; the sum begins with the first where `begins`. The addend at `own_place` is `own`, the
// others follow each other, `stride` numbers from one to the next.
KERNEL(add_in_order, 256)(float* sum, const float* own, const float* others, uint32_t own_place, uint32_t addends, uint32_t begins, uint64_t stride, uint64_t len) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= len) return;
    float total = begins ? 0.0f : sum[at];
    for (uint32_t place = 0; place < addends; place++) {
        const float addend = place == own_place ? own[at] : others[(place - (place > own_place)) * stride + at];
        // Not zero and the first: a negative zero would be lost.
        total = begins && place == 0 ? addend : total + addend;
    }
    sum[at] = total;
}
