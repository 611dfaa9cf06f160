// Root-mean-square normalisation (Zhang and Sennrich 2019), with the residual addition before it. docs/kernels.md.

// One block per row. output = input * scale * weight with scale = 1 / sqrt(mean(input^2) + epsilon); with `addend`, sum = input + addend
// is rounded, stored and normalised. Dynamic shared memory: the row, so that global memory is read once.
KERNEL(rmsnorm_forward, 256)(uint16_t* output, float* scale, uint16_t* sum, const uint16_t* input, const uint16_t* addend,
                             const uint16_t* weight, uint32_t hidden, float epsilon) {
    DYNAMIC_SHARED(uint16_t, row);
    SHARED_ARRAY(float, partial, 8);
    const uint64_t start = uint64_t(blockIdx.x) * hidden;
    float squares = 0.0f;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        Eight value = load_eight(input, start + at);
        if (addend) {
            const Eight other = load_eight(addend, start + at);
#pragma unroll
            for (int i = 0; i < 8; i++) value.value[i] += other.value[i];
            store_eight(sum, start + at, value);
        }
        // What is normalised is what was stored.
        store_eight(row, at, value);
        value = load_eight(row, at);
#pragma unroll
        for (int i = 0; i < 8; i++) squares += value.value[i] * value.value[i];
    }
    const float factor = rsqrtf(block_sum(squares, partial) / float(hidden) + epsilon);
    if (threadIdx.x == 0) scale[blockIdx.x] = factor;
    for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
        Eight value = load_eight(row, at);
        const Eight factors = load_eight(weight, at);
#pragma unroll
        for (int i = 0; i < 8; i++) value.value[i] = value.value[i] * factor * factors.value[i];
        store_eight(output, start + at, value);
    }
}

// sum += products * factor.
DEVICE void add_four(float4* sum, const float* products, float factor) {
    float4 four = *sum;
    four.x += products[0] * factor;
    four.y += products[1] * factor;
    four.z += products[2] * factor;
    four.w += products[3] * factor;
    *sum = four;
}

// With s the row's scale and g = weight * output_grad: input_grad += s * (g - input * s^2 * mean(g * input)). A block takes
// `rows_per_block` rows in order and writes its part of weight_grad, the sum over its rows of output_grad * input * s, to
// partials[block]. Dynamic shared memory: that part in f32, and the two rows at hand. A thread has the same columns throughout, so only
// the sum of a row needs others. Of a thread's eight columns the lower four are in one half of that part, the upper in the other: neighbouring
// threads then have neighbouring 16 bytes.
KERNEL(rmsnorm_backward, 256)(uint16_t* input_grad, float* partials, const uint16_t* input, const uint16_t* weight, const float* scale,
                              const uint16_t* output_grad, uint64_t rows, uint32_t hidden, uint32_t rows_per_block) {
    DYNAMIC_SHARED(float, weight_grad);
    SHARED_ARRAY(float, partial, 8);
    uint16_t* input_row = reinterpret_cast<uint16_t*>(weight_grad + hidden);
    uint16_t* grad_row = input_row + hidden;
    float4 *low = reinterpret_cast<float4*>(weight_grad), *high = low + hidden / 8;
    for (uint32_t at = threadIdx.x; at < hidden / 8; at += blockDim.x) low[at] = high[at] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    const uint64_t first = uint64_t(blockIdx.x) * rows_per_block;
    for (uint64_t row = first; row < rows && row < first + rows_per_block; row++) {
        const float factor = scale[row];
        float dot = 0.0f;
        for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
            const Eight value = load_eight(input, row * hidden + at), grad = load_eight(output_grad, row * hidden + at);
            const Eight factors = load_eight(weight, at);
            store_eight(input_row, at, value);
            store_eight(grad_row, at, grad);
            float product[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                product[i] = grad.value[i] * value.value[i];
                dot += product[i] * factors.value[i];
            }
            add_four(low + at / 8, product, factor);
            add_four(high + at / 8, product + 4, factor);
        }
        const float pull = block_sum(dot, partial) / float(hidden) * factor * factor;
        for (uint32_t at = 8 * threadIdx.x; at < hidden; at += 8 * blockDim.x) {
            const Eight value = load_eight(input_row, at), grad = load_eight(grad_row, at), factors = load_eight(weight, at);
            Eight slope = load_eight(input_grad, row * hidden + at);
#pragma unroll
            for (int i = 0; i < 8; i++) slope.value[i] += factor * (grad.value[i] * factors.value[i] - value.value[i] * pull);
            store_eight(input_grad, row * hidden + at, slope);
        }
    }
    float4* part = reinterpret_cast<float4*>(partials + uint64_t(blockIdx.x) * hidden);
    for (uint32_t at = threadIdx.x; at < hidden / 8; at += blockDim.x) {
        part[2 * at] = low[at];
        part[2 * at + 1] = high[at];
    }
}
