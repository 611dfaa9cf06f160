// Routing of tokens to experts: softmax and the best few, their gradient, and the statistics of the balance loss (Fedus et al. 2022).
//
// A warp has a row; lane l has experts l, l + 32, ... of up to 256.

constexpr int EXPERTS_PER_LANE = 8;
constexpr float LOG2_E = 1.44269504f;

// The largest of the lanes' values and whose it is, of equals the lower expert. What is not a number comes after all numbers.
DEVICE uint32_t best_expert(float value, uint32_t expert) {
    value = value == value ? value : -1.0f;
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xFFFFFFFFu, value, distance);
        const uint32_t whose = __shfl_xor_sync(0xFFFFFFFFu, expert, distance);
        if (other > value || (other == value && whose < expert)) {
            value = other;
            expert = whose;
        }
    }
    return expert;
}

// probabilities = softmax(logits); the `top_k` largest into `chosen`, largest first, and divided by their sum into `weights`.
KERNEL(route_forward, 256)(float* probabilities, uint32_t* chosen, float* weights, const uint16_t* logits, uint64_t rows, uint32_t experts,
                           uint32_t top_k) {
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t row = uint64_t(blockIdx.x) * 8 + threadIdx.x / 32;
    if (row >= rows) return;
    float value[EXPERTS_PER_LANE];
    float largest = -__uint_as_float(0x7F800000u);
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        const uint32_t expert = lane + 32 * i;
        value[i] = expert < experts ? bf16_to_float(logits[row * experts + expert]) : -__uint_as_float(0x7F800000u);
        largest = fmaxf(largest, value[i]);
    }
    largest = warp_max(largest);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        value[i] = lane + 32 * i < experts ? exp2_fast((value[i] - largest) * LOG2_E) : 0.0f;
        sum += value[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        value[i] /= sum;
        if (lane + 32 * i < experts) probabilities[row * experts + lane + 32 * i] = value[i];
    }
    // Once chosen, an expert is marked in `taken`; lanes past the last expert have none.
    uint32_t taken = 0;
    float total = 0.0f;
    for (uint32_t k = 0; k < top_k; k++) {
        // An expert that is not there, or is taken, comes after one that is not a number.
        float best = -2.0f;
        uint32_t mine = 0xFFFFFFFFu;
#pragma unroll
        for (int i = 0; i < EXPERTS_PER_LANE; i++) {
            const float candidate = value[i] == value[i] ? value[i] : -1.0f;
            if (lane + 32 * i < experts && !(taken >> i & 1) && candidate > best) {
                best = candidate;
                mine = lane + 32 * i;
            }
        }
        const uint32_t expert = best_expert(best, mine);
        float probability = 0.0f;
#pragma unroll
        for (int i = 0; i < EXPERTS_PER_LANE; i++) {
            if (lane + 32 * i == expert) {
                taken |= 1u << i;
                probability = value[i];
            }
        }
        probability = __shfl_sync(0xFFFFFFFFu, probability, int(expert % 32));
        total += probability;
        if (lane == 0) {
            chosen[row * top_k + k] = expert;
            weights[row * top_k + k] = probability;
        }
    }
    __syncwarp();
    if (lane == 0) {
        for (uint32_t k = 0; k < top_k; k++) weights[row * top_k + k] /= total;
    }
}

// With p the probabilities, w the weights and s the sum of the chosen p: dp_chosen = (dw - sum dw w) / s, to which the balance gradient is
// added; then dlogit = p (dp - sum dp p).
KERNEL(route_backward, 256)(uint16_t* logits_grad, const float* probabilities, const uint32_t* chosen, const float* weights_grad,
                            const float* balance_grad, uint64_t rows, uint32_t experts, uint32_t top_k) {
    const uint32_t lane = threadIdx.x % 32;
    const uint64_t row = uint64_t(blockIdx.x) * 8 + threadIdx.x / 32;
    if (row >= rows) return;
    float total = 0.0f, pull = 0.0f;
    for (uint32_t k = 0; k < top_k; k++) {
        const float probability = probabilities[row * experts + chosen[row * top_k + k]];
        total += probability;
        pull += probability * weights_grad[row * top_k + k];
    }
    float probability[EXPERTS_PER_LANE], slope[EXPERTS_PER_LANE];
    float dot = 0.0f;
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        const uint32_t expert = lane + 32 * i;
        probability[i] = expert < experts ? probabilities[row * experts + expert] : 0.0f;
        slope[i] = expert < experts ? balance_grad[expert] : 0.0f;
        for (uint32_t k = 0; k < top_k; k++) {
            if (chosen[row * top_k + k] == expert) slope[i] += (weights_grad[row * top_k + k] - pull / total) / total;
        }
        dot += slope[i] * probability[i];
    }
    dot = warp_sum(dot);
#pragma unroll
    for (int i = 0; i < EXPERTS_PER_LANE; i++) {
        const uint32_t expert = lane + 32 * i;
        if (expert < experts) logits_grad[row * experts + expert] = float_to_bf16(probability[i] * (slope[i] - dot));
    }
}

// partials[block] [2, experts]: how often each expert was chosen by the block's rows, then the sum of its probabilities. A thread per
// expert.
KERNEL(balance_partials, 256)(float* partials, const float* probabilities, const uint32_t* chosen, uint64_t rows, uint32_t experts,
                              uint32_t top_k, uint32_t rows_per_block) {
    const uint32_t expert = threadIdx.x;
    if (expert >= experts) return;
    const uint64_t first = uint64_t(blockIdx.x) * rows_per_block;
    uint32_t count = 0;
    float sum = 0.0f;
    for (uint64_t row = first; row < rows && row < first + rows_per_block; row++) {
        for (uint32_t k = 0; k < top_k; k++) count += chosen[row * top_k + k] == expert;
        sum += probabilities[row * experts + expert];
    }
    partials[uint64_t(blockIdx.x) * 2 * experts + expert] = float(count);
    partials[uint64_t(blockIdx.x) * 2 * experts + experts + expert] = sum;
}

// With factor = *scale: loss[0] = factor * sum of counts * sums, and its gradient by probability, factor * counts; `statistics` [2, experts]. One block.
KERNEL(balance_loss, 256)(float* loss, float* balance_grad, const float* statistics, uint32_t experts, const float* scale) {
    SHARED_ARRAY(float, partial, 8);
    const float factor = *scale;
    const uint32_t expert = threadIdx.x;
    const float count = expert < experts ? statistics[expert] : 0.0f;
    const float product = expert < experts ? count * statistics[experts + expert] : 0.0f;
    const float sum = block_sum(product, partial);
    // As for the head's loss: not a number where the loss is none.
    if (expert < experts) balance_grad[expert] = factor * count + 0.0f * (factor * sum);
    if (expert == 0) loss[0] = factor * sum;
}
