// Rotary positions (Su et al. 2021) in the half-split layout, after an optional norm of each head (Qwen3).
//
// Sixteen lanes share a head: lane `member` has the pairs (j, j + half) with j = 2 member + 32 i and the next, so every access is of four
// bytes and neighbours lie together.

constexpr int STEPS = 4;  // Heads of up to 256: half of one is 4 * 32 pairs.

// The pairs of one head that a lane has: [step][0 and 1], first and second halves.
struct Pairs {
    float low[STEPS][2], high[STEPS][2];
};

DEVICE Pairs load_pairs(const uint16_t* head, unsigned member, unsigned half, bool valid) {
    Pairs pairs;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned j = 2 * member + 32 * i;
        const bool inside = valid && j < half;
        const uint32_t low = inside ? *reinterpret_cast<const uint32_t*>(head + j) : 0;
        const uint32_t high = inside ? *reinterpret_cast<const uint32_t*>(head + half + j) : 0;
        pairs.low[i][0] = __uint_as_float(low << 16);
        pairs.low[i][1] = __uint_as_float(low & 0xFFFF0000u);
        pairs.high[i][0] = __uint_as_float(high << 16);
        pairs.high[i][1] = __uint_as_float(high & 0xFFFF0000u);
    }
    return pairs;
}

DEVICE void store_pairs(uint16_t* head, unsigned member, unsigned half, const Pairs& pairs) {
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned j = 2 * member + 32 * i;
        if (j < half) {
            *reinterpret_cast<uint32_t*>(head + j) = pack_bf16(pairs.low[i][0], pairs.low[i][1]);
            *reinterpret_cast<uint32_t*>(head + half + j) = pack_bf16(pairs.high[i][0], pairs.high[i][1]);
        }
    }
}

// (a, b) becomes (a cos - b sin, b cos + a sin), or with `sign` -1 is turned back. `angles`: half cosines, then half sines.
DEVICE void rotate(Pairs& pairs, const float* angles, unsigned member, unsigned half, float sign) {
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned j = 2 * member + 32 * i;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (j >= half) continue;
            const float cosine = angles[j + k], sine = angles[half + j + k] * sign;
            const float a = pairs.low[i][k], b = pairs.high[i][k];
            pairs.low[i][k] = a * cosine - b * sine;
            pairs.high[i][k] = b * cosine + a * sine;
        }
    }
}

// `items` heads of [rows, heads, head_dim], sixteen to a block. Without `weight` there is no norm.
KERNEL(rotary_forward, 256)(uint16_t* output, float* scale, const uint16_t* input, const uint16_t* weight, const float* table,
                            const uint32_t* positions, uint64_t items, uint32_t heads, uint32_t head_dim, float epsilon) {
    const unsigned member = threadIdx.x % 16, half = head_dim / 2;
    const uint64_t item = uint64_t(blockIdx.x) * 16 + threadIdx.x / 16;
    const bool valid = item < items;
    Pairs pairs = load_pairs(input + (valid ? item * head_dim : 0), member, half, valid);
    if (weight) {
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
#pragma unroll
            for (int k = 0; k < 2; k++) squares += pairs.low[i][k] * pairs.low[i][k] + pairs.high[i][k] * pairs.high[i][k];
        }
        const float factor = rsqrtf(warp_sum(squares, 16) / float(head_dim) + epsilon);
        const Pairs weights = load_pairs(weight, member, half, true);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
#pragma unroll
            for (int k = 0; k < 2; k++) {
                pairs.low[i][k] *= factor * weights.low[i][k];
                pairs.high[i][k] *= factor * weights.high[i][k];
            }
        }
        if (valid && member == 0) scale[item] = factor;
    }
    if (!valid) return;
    rotate(pairs, table + uint64_t(positions[item / heads]) * head_dim, member, half, 1.0f);
    store_pairs(output + item * head_dim, member, half, pairs);
}

// Through the norm of one head: `pairs` from the gradient of its output to that of its input, with s its scale and g = weight * gradient:
// s * (g - input * s^2 * mean(g * input)). Adds gradient * input * s to `sums`. All sixteen lanes come here.
DEVICE void norm_slope(Pairs& pairs, Pairs& sums, const Pairs& inputs, const Pairs& weights, float factor, unsigned head_dim) {
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const float low = pairs.low[i][k] * inputs.low[i][k], high = pairs.high[i][k] * inputs.high[i][k];
            dot += low * weights.low[i][k] + high * weights.high[i][k];
            sums.low[i][k] += low * factor;
            sums.high[i][k] += high * factor;
        }
    }
    const float pull = warp_sum(dot, 16) / float(head_dim) * factor * factor;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            pairs.low[i][k] = factor * (pairs.low[i][k] * weights.low[i][k] - inputs.low[i][k] * pull);
            pairs.high[i][k] = factor * (pairs.high[i][k] * weights.high[i][k] - inputs.high[i][k] * pull);
        }
    }
}

// partials[block] = the block's part of the norm weight's gradient: the sums of its sixteen groups of lanes, in order.
DEVICE void write_partials(float* partials, float* shared_sums, const Pairs& sums, unsigned head_dim) {
    const unsigned member = threadIdx.x % 16, group = threadIdx.x / 16, half = head_dim / 2;
#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        const unsigned j = 2 * member + 32 * i;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            if (j >= half) continue;
            shared_sums[group * head_dim + j + k] = sums.low[i][k];
            shared_sums[group * head_dim + half + j + k] = sums.high[i][k];
        }
    }
    __syncthreads();
    for (unsigned at = threadIdx.x; at < head_dim; at += blockDim.x) {
        float sum = 0.0f;
        for (unsigned other = 0; other < 16; other++) sum += shared_sums[other * head_dim + at];
        partials[uint64_t(blockIdx.x) * head_dim + at] = sum;
    }
}

// `grad` in place; a block takes `items_per_block` heads, sixteen at a time. Dynamic shared memory with a norm: 16 heads of floats.
KERNEL(rotary_backward, 256)(uint16_t* grad, float* partials, const uint16_t* input, const uint16_t* weight, const float* scale,
                             const float* table, const uint32_t* positions, uint64_t items, uint32_t heads, uint32_t head_dim,
                             uint32_t items_per_block) {
    DYNAMIC_SHARED(float, shared_sums);
    const unsigned member = threadIdx.x % 16, half = head_dim / 2;
    const uint64_t first = uint64_t(blockIdx.x) * items_per_block;
    Pairs sums = {}, weights = {};
    if (weight) weights = load_pairs(weight, member, half, true);
    for (uint32_t step = 0; step < items_per_block; step += 16) {
        const uint64_t item = first + step + threadIdx.x / 16;
        const bool valid = item < items && step + threadIdx.x / 16 < items_per_block;
        const uint64_t start = valid ? item * head_dim : 0;
        Pairs pairs = load_pairs(grad + start, member, half, valid);
        if (valid) rotate(pairs, table + uint64_t(positions[item / heads]) * head_dim, member, half, -1.0f);
        if (weight) {
            const Pairs inputs = load_pairs(input + start, member, half, valid);
            norm_slope(pairs, sums, inputs, weights, valid ? scale[item] : 0.0f, head_dim);
        }
        if (valid) store_pairs(grad + start, member, half, pairs);
    }
    if (weight) write_partials(partials, shared_sums, sums, head_dim);
}
