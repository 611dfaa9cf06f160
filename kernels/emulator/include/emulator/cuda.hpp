// The part of the CUDA language and its built-in functions that kernels here use, for a host compiler.
#pragma once

#include "block.hpp"
#include "launch.hpp"
#include "warp.hpp"
#include <algorithm>
#include <cmath>

#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

#define threadIdx (emulator::fiber().index)
#define blockIdx (emulator::block->index)
#define blockDim (emulator::block->size)
#define gridDim (emulator::block->grid)

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulator::synchronize(emulator::block->barriers[0], emulator::block->threads, {"__syncthreads", -1, {file, line}});
}

// Fences order memory between threads; here every thread sees every store at once.
inline void __threadfence() {}
inline void __threadfence_block() {}

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline unsigned __brev(unsigned value) {
    unsigned reversed = 0;
    for (int bit = 0; bit < 32; bit++) reversed |= (value >> bit & 1) << (31 - bit);
    return reversed;
}

// Blocks share one CPU thread and fibers are not interrupted, so a plain update is atomic.
template <class T, class F>
T atomic_update(T* at, F update) {
    const T old = *at;
    *at = update(old);
    return old;
}
template <class T> T atomicAdd(T* at, T value) { return atomic_update(at, [=](T old) { return T(old + value); }); }
template <class T> T atomicMax(T* at, T value) { return atomic_update(at, [=](T old) { return std::max(old, value); }); }
template <class T> T atomicMin(T* at, T value) { return atomic_update(at, [=](T old) { return std::min(old, value); }); }
template <class T> T atomicExch(T* at, T value) { return atomic_update(at, [=](T) { return value; }); }
template <class T> T atomicOr(T* at, T value) { return atomic_update(at, [=](T old) { return T(old | value); }); }
template <class T> T atomicCAS(T* at, T expected, T value) {
    return atomic_update(at, [=](T old) { return old == expected ? value : old; });
}

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline float __fdividef(float a, float b) { return a / b; }
