// Sums and the norm of gradients, and AdamW (Loshchilov and Hutter 2019).

DEVICE double block_sum_of_doubles(double value, double* partial) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
    return sum;
}

// partials[block] = the sum of squares of every gridDim.x-th piece of a block's threads, in f64 as products of two floats need it.
KERNEL(square_partials, 256)(double* partials, const float* values, uint64_t count) {
    SHARED_ARRAY(double, partial, 8);
    const uint64_t stride = uint64_t(gridDim.x) * blockDim.x;
    double sum = 0.0;
    for (uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) sum += double(values[at]) * values[at];
    sum = block_sum_of_doubles(sum, partial);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// total[0] = the sum of `count` partials. One block.
KERNEL(sum_doubles, 256)(double* total, const double* partials, uint32_t count) {
    SHARED_ARRAY(double, partial, 8);
    double sum = 0.0;
    for (uint32_t at = threadIdx.x; at < count; at += blockDim.x) sum += partials[at];
    sum = block_sum_of_doubles(sum, partial);
    if (threadIdx.x == 0) total[0] = sum;
}

// sum += addend.
KERNEL(add, 256)(float* sum, const float* addend, uint64_t count) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < count) sum[at] += addend[at];
}

// The f32 of a stored number and what it lacks of one: the difference of their bits, which sixteen hold, since the stored number is the nearest.
DEVICE float join(uint16_t stored, uint16_t rest) {
    return __uint_as_float((static_cast<uint32_t>(stored) << 16) + static_cast<uint32_t>(static_cast<short>(rest)));
}
DEVICE uint16_t rest_of(float value, uint16_t stored) {
    return static_cast<uint16_t>(__float_as_uint(value) - (static_cast<uint32_t>(stored) << 16));
}

// m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2, w = keep w - rate m / (sqrt(v) correction + epsilon), where `keep` is 1 - rate * decay
// and the corrections of bias are in `rate` and `correction`. With a rest, w is the f32 that `weight` and it make; else it is rounded.
KERNEL(adamw, 256)(uint16_t* weight, uint16_t* rest, float* first, float* second, const float* grad, uint64_t count, float gradient_scale,
                   float beta1, float rest1, float beta2, float rest2, float keep, float rate, float correction, float epsilon) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const float slope = grad[at] * gradient_scale;
    const float m = first[at] * beta1 + slope * rest1;
    const float v = second[at] * beta2 + slope * slope * rest2;
    const float old = rest ? join(weight[at], rest[at]) : bf16_to_float(weight[at]);
    const float value = old * keep - rate * m / (sqrtf(v) * correction + epsilon);
    const uint16_t stored = float_to_bf16(value);
    first[at] = m;
    second[at] = v;
    if (rest) rest[at] = rest_of(value, stored);
    weight[at] = stored;
}
