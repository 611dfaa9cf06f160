// Sums and the norm of gradients, and AdamW (Loshchilov and Hutter 2019).

DEVICE double block_sum_of_doubles(double value, double* partial) {
    for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0.0;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
    return sum;
}

// Gradients are f32 or bf16.
DEVICE float number(float value) { return value; }
DEVICE float number(uint16_t value) { return bf16_to_float(value); }

// partials[block] = the sum of squares of every gridDim.x-th piece of a block's threads, in f64 as products of two floats need it.
template <typename Number>
DEVICE void add_squares(double* partials, const Number* values, uint64_t count) {
    SHARED_ARRAY(double, partial, 8);
    const uint64_t stride = uint64_t(gridDim.x) * blockDim.x;
    double sum = 0.0;
    for (uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < count; at += stride) {
        const float value = number(values[at]);
        sum += double(value) * value;
    }
    sum = block_sum_of_doubles(sum, partial);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}
KERNEL(square_partials, 256)(double* partials, const float* values, uint64_t count) { add_squares(partials, values, count); }
KERNEL(square_partials_stored, 256)(double* partials, const uint16_t* values, uint64_t count) { add_squares(partials, values, count); }

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

// What is the same for all numbers of a step. With these, m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2 and
// w = keep w - rate m / (sqrt(v) correction + epsilon), where `keep` is 1 - rate * decay and the corrections of bias are in `rate` and
// `correction`.
struct Step {
    float gradient_scale, beta1, rest1, beta2, rest2, keep, rate, correction, epsilon;

    // From the device, so that the launches of all steps are the same.
    DEVICE explicit Step(const float* factors)
        : gradient_scale(factors[0]), beta1(factors[1]), rest1(factors[2]), beta2(factors[3]), rest2(factors[4]), keep(factors[5]),
          rate(factors[6]), correction(factors[7]), epsilon(factors[8]) {}

    // One weight's step. With a rest, w is the f32 that `weight` and it make; else it is rounded.
    DEVICE void take(uint16_t* weight, uint16_t* rest, float* m, float* v, float grad) const {
        const float slope = grad * gradient_scale;
        *m = *m * beta1 + slope * rest1;
        *v = *v * beta2 + slope * slope * rest2;
        const float old = rest ? join(*weight, *rest) : bf16_to_float(*weight);
        const float value = old * keep - rate * *m / (sqrtf(*v) * correction + epsilon);
        const uint16_t stored = float_to_bf16(value);
        if (rest) *rest = rest_of(value, stored);
        *weight = stored;
    }
};

template <typename Number>
DEVICE void step(uint16_t* weight, uint16_t* rest, float* first, float* second, const Number* grad, uint64_t count, const float* factors) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    Step(factors).take(weight + at, rest ? rest + at : nullptr, first + at, second + at, number(grad[at]));
}
KERNEL(adamw, 256)(uint16_t* weight, uint16_t* rest, float* first, float* second, const float* grad, uint64_t count, const float* factors) {
    step(weight, rest, first, second, grad, count, factors);
}
KERNEL(adamw_stored, 256)(uint16_t* weight, uint16_t* rest, float* first, float* second, const uint16_t* grad, uint64_t count,
                          const float* factors) {
    step(weight, rest, first, second, grad, count, factors);
}

// The middle of a step, as `share` in src/blockwise.rs makes it: numbers of 24 bits at most times powers of two, and one division.
DEVICE float share(uint32_t place, uint32_t first) {
    const uint32_t power = 31 - __clz(place) - first / 4;
    const uint32_t steps = 1u << (power + first / 4);
    uint32_t whole = 2 * steps;
    for (uint32_t decade = power; decade < 7; decade++) whole *= 10;
    return float(2 * steps + 9 * (2 * (place - steps) + 1)) / float(whole);
}
DEVICE float signed_share(uint32_t code) {
    if (code == 127) return 0.0f;
    return code == 255 ? 1.0f : code > 127 ? share(code - 127, 2) : -share(127 - code, 2);
}
DEVICE float unsigned_share(uint32_t code) {
    if (code == 0) return 0.0f;
    return code == 255 ? 1.0f : share(code + 1, 4);
}

// The code nearest to `value`, the lower of two. What is below zero never becomes zero, nor does a second moment above it.
DEVICE uint8_t nearest_code(const float* map, float value) {
    uint32_t code = 0;
    for (uint32_t step = 128; step > 0; step /= 2) {
        const uint32_t below = code + step - 1;
        if (value > (map[below] + map[below + 1]) * 0.5f) code += step;
    }
    if (map[code] == 0.0f) {
        if (value < 0.0f && code > 0) code--;
        if (value > 0.0f && code == 0) code++;
    }
    return static_cast<uint8_t>(code);
}

// The largest of a block's numbers, to every thread; NaN is larger than nothing.
DEVICE float block_max(float value, float* partial) {
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float most = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) most = fmaxf(most, partial[warp]);
    return most;
}

// As adamw, with moments of 8 bits and a scale for every 256 of them; a block takes every gridDim.x-th 256.
template <typename Number>
DEVICE void step_blockwise(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second, float* second_scales,
                           const Number* grad, uint64_t count, const float* factors) {
    SHARED_ARRAY(float, signed_map, 256);
    SHARED_ARRAY(float, unsigned_map, 256);
    SHARED_ARRAY(float, first_partial, 8);
    SHARED_ARRAY(float, second_partial, 8);
    const Step step(factors);
    signed_map[threadIdx.x] = signed_share(threadIdx.x);
    unsigned_map[threadIdx.x] = unsigned_share(threadIdx.x);
    for (uint64_t block = blockIdx.x; block * 256 < count; block += gridDim.x) {
        // The maps are whole, and nobody reads the partials of the block before.
        __syncthreads();
        const uint64_t at = block * 256 + threadIdx.x;
        float m = 0.0f, v = 0.0f;
        if (at < count) {
            m = signed_map[first[at]] * first_scales[block];
            v = unsigned_map[second[at]] * second_scales[block];
            step.take(weight + at, rest ? rest + at : nullptr, &m, &v, number(grad[at]));
        }
        const float first_scale = block_max(fabsf(m), first_partial);
        const float second_scale = block_max(v, second_partial);
        if (at < count) {
            first[at] = nearest_code(signed_map, first_scale > 0.0f ? m / first_scale : 0.0f);
            second[at] = nearest_code(unsigned_map, second_scale > 0.0f ? v / second_scale : 0.0f);
        }
        if (threadIdx.x == 0) {
            first_scales[block] = first_scale;
            second_scales[block] = second_scale;
        }
    }
}
KERNEL(adamw_blockwise, 256)(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second, float* second_scales,
                             const float* grad, uint64_t count, const float* factors) {
    step_blockwise(weight, rest, first, first_scales, second, second_scales, grad, count, factors);
}
KERNEL(adamw_blockwise_stored, 256)(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second,
                                    float* second_scales, const uint16_t* grad, uint64_t count, const float* factors) {
    step_blockwise(weight, rest, first, first_scales, second, second_scales, grad, count, factors);
}
