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

// 16 bytes of them, aligned.
DEVICE void load_piece(float (&values)[4], const float* from) {
    const float4 piece = *reinterpret_cast<const float4*>(from);
    values[0] = piece.x, values[1] = piece.y, values[2] = piece.z, values[3] = piece.w;
}
DEVICE void load_piece(float (&values)[8], const uint16_t* from) {
    const Eight eight = load_eight(from, 0);
#pragma unroll
    for (int i = 0; i < 8; i++) values[i] = eight.value[i];
}

// partials[block] = the sum of squares of every gridDim.x-th piece of a block's threads, in f64 as products of two floats need it. Four
// loads of each thread are on their way at a time.
template <typename Number>
DEVICE void add_squares(double* partials, const Number* values, uint64_t count) {
    SHARED_ARRAY(double, partial, 8);
    constexpr int PIECE = 16 / sizeof(Number), PIECES = 4;
    const uint64_t first = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = uint64_t(gridDim.x) * blockDim.x;
    const uint64_t pieces = count / PIECE;
    double sum = 0.0;
    for (uint64_t at = first; at < pieces; at += PIECES * stride) {
        float piece[PIECES][PIECE] = {};
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            if (at + i * stride < pieces) load_piece(piece[i], values + (at + i * stride) * PIECE);
        }
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
#pragma unroll
            for (int k = 0; k < PIECE; k++) sum += double(piece[i][k]) * piece[i][k];
        }
    }
    for (uint64_t at = pieces * PIECE + first; at < count; at += stride) {
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

// After `count` squares, from norm[1] on: the root of their sum, and the factor by which gradients are scaled so that it is at most norm[0]; what
// is added is PyTorch's. Not a number where the root is not finite. By one thread.
KERNEL(clip, 32)(double* norm, uint32_t count) {
    if (threadIdx.x != 0) return;
    double sum = 0.0;
#pragma unroll 8
    for (uint32_t at = 0; at < count; at++) sum += norm[1 + at];
    const double root = sqrt(sum), share = norm[0] / (root + 1e-6);
    const bool is_finite = root < double(infinite());
    norm[1 + count] = root;
    *reinterpret_cast<float*>(norm + 2 + count) = is_finite ? static_cast<float>(share < 1.0 ? share : 1.0) : __uint_as_float(0x7FFFFFFFu);
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
    float beta1, rest1, beta2, rest2, keep, rate, correction, epsilon, gradient_scale;

    // From the device, so that the launches of all steps are the same.
    DEVICE Step(const float* factors, const float* scale)
        : beta1(factors[0]), rest1(factors[1]), beta2(factors[2]), rest2(factors[3]), keep(factors[4]), rate(factors[5]),
          correction(factors[6]), epsilon(factors[7]), gradient_scale(*scale) {}

    // Where gradients are no numbers, no step is taken.
    DEVICE bool is_none() const { return gradient_scale != gradient_scale; }

    // One weight's step. With a rest, w is the f32 that `weight` and it make; else it is rounded.
    DEVICE void take(uint16_t* weight, uint16_t* rest, float* m, float* v, float grad) const {
        const float slope = grad * gradient_scale;
        *m = *m * beta1 + slope * rest1;
        *v = *v * beta2 + slope * slope * rest2;
        const float old = rest ? join(*weight, *rest) : bf16_to_float(*weight);
        // What is off in the step's last bits is lost in the weight's.
        const float value = old * keep - divide_fast(rate * *m, sqrt_fast(*v) * correction + epsilon);
        const uint16_t stored = float_to_bf16(value);
        if (rest) *rest = rest_of(value, stored);
        *weight = stored;
    }
};

template <typename Number>
DEVICE void step(uint16_t* weight, uint16_t* rest, float* first, float* second, const Number* grad, uint64_t count, const float* factors,
                 const float* scale) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    const Step step(factors, scale);
    if (at >= count || step.is_none()) return;
    step.take(weight + at, rest ? rest + at : nullptr, first + at, second + at, number(grad[at]));
}
KERNEL(adamw, 256)(uint16_t* weight, uint16_t* rest, float* first, float* second, const float* grad, uint64_t count, const float* factors,
                   const float* scale) {
    step(weight, rest, first, second, grad, count, factors, scale);
}
KERNEL(adamw_stored, 256)(uint16_t* weight, uint16_t* rest, float* first, float* second, const uint16_t* grad, uint64_t count,
                          const float* factors, const float* scale) {
    step(weight, rest, first, second, grad, count, factors, scale);
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

// One of the two kinds of codes: what they stand for; the middles of neighbouring ones, with what is below and above all of them; and of each
// decade, cells in a unit, and those that would lie below it.
struct Codes {
    float stands_for[256], halfway[257];
    float2 decades[7];
};

// By all of a block's 256 threads.
template <bool SIGNED>
DEVICE void fill(Codes* codes) {
    const unsigned at = threadIdx.x;
    codes->stands_for[at] = SIGNED ? signed_share(at) : unsigned_share(at);
    if (at < 7) {
        // 10^7 / 9, or twice that, and so on: each decade has twice the cells of the one below it, in ten times the room.
        float factor = SIGNED ? 1e7f / 9.0f : 2e7f / 9.0f;
        for (unsigned decade = 0; decade < at; decade++) factor *= 0.2f;
        codes->decades[at] = make_float2(factor, float((SIGNED ? 1 : 2) << at) / 9.0f);
    }
    __syncthreads();
    if (at == 0) codes->halfway[0] = -infinite(), codes->halfway[256] = infinite();
    else codes->halfway[at] = (codes->stands_for[at - 1] + codes->stands_for[at]) * 0.5f;
    __syncthreads();
}

// The code nearest to `value`, from -1 (0 where not SIGNED) to 1, the lower of two: so many of the middles between codes are below it. What is
// below zero never becomes zero, nor does a second moment above it.
//
// The size alone gives that code or a neighbour: each of seven decades is cut into equal cells, twice as many as the one below it (one cell
// in the first, or two), and codes are their middles.
template <bool SIGNED>
DEVICE uint8_t nearest_code(const Codes& codes, float value) {
    constexpr float LOG10_2 = 0.30103f;
    const float size = fabsf(value);
    const int decade = static_cast<int>(fminf(fmaxf(log2_fast(size) * LOG10_2 + 7.0f, 0.0f), 6.0f));
    const int cells = (SIGNED ? 1 : 2) << decade;
    const float2 scale = codes.decades[decade];
    const int cell = static_cast<int>(size * scale.x - scale.y);
    const int place = cells + max(0, min(cell, cells - 1));
    int code = !SIGNED ? place - 1 : value < 0.0f ? 127 - place : 127 + place;
    code += int(value > codes.halfway[code + 1]) - int(!(value > codes.halfway[code]));
    if (SIGNED && code == 127 && value < 0.0f) code = 126;
    if (!SIGNED && code == 0 && value > 0.0f) code = 1;
    // What is not a number is below all.
    return value == value ? static_cast<uint8_t>(code) : 0;
}

// Shares of a block's largest number: quotients as division rounds them, but faster, as they have the divisor in common. Where that is so
// small or large that its inverse, or what a quotient leaves over, would be out of range, both are scaled, by a power of two. Of what is infinite all
// that is finite is nothing.
struct Shares {
    float scale, largest, inverse;

    DEVICE explicit Shares(float most)
        : scale(most < 1e-20f ? 0x1p100f : most > 1e30f ? 0x1p-100f : 1.0f), largest(most < infinite() ? most * scale : 0.0f),
          inverse(largest > 0.0f ? 1.0f / largest : 0.0f) {}

    DEVICE float of(float value) const {
        value *= scale;
        // Markstein 1990: with the nearest inverse and a quotient that is off by less than a unit, the next is the nearest.
        float quotient = value * inverse;
        quotient = fmaf(fmaf(-quotient, largest, value), inverse, quotient);
        return fmaf(fmaf(-quotient, largest, value), inverse, quotient);
    }
};

struct __align__(16) EightFloats {
    float4 low, high;
};
DEVICE Several<EightFloats, float> load_gradients(const float* from, int inside) { return load_some<EightFloats>(from, inside); }
DEVICE Several<EightFloats, float> load_gradients(const uint16_t* from, int inside) {
    const Eight eight = unpack_eight(load_some<uint4>(from, inside).packed);
    Several<EightFloats, float> grads;
#pragma unroll
    for (int i = 0; i < 8; i++) grads.numbers[i] = eight.value[i];
    return grads;
}

// As adamw, with moments of 8 bits and a scale for every 256 of them: a warp takes 256, eight to a lane, and as many others after them as
// there are warps.
template <typename Number>
DEVICE void step_blockwise(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second, float* second_scales,
                           const Number* grad, uint64_t count, const float* factors, const float* scale) {
    SHARED_ARRAY(Codes, with_sign, 1);
    SHARED_ARRAY(Codes, without_sign, 1);
    const Step step(factors, scale);
    if (step.is_none()) return;
    fill<true>(with_sign);
    fill<false>(without_sign);
    const unsigned lane = threadIdx.x % 32, warps = blockDim.x / 32;
    for (uint64_t block = uint64_t(blockIdx.x) * warps + threadIdx.x / 32; block * 256 < count; block += uint64_t(gridDim.x) * warps) {
        const uint64_t at = block * 256 + 8 * lane;
        const int some = inside(at, count, 8);
        Several<uint4, uint16_t> weights = load_some<uint4>(weight + at, some), rests = {};
        if (rest) rests = load_some<uint4>(rest + at, some);
        Several<uint2, uint8_t> first_codes = load_some<uint2>(first + at, some), second_codes = load_some<uint2>(second + at, some);
        const Several<EightFloats, float> grads = load_gradients(grad + at, some);
        const float old_first = first_scales[block], old_second = second_scales[block];
        float m[8], v[8], first_scale = 0.0f, second_scale = 0.0f;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            m[i] = with_sign->stands_for[first_codes.numbers[i]] * old_first;
            v[i] = without_sign->stands_for[second_codes.numbers[i]] * old_second;
            step.take(weights.numbers + i, rest ? rests.numbers + i : nullptr, m + i, v + i, grads.numbers[i]);
            // NaN is larger than nothing.
            if (i < some) first_scale = fmaxf(first_scale, fabsf(m[i])), second_scale = fmaxf(second_scale, v[i]);
        }
        first_scale = warp_max(first_scale);
        second_scale = warp_max(second_scale);
        const Shares first_shares(first_scale), second_shares(second_scale);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            first_codes.numbers[i] = nearest_code<true>(*with_sign, first_shares.of(m[i]));
            second_codes.numbers[i] = nearest_code<false>(*without_sign, second_shares.of(v[i]));
        }
        store_some(weight + at, weights, some);
        if (rest) store_some(rest + at, rests, some);
        store_some(first + at, first_codes, some);
        store_some(second + at, second_codes, some);
        if (lane == 0) first_scales[block] = first_scale, second_scales[block] = second_scale;
    }
}
KERNEL(adamw_blockwise, 256)(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second, float* second_scales,
                             const float* grad, uint64_t count, const float* factors, const float* scale) {
    step_blockwise(weight, rest, first, first_scales, second, second_scales, grad, count, factors, scale);
}
KERNEL(adamw_blockwise_stored, 256)(uint16_t* weight, uint16_t* rest, uint8_t* first, float* first_scales, uint8_t* second,
                                    float* second_scales, const uint16_t* grad, uint64_t count, const float* factors,
                                    const float* scale) {
    step_blockwise(weight, rest, first, first_scales, second, second_scales, grad, count, factors, scale);
}
