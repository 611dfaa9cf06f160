// The gated activation (Shazeer 2020): silu(gate) * up, silu(x) = x * sigmoid(x). Eight numbers per thread.

constexpr float LOG2_E = 1.44269504f;

DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_fast(-x * LOG2_E)); }

// Eight bf16, or as many as there are.
DEVICE Eight load_floats(const uint16_t* from, int inside) { return unpack_eight(load_some<uint4>(from, inside).packed); }
DEVICE void store_floats(uint16_t* to, const Eight& eight, int inside) {
    store_some(to, Several<uint4, uint16_t>{pack_eight(eight)}, inside);
}

KERNEL(swiglu_forward, 256)(uint16_t* output, const uint16_t* gate, const uint16_t* up, uint64_t count) {
    const uint64_t at = 8 * (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x);
    const int some = inside(at, count, 8);
    if (some == 0) return;
    Eight gates = load_floats(gate + at, some);
    const Eight ups = load_floats(up + at, some);
#pragma unroll
    for (int i = 0; i < 8; i++) gates.value[i] = gates.value[i] * sigmoid(gates.value[i]) * ups.value[i];
    store_floats(output + at, gates, some);
}

// With s = sigmoid(gate): silu'(gate) = s * (1 + gate * (1 - s)).
KERNEL(swiglu_backward, 256)(uint16_t* gate_grad, uint16_t* up_grad, const uint16_t* gate, const uint16_t* up, const uint16_t* output_grad,
                             uint64_t count) {
    const uint64_t at = 8 * (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x);
    const int some = inside(at, count, 8);
    if (some == 0) return;
    Eight gates = load_floats(gate + at, some), ups = load_floats(up + at, some);
    const Eight grads = load_floats(output_grad + at, some);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float x = gates.value[i], s = sigmoid(x), grad = grads.value[i];
        gates.value[i] = grad * ups.value[i] * s * (1.0f + x * (1.0f - s));
        ups.value[i] = grad * x * s;
    }
    store_floats(gate_grad + at, gates, some);
    store_floats(up_grad + at, ups, some);
}
