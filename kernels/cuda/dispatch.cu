// Rows sent to experts and gathered again. Every row of the output has one owner, and sums over choices are taken in f32 in their order.

// output[slot] = input[sources[slot] / top_k]; a block per slot.
KERNEL(permute_forward, 256)(uint16_t* output, const uint16_t* input, const uint32_t* sources, uint32_t top_k, uint32_t hidden) {
    const uint64_t from = uint64_t(sources[blockIdx.x] / top_k) * hidden, to = uint64_t(blockIdx.x) * hidden;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        *reinterpret_cast<uint4*>(output + to + at) = *reinterpret_cast<const uint4*>(input + from + at);
    }
}

// output[row] = the sum over k of weights[row, k] * input[slots[row, k]], stored once; without `weights` they are one. A block per row.
KERNEL(combine_forward, 256)(uint16_t* output, const uint16_t* input, const uint32_t* slots, const float* weights, uint32_t top_k,
                             uint32_t hidden) {
    const uint64_t row = blockIdx.x;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        Eight sum = {};
        for (uint32_t k = 0; k < top_k; k++) {
            const float weight = weights ? weights[row * top_k + k] : 1.0f;
            const Eight value = load_eight(input, uint64_t(slots[row * top_k + k]) * hidden + at);
#pragma unroll
            for (int i = 0; i < 8; i++) sum.value[i] += weight * value.value[i];
        }
        store_eight(output, row * hidden + at, sum);
    }
}

// For every choice of a row: input_grad[slot] = weights[row, k] * output_grad[row], and weights_grad[row, k] = the sum of input[slot] *
// output_grad[row]. A block per row, which stays in shared memory for all its choices.
KERNEL(combine_backward, 256)(uint16_t* input_grad, float* weights_grad, const uint16_t* input, const uint16_t* output_grad,
                              const uint32_t* slots, const float* weights, uint32_t top_k, uint32_t hidden) {
    DYNAMIC_SHARED(uint16_t, grad_row);
    SHARED_ARRAY(float, partial, 8);
    const uint64_t row = blockIdx.x;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        *reinterpret_cast<uint4*>(grad_row + at) = *reinterpret_cast<const uint4*>(output_grad + row * hidden + at);
    }
    for (uint32_t k = 0; k < top_k; k++) {
        const uint64_t start = uint64_t(slots[row * top_k + k]) * hidden;
        const float weight = weights[row * top_k + k];
        float dot = 0.0f;
        // Each thread reads back the columns that it wrote itself.
        for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
            Eight grad = load_eight(grad_row, at);
            const Eight value = load_eight(input, start + at);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                dot += value.value[i] * grad.value[i];
                grad.value[i] *= weight;
            }
            store_eight(input_grad, start + at, grad);
        }
        dot = block_sum(dot, partial);
        if (threadIdx.x == 0) weights_grad[row * top_k + k] = dot;
    }
}
