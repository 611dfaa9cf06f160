// Warp-level matrix instructions and asynchronous copies (sm_80), as the PTX manual describes them: the emulator's bodies of the
// wrappers in kernels/cuda/ptx.cuh.
#pragma once

#include "cuda.hpp"

inline float bf16_to_float(uint16_t value) { return __uint_as_float(uint32_t(value) << 16); }

// To nearest, ties to even; a NaN stays one.
inline uint16_t float_to_bf16(float value) {
    const uint32_t bits = __float_as_uint(value);
    if (value != value) return 0x7FFF;
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline uint32_t pack_bf16(float low, float high) { return float_to_bf16(low) | uint32_t(float_to_bf16(high)) << 16; }

inline void store_for_host(uint64_t* to, uint64_t value) { *to = value; }
inline float exp2_fast(float x) { return std::exp2(x); }
inline float log2_fast(float x) { return std::log2(x); }
inline float sqrt_fast(float x) { return std::sqrt(x); }
inline float divide_fast(float above, float below) { return above / below; }

inline void barrier_sync(unsigned id, unsigned threads, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (id >= emulator::NAMED_BARRIERS || threads % 32 != 0) emulator::fail("no such named barrier", {file, line});
    emulator::synchronize(emulator::block->barriers[id], threads, {"named barrier", id, {file, line}});
}

// Counts this thread in without waiting.
inline void barrier_arrive(unsigned id, unsigned threads) {
    if (id >= emulator::NAMED_BARRIERS || threads % 32 != 0) emulator::fail("no such named barrier");
    emulator::Barrier& barrier = emulator::block->barriers[id];
    if (emulator::arrive(barrier, threads)) emulator::make_ready(barrier.waiting);
}

namespace emulator {

inline float element(const uint32_t* registers, unsigned at) {
    return bf16_to_float(static_cast<uint16_t>(registers[at / 2] >> (16 * (at % 2))));
}

struct ProductOperands {
    float accumulator[4];
    uint32_t left[4], right[2];
};

// PTX, "Matrix fragments for mma.m16n8k16": lane = 4 * group + member. Left register r holds row group + 8 (r % 2), columns
// 2 member + 8 (r / 2) and the next; right register r holds rows 2 member + 8 r and the next of column group; accumulator i holds row
// group + 8 (i / 2), column 2 member + i % 2.
template <class Slots>
void multiply_fragments(Slots slot) {
    float left[16][16], right[16][8], sum[16][8];
    for (unsigned at = 0; at < 32; at++) {
        const ProductOperands& operands = slot(at);
        const unsigned group = at / 4, member = at % 4;
        for (unsigned i = 0; i < 8; i++) {
            left[group + 8 * (i / 2 % 2)][2 * member + i % 2 + 8 * (i / 4)] = element(operands.left, i);
        }
        for (unsigned i = 0; i < 4; i++) right[2 * member + i % 2 + 8 * (i / 2)][group] = element(operands.right, i);
        for (unsigned i = 0; i < 4; i++) sum[group + 8 * (i / 2)][2 * member + i % 2] = operands.accumulator[i];
    }
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned inner = 0; inner < 16; inner++) {
            for (unsigned column = 0; column < 8; column++) sum[row][column] += left[row][inner] * right[inner][column];
        }
    }
    for (unsigned at = 0; at < 32; at++) {
        for (unsigned i = 0; i < 4; i++) slot(at).accumulator[i] = sum[at / 4 + 8 * (i / 2)][2 * (at % 4) + i % 2];
    }
}

struct MatrixAddress {
    uint32_t offset;
    uint32_t loaded[4];
};

// Lanes 8 m to 8 m + 7 give the rows of 8x8 matrix m; lane l gets row l / 4, columns 2 (l % 4) and the next, of each; transposed, the
// other way round.
template <unsigned MATRICES, bool TRANSPOSED>
void load_matrices(const void* row, uint32_t* loaded) {
    MatrixAddress operands{shared_offset(row, 16, 16, "ldmatrix"), {}};
    together(TRANSPOSED ? "ldmatrix.trans" : "ldmatrix", operands, [](auto slot) {
        uint16_t matrices[MATRICES][8][8];
        for (unsigned at = 0; at < 8 * MATRICES; at++) memcpy(matrices[at / 8][at % 8], block->shared + slot(at).offset, 16);
        for (unsigned at = 0; at < 32; at++) {
            const unsigned major = at / 4, minor = 2 * (at % 4);
            for (unsigned matrix = 0; matrix < MATRICES; matrix++) {
                const auto& from = matrices[matrix];
                const uint16_t low = TRANSPOSED ? from[minor][major] : from[major][minor];
                const uint16_t high = TRANSPOSED ? from[minor + 1][major] : from[major][minor + 1];
                slot(at).loaded[matrix] = low | uint32_t(high) << 16;
            }
        }
    });
    memcpy(loaded, operands.loaded, 4 * MATRICES);
}

struct MatrixStore {
    uint32_t offset;
    uint32_t stored[4];
};

template <unsigned MATRICES>
void store_matrices(void* row, const uint32_t* stored) {
    MatrixStore operands{shared_offset(row, 16, 16, "stmatrix"), {}};
    memcpy(operands.stored, stored, 4 * MATRICES);
    together("stmatrix", operands, [](auto slot) {
        for (unsigned at = 0; at < 32; at++) {
            for (unsigned matrix = 0; matrix < MATRICES; matrix++) {
                unsigned char* to = block->shared + slot(8 * matrix + at / 4).offset + 4 * (at % 4);
                memcpy(to, &slot(at).stored[matrix], 4);
            }
        }
    });
}

}  // namespace emulator

inline void mma_m16n8k16(float (&accumulator)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
    emulator::ProductOperands operands;
    memcpy(operands.accumulator, accumulator, 16);
    memcpy(operands.left, left, 16);
    memcpy(operands.right, right, 8);
    emulator::together("mma", operands, [](auto slot) { emulator::multiply_fragments(slot); });
    memcpy(accumulator, operands.accumulator, 16);
}

inline void ldmatrix_x1(uint32_t& loaded, const void* row) { emulator::load_matrices<1, false>(row, &loaded); }
inline void ldmatrix_x2(uint32_t (&loaded)[2], const void* row) { emulator::load_matrices<2, false>(row, loaded); }
inline void ldmatrix_x4(uint32_t (&loaded)[4], const void* row) { emulator::load_matrices<4, false>(row, loaded); }
inline void ldmatrix_x1_transposed(uint32_t& loaded, const void* row) { emulator::load_matrices<1, true>(row, &loaded); }
inline void ldmatrix_x2_transposed(uint32_t (&loaded)[2], const void* row) { emulator::load_matrices<2, true>(row, loaded); }
inline void ldmatrix_x4_transposed(uint32_t (&loaded)[4], const void* row) { emulator::load_matrices<4, true>(row, loaded); }
inline void stmatrix_x4(void* row, const uint32_t (&stored)[4]) { emulator::store_matrices<4>(row, stored); }
inline void stmatrix_x2(void* row, const uint32_t (&stored)[2]) { emulator::store_matrices<2>(row, stored); }

// The target is poisoned now; the bytes are read and written when a wait asks for them.
inline void cp_async_16(void* to, const void* from, unsigned bytes = 16) {
    emulator::shared_offset(to, 16, 16, "cp.async");
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0) emulator::fail("cp.async: global address not aligned to 16");
    if (bytes > 16) emulator::fail("cp.async: more than 16 bytes");
    memset(to, emulator::POISON, 16);
    auto& groups = emulator::block->copy_groups[emulator::block->current];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({static_cast<unsigned char*>(to), from, bytes});
}

inline void cp_async_commit() {
    auto& groups = emulator::block->copy_groups[emulator::block->current];
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
}

// The last entry holds what no group has taken yet.
template <unsigned PENDING>
void cp_async_wait() {
    auto& groups = emulator::block->copy_groups[emulator::block->current];
    while (groups.size() > PENDING + 1) {
        for (const emulator::PendingCopy& copy : groups.front()) {
            memcpy(copy.to, copy.from, copy.bytes);
            memset(copy.to + copy.bytes, 0, 16 - copy.bytes);
        }
        groups.erase(groups.begin());
    }
}
