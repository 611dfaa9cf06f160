// What the lanes of a warp do together: each lays its operands into its slot, the last to arrive turns all slots into results.
#pragma once

#include "block.hpp"

namespace emulator {

constexpr unsigned FULL_WARP = 0xFFFFFFFFu;

// `operands` becomes what `combine` makes of it, which sees the slots of all 32 lanes. One meeting is enough: a lane's slot is written
// again only by itself, after it has read its result.
template <class T, class F>
void together(const char* operation, T& operands, const F& combine) {
    static_assert(sizeof(T) <= sizeof(WarpSlot));
    Warp& mine = warp();
    if (mine.barrier.arrived == 0) mine.operation = operation;
    // Names are string literals: the same operation may stand at several addresses, so the texts are compared.
    else if (mine.operation != operation && strcmp(mine.operation, operation) != 0) {
        fail(std::string("lanes of one warp do different things together: ") + mine.operation + " and " + operation);
    }
    WarpSlot* slots = mine.slots;
    T* own = reinterpret_cast<T*>(slots[lane()].bytes);
    memcpy(static_cast<void*>(own), &operands, sizeof(T));
    if (arrive(mine.barrier, WARP_LANES)) {
        combine([slots](unsigned at) -> T& { return *reinterpret_cast<T*>(slots[at].bytes); });
        make_ready(mine.barrier.waiting);
    } else {
        mine.barrier.waiting.push_back(static_cast<uint16_t>(block->current));
        wait({operation, -1, {nullptr, 0}});
    }
    memcpy(static_cast<void*>(&operands), own, sizeof(T));
}

inline void expect_full(unsigned mask) {
    if (mask != FULL_WARP) fail("only whole warps: the mask must be 0xffffffff");
}

template <class T>
struct Exchange {
    T value;
    unsigned from;
};

// Each lane reads the value of the lane `from`.
template <class T>
T exchange(unsigned mask, const char* operation, T value, unsigned from) {
    expect_full(mask);
    Exchange<T> operands{value, from};
    together(operation, operands, [](auto slot) {
        T values[WARP_LANES];
        for (unsigned at = 0; at < WARP_LANES; at++) values[at] = slot(at).value;
        for (unsigned at = 0; at < WARP_LANES; at++) slot(at).value = values[slot(at).from % WARP_LANES];
    });
    return operands.value;
}

}  // namespace emulator

inline void __syncwarp(unsigned mask = emulator::FULL_WARP) {
    emulator::expect_full(mask);
    unsigned nothing = 0;
    emulator::together("__syncwarp", nothing, [](auto) {});
}

// Lanes outside the segment of `width` read their own value, as on a device.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    const unsigned start = emulator::lane() / width * width;
    return emulator::exchange(mask, "__shfl_sync", value, start + static_cast<unsigned>(from) % width);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    const unsigned lane = emulator::lane(), from = lane ^ static_cast<unsigned>(bits);
    return emulator::exchange(mask, "__shfl_xor_sync", value, from / width <= lane / width ? from : lane);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = emulator::lane();
    return emulator::exchange(mask, "__shfl_up_sync", value, lane % width >= distance ? lane - distance : lane);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32) {
    const unsigned lane = emulator::lane();
    return emulator::exchange(mask, "__shfl_down_sync", value, lane % width + distance < unsigned(width) ? lane + distance : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
    emulator::expect_full(mask);
    unsigned vote = predicate != 0;
    emulator::together("__ballot_sync", vote, [](auto slot) {
        unsigned ballot = 0;
        for (unsigned at = 0; at < 32; at++) ballot |= slot(at) << at;
        for (unsigned at = 0; at < 32; at++) slot(at) = ballot;
    });
    return vote;
}

inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == emulator::FULL_WARP; }

inline unsigned __match_any_sync(unsigned mask, unsigned value) {
    emulator::expect_full(mask);
    emulator::together("__match_any_sync", value, [](auto slot) {
        unsigned values[32];
        for (unsigned at = 0; at < 32; at++) values[at] = slot(at);
        for (unsigned at = 0; at < 32; at++) {
            unsigned same = 0;
            for (unsigned other = 0; other < 32; other++) same |= unsigned(values[other] == values[at]) << other;
            slot(at) = same;
        }
    });
    return value;
}
