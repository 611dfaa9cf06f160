// Rows of a table, by token.

// output[row] = table[tokens[row]]; a block per row.
KERNEL(embedding_forward, 256)(uint16_t* output, const uint16_t* table, const uint32_t* tokens, uint32_t hidden) {
    const uint64_t from = uint64_t(tokens[blockIdx.x]) * hidden, to = uint64_t(blockIdx.x) * hidden;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        *reinterpret_cast<uint4*>(output + to + at) = *reinterpret_cast<const uint4*>(table + from + at);
    }
}

// table_grad[token] += the gradients of its rows, one after the other in order of rows. `tokens` are sorted and `sources` are their rows;
// the block at the first place of a token has all of it. Blocks by place, then by 8 * blockDim.x columns.
KERNEL(embedding_backward, 128)(float* table_grad, const uint16_t* output_grad, const uint32_t* tokens, const uint32_t* sources,
                                uint32_t rows, uint32_t hidden) {
    uint32_t place = blockIdx.x;
    const uint32_t token = tokens[place], at = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (at >= hidden || (place > 0 && tokens[place - 1] == token)) return;
    float* to = table_grad + uint64_t(token) * hidden + at;
    float sum[8];
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = to[i];
    for (; place < rows && tokens[place] == token; place++) {
        const Eight grad = load_eight(output_grad, uint64_t(sources[place]) * hidden + at);
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += grad.value[i];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = sum[i];
}
