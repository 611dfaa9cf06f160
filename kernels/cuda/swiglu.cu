// The gated activation (Shazeer 2020): silu(gate) * up, silu(x) = x * sigmoid(x). Eight numbers per thread.

constexpr float LOG2_E = 1.44269504f;

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(-x * LOG2_E)); }

// Eight numbers from `at` on, as many as there are; the others are zero.
DEVICE Eight load_some(const uint16_t* from, uint64_t at, uint64_t count) {
    if (at + 8 <= count) return load_eight(from, at);
    Eight some;
#pragma unroll
    for (int i = 0; i < 8; i++) some.value[i] = at + i < count ? bf16_to_float(from[at + i]) : 0.0f;
    return some;
}

DEVICE void store_some(uint16_t* to, uint64_t at, uint64_t count, const Eight& some) {
    if (at + 8 <= count) {
        store_eight(to, at, some);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        if (at + i < count) to[at + i] = float_to_bf16(some.value[i]);
    }
}

KERNEL(swiglu_forward, 256)(uint16_t* output, const uint16_t* gate, const uint16_t* up, uint64_t count) {
    const uint64_t at = 8 * (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x);
    if (at >= count) return;
    Eight gates = load_some(gate, at, count);
    const Eight ups = load_some(up, at, count);
#pragma unroll
    for (int i = 0; i < 8; i++) gates.value[i] = gates.value[i] * sigmoid(gates.value[i]) * ups.value[i];
    store_some(output, at, count, gates);
}

// With s = sigmoid(gate): silu'(gate) = s * (1 + gate * (1 - s)).
KERNEL(swiglu_backward, 256)(uint16_t* gate_grad, uint16_t* up_grad, const uint16_t* gate, const uint16_t* up, const uint16_t* output_grad,
                             uint64_t count) {
    const uint64_t at = 8 * (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x);
    if (at >= count) return;
    Eight gates = load_some(gate, at, count), ups = load_some(up, at, count);
    const Eight grads = load_some(output_grad, at, count);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float x = gates.value[i], s = sigmoid(x), grad = grads.value[i];
        gates.value[i] = grad * ups.value[i] * s * (1.0f + x * (1.0f - s));
        ups.value[i] = grad * x * s;
    }
    store_some(gate_grad, at, count, gates);
    store_some(up_grad, at, count, ups);
}
