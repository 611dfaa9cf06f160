// Cross entropy of one block of rows of logits, between the product that makes them and those that take their gradient.

constexpr uint32_t IGNORED = 0xFFFFFFFFu;
constexpr float LOG2_E = 1.44269504f;
constexpr float LN_2 = 0.69314718f;

// The running maximum and the sum of powers below it.
struct Powers {
    float largest, sum;
};

DEVICE Powers join(Powers a, Powers b) {
    const float largest = fmaxf(a.largest, b.largest);
    // Nothing seen yet on either side. What is not a number is no maximum, but makes the sum none either.
    if (a.largest == -infinite() && b.largest == -infinite()) return {largest, a.sum + b.sum};
    return {largest, a.sum * exp2_fast((a.largest - largest) * LOG2_E) + b.sum * exp2_fast((b.largest - largest) * LOG2_E)};
}

// losses[row] = log(sum of exp(logits[row])) - logits[row, target], 0 where the target is IGNORED; where `slopes` is asked for, it becomes
// loss_scale * (softmax - one-hot), rounded; NaN where the loss is not finite. A block per row; logits are read twice, the second time from the cache.
KERNEL(cross_entropy, 512)(float* losses, uint16_t* slopes, const float* logits, const uint32_t* targets, uint32_t vocabulary,
                           const float* loss_scale) {
    SHARED_ARRAY(Powers, partial, 16);
    const uint64_t start = uint64_t(blockIdx.x) * vocabulary;
    const uint32_t target = targets[blockIdx.x];
    if (target == IGNORED) {
        for (uint32_t at = threadIdx.x; slopes && at < vocabulary; at += blockDim.x) slopes[start + at] = 0;
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        return;
    }
    Powers powers = {-infinite(), 0.0f};
    for (uint32_t at = threadIdx.x; at < vocabulary; at += blockDim.x) powers = join(powers, {logits[start + at], 1.0f});
    for (int distance = 16; distance > 0; distance /= 2) {
        const float largest = __shfl_xor_sync(0xFFFFFFFFu, powers.largest, distance);
        const float sum = __shfl_xor_sync(0xFFFFFFFFu, powers.sum, distance);
        powers = join(powers, {largest, sum});
    }
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = powers;
    __syncthreads();
    powers = partial[0];
    for (unsigned warp = 1; warp < blockDim.x / 32; warp++) powers = join(powers, partial[warp]);
    const float at_target = logits[start + target];
    const float loss = log2_fast(powers.sum) * LN_2 - (at_target - powers.largest);
    if (threadIdx.x == 0) losses[blockIdx.x] = loss;
    if (!slopes) return;
    // Not a number where the loss is none, so that no step is taken.
    const float scale = *loss_scale + 0.0f * loss, factor = scale / powers.sum;
    for (uint32_t at = threadIdx.x; at < vocabulary; at += blockDim.x) {
        const float probability = exp2_fast((logits[start + at] - powers.largest) * LOG2_E) * factor;
        slopes[start + at] = float_to_bf16(at == target ? probability - scale : probability);
    }
}
