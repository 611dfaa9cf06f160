// Everything that a kernel needs beyond CUDA's built-in functions: types, conversions, and one wrapper per PTX instruction. There is no
// `asm` elsewhere but in ptx_hopper.cuh. Each wrapper has two bodies: this one for a device, and one in kernels/emulator/include for a CPU.
//
// No header is included, so NVRTC needs no include path: the text of a kernel's file is put after the text of this one.

#ifdef OSLER_EMULATOR
#include "emulator.hpp"
#else

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;

// A kernel of at most this many threads, found by its plain name.
#define KERNEL(name, threads) extern "C" __global__ void __launch_bounds__(threads) name

// Dynamic and static arrays in shared memory. 1024 bytes is what the 128-byte swizzle of Hopper's copies asks for.
#define DYNAMIC_SHARED(type, name)                                \
    extern __shared__ __align__(1024) unsigned char name##_raw[]; \
    type* name = reinterpret_cast<type*>(name##_raw)
#define SHARED_ARRAY(type, name, count) __shared__ type name[count]

#define DEVICE __device__ __forceinline__

// The address of a shared object in the window that PTX names `.shared`.
DEVICE uint32_t shared_address(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// bf16 is the upper half of a float.
DEVICE float bf16_to_float(uint16_t value) { return __uint_as_float(static_cast<uint32_t>(value) << 16); }

DEVICE uint16_t float_to_bf16(float value) {
    uint16_t rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"(value));
    return rounded;
}

// Two roundings at once; `low` goes to the lower address.
DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// Within 2 units in the last place; 0 of minus infinity.
DEVICE float exp2_fast(float x) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
    return power;
}

DEVICE float log2_fast(float x) {
    float logarithm;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(logarithm) : "f"(x));
    return logarithm;
}

// Within 1 unit in the last place, and 2 where `below` is between 2^-126 and 2^126. What is less than 2^-126 is 0.
DEVICE float sqrt_fast(float x) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}
DEVICE float divide_fast(float above, float below) {
    float quotient;
    asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(quotient) : "f"(above), "f"(below));
    return quotient;
}

// Whoever sees it, the host too, sees all that this thread, and kernels before this one, have written.
DEVICE void store_for_host(uint64_t* to, uint64_t value) { asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory"); }

// Barrier `id` among `threads` threads of the block; 0 is that of __syncthreads.
DEVICE void barrier_sync(unsigned id, unsigned threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void barrier_arrive(unsigned id, unsigned threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// accumulator[16, 8] += left[16, 16] * right[16, 8], bf16 operands, f32 accumulator.
DEVICE void mma_m16n8k16(float (&accumulator)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(accumulator[0]), "+f"(accumulator[1]), "+f"(accumulator[2]), "+f"(accumulator[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right[0]), "r"(right[1]));
}

// 8x8 matrices of 16-bit elements from shared memory: lanes 8 m to 8 m + 7 give the rows of matrix m.
DEVICE void ldmatrix_x1(uint32_t& loaded, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(loaded) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_x2(uint32_t (&loaded)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(loaded[0]), "=r"(loaded[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4(uint32_t (&loaded)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(loaded[0]), "=r"(loaded[1]), "=r"(loaded[2]), "=r"(loaded[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x1_transposed(uint32_t& loaded, const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(loaded) : "r"(shared_address(row)) : "memory");
}
DEVICE void ldmatrix_x2_transposed(uint32_t (&loaded)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(loaded[0]), "=r"(loaded[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_transposed(uint32_t (&loaded)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(loaded[0]), "=r"(loaded[1]), "=r"(loaded[2]), "=r"(loaded[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// 16 bytes from global to shared memory, of which the first `bytes` are read and the others become zero.
DEVICE void cp_async_16(void* to, const void* from, unsigned bytes = 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes) : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most the last PENDING groups of this thread are on their way.
template <unsigned PENDING>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

#endif

DEVICE float infinite() { return __uint_as_float(0x7F800000u); }

// Sums and maxima over `width` neighbouring lanes, given to all of them. The tree is fixed, so the bits are too.
DEVICE float warp_sum(float value, int width = 32) {
    for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
    return value;
}
DEVICE float warp_max(float value, int width = 32) {
    for (int distance = width / 2; distance > 0; distance /= 2) value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
    return value;
}

// The sum over a block of whole warps, given to all its threads. `partial` is shared, one float per warp. Ends with a barrier before the
// sum is read, and begins with one so that it may be used again.
DEVICE float block_sum(float value, float* partial) {
    value = warp_sum(value);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += partial[warp];
    return sum;
}

// Eight bf16 as floats.
struct Eight {
    float value[8];
};

DEVICE Eight unpack_eight(uint4 packed) {
    const uint32_t word[4] = {packed.x, packed.y, packed.z, packed.w};
    Eight eight;
#pragma unroll
    for (int at = 0; at < 4; at++) {
        eight.value[2 * at] = __uint_as_float(word[at] << 16);
        eight.value[2 * at + 1] = __uint_as_float(word[at] & 0xFFFF0000u);
    }
    return eight;
}

DEVICE uint4 pack_eight(const Eight& eight) {
    const float* value = eight.value;
    return make_uint4(pack_bf16(value[0], value[1]), pack_bf16(value[2], value[3]), pack_bf16(value[4], value[5]),
                      pack_bf16(value[6], value[7]));
}

// 16 aligned bytes each; `at` counts elements.
DEVICE Eight load_eight(const uint16_t* from, uint64_t at) {
    return unpack_eight(*reinterpret_cast<const uint4*>(from + at));
}
DEVICE void store_eight(uint16_t* to, uint64_t at, const Eight& eight) {
    *reinterpret_cast<uint4*>(to + at) = pack_eight(eight);
}

// Neighbouring numbers that one access moves.
template <typename Packed, typename Number>
union Several {
    static constexpr int COUNT = sizeof(Packed) / sizeof(Number);
    Packed packed;
    Number numbers[COUNT];
};

// How many of `wanted` numbers from `at` on are among `count`.
DEVICE int inside(uint64_t at, uint64_t count, int wanted) { return at >= count ? 0 : count - at < wanted ? int(count - at) : wanted; }

// All of them, aligned, or the first `count` and zeros.
template <typename Packed, typename Number>
DEVICE Several<Packed, Number> load_some(const Number* from, int count) {
    Several<Packed, Number> some = {};
    if (count == some.COUNT) {
        some.packed = *reinterpret_cast<const Packed*>(from);
    } else {
#pragma unroll
        for (int i = 0; i < some.COUNT; i++) {
            if (i < count) some.numbers[i] = from[i];
        }
    }
    return some;
}
template <typename Packed, typename Number>
DEVICE void store_some(Number* to, const Several<Packed, Number>& some, int count) {
    if (count == some.COUNT) {
        *reinterpret_cast<Packed*>(to) = some.packed;
    } else {
#pragma unroll
        for (int i = 0; i < some.COUNT; i++) {
            if (i < count) to[i] = some.numbers[i];
        }
    }
}
