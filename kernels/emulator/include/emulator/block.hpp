// One block of CUDA threads as fibers of one CPU thread, and who runs next.
//
// A fiber runs until it must wait. Then the next one that can run is resumed; when none can, work that was left in flight (TMA copies, then
// products of warpgroups) is completed, one piece at a time; when nothing is in flight either, and no thread waits for another block, the block is deadlocked and
// the launch ends with a report of what each thread waits for. So asynchronous work is as late as it may be, which is when a missing wait shows;
// what must be there before a product shows in the order in which products are early.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

constexpr unsigned WARP_LANES = 32;
constexpr unsigned WARPGROUP_THREADS = 128;
constexpr unsigned MAX_THREADS = 1024;
constexpr unsigned NAMED_BARRIERS = 16;
// What a block may have of a multiprocessor of compute capability 9.0: no device gives more.
constexpr size_t SHARED_BYTES = 227 * 1024;
// Each byte of this makes a NaN of a bf16 and of a float, and an index out of any range.
constexpr int POISON = 0xFF;

// Where a thread stands in the kernel's source.
struct Place {
    const char* file;
    int line;
};

// What a fiber waits for. The text is made only when there is a deadlock to report.
struct Wait {
    const char* what = nullptr;
    long long detail = 0;
    Place place = {nullptr, 0};
};

// One CUDA thread.
struct Fiber {
    void* stack_pointer = nullptr;
    dim3 index;
    Wait wait;
    bool done = false;
};

// A barrier of a known number of threads: what is arrived, and who waits.
struct Barrier {
    unsigned arrived = 0;
    std::vector<uint16_t> waiting;
};

// What the lanes of a warp lay down for an operation that they do together.
struct WarpSlot {
    alignas(16) unsigned char bytes[192];
};

struct Warp {
    Barrier barrier;
    const char* operation = nullptr;
    WarpSlot slots[WARP_LANES];
};

// Asynchronous work that touches memory after the instruction that started it.
using Completion = std::function<void()>;

// A copy by cp.async that has not landed: `bytes` from `from`, then zeros up to 16.
struct PendingCopy {
    unsigned char* to;
    const void* from;
    unsigned bytes;
};

// A copy by TMA that has not landed, and the barrier (by its offset in shared memory) that its bytes count on.
struct PendingLoad {
    uint32_t barrier;
    Completion land;
};

// Who runs next of those that can. Forward: the one that has waited longest, so warps go side by side. Backward: the one that became ready
// last, so one warp goes as far as it can before another moves, and blocks run from the last to the first; where they wait for each other,
// several have begun.
enum class Order : unsigned { Forward = 0, Backward = 1 };

// A product by wgmma in flight. `base` is what it is added to, and the sum when it is made; empty, an earlier product in flight gives it.
struct PendingProduct {
    unsigned columns = 0;
    unsigned group = 0;
    float* accumulator = nullptr;
    std::vector<float> base;
    uint64_t left = 0, right = 0;
    uint32_t left_registers[4] = {};
    bool left_in_registers = false, left_transposed = false, right_transposed = false, made = false;
};

struct ProductQueue {
    std::deque<PendingProduct> pending;
    unsigned committed = 0;
    bool fenced = false;
};

// Stores by bulk copies of one thread: those of no group yet, and groups in order.
struct StoreGroups {
    std::vector<Completion> open;
    std::deque<std::vector<Completion>> committed;
};

struct Block {
    dim3 index, grid, size;
    unsigned threads = 0;
    Order order = Order::Forward;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    Barrier barriers[NAMED_BARRIERS];
    unsigned barrier_threads[NAMED_BARRIERS] = {};
    unsigned current = 0;
    unsigned unfinished = 0;
    std::deque<uint16_t> ready;
    std::deque<PendingLoad> in_flight;
    // Fibers that wait for a phase of an mbarrier, by its offset in shared memory.
    std::map<uint32_t, std::vector<uint16_t>> phase_waiters;
    // Fibers that wait for products, which are made when no other thread can go on.
    std::vector<uint16_t> product_waiters;
    // Fibers that wait for other blocks, and how many turns the block has given.
    std::vector<uint16_t> turn_waiters;
    uint64_t progress = 0;
    // By thread: copies by cp.async in groups, products by wgmma, stores by bulk copies. See tensor_core.hpp and hopper.hpp.
    std::vector<std::vector<std::vector<PendingCopy>>> copy_groups;
    std::vector<ProductQueue> products;
    std::vector<StoreGroups> store_groups;
    unsigned char* shared = nullptr;
    // What asynchronous copies and products see of dynamic shared memory: what came by copies, and what threads wrote before a fence.
    unsigned char* published = nullptr;
    size_t dynamic_bytes = 0;
    size_t shared_most = SHARED_BYTES;
    size_t static_bytes = 0;
    std::map<const void*, size_t> static_offsets;
    void* host_stack_pointer = nullptr;
    const std::function<void()>* body = nullptr;
    std::string error;
};

inline thread_local Block* block = nullptr;

extern "C" void osler_emulator_switch(void** from, void* to);

inline unsigned lane() { return block->current % WARP_LANES; }
inline Warp& warp() { return block->warps[block->current / WARP_LANES]; }
inline Fiber& fiber() { return block->fibers[block->current]; }

inline std::string name(dim3 at) {
    return "(" + std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) + ")";
}

// Ends the launch with this message; the fibers are left where they are and never resumed.
[[noreturn]] inline void fail(const std::string& message, Place place = {nullptr, 0}) {
    block->error = "block " + name(block->index) + ", thread " + std::to_string(block->current) + ": " + message;
    if (place.file) block->error += " at " + std::string(place.file) + ":" + std::to_string(place.line);
    void* abandoned;
    osler_emulator_switch(&abandoned, block->host_stack_pointer);
    abort();
}

// What every unfinished thread waits for, like waits together.
inline std::string describe_waits() {
    std::map<std::string, std::vector<unsigned>> waits;
    for (unsigned thread = 0; thread < block->threads; thread++) {
        const Fiber& at = block->fibers[thread];
        if (at.done) {
            waits["have ended"].push_back(thread);
            continue;
        }
        std::string text = std::string("wait for ") + at.wait.what;
        if (at.wait.detail >= 0) text += " " + std::to_string(at.wait.detail);
        if (at.wait.place.file) text += " (" + std::string(at.wait.place.file) + ":" + std::to_string(at.wait.place.line) + ")";
        waits[text].push_back(thread);
    }
    std::string report;
    for (const auto& [text, threads] : waits) {
        report += "; " + std::to_string(threads.size()) + " threads (" + std::to_string(threads.front()) + " to " +
                  std::to_string(threads.back()) + ") " + text;
    }
    return report;
}

// Leaves the running stack, its top into *save, for the next thread that can go on.
inline void resume_next(void** save) {
    Block& at = *block;
    while (at.ready.empty()) {
        // A copy that somebody waits for: all others are later still.
        auto next = std::find_if(at.in_flight.begin(), at.in_flight.end(), [&](const PendingLoad& copy) {
            const auto waiters = at.phase_waiters.find(copy.barrier);
            return waiters != at.phase_waiters.end() && !waiters->second.empty();
        });
        if (next == at.in_flight.end() && !at.product_waiters.empty()) {
            // One warp goes ahead of the others as far as it can.
            const unsigned warp = at.product_waiters.back() / WARP_LANES;
            for (; !at.product_waiters.empty() && at.product_waiters.back() / WARP_LANES == warp; at.product_waiters.pop_back()) {
                at.ready.push_back(at.product_waiters.back());
            }
            continue;
        }
        if (at.in_flight.empty() && !at.turn_waiters.empty()) {
            // Other blocks go on, until one of these threads is resumed.
            osler_emulator_switch(save, at.host_stack_pointer);
            return;
        }
        if (at.in_flight.empty()) {
            at.error = "block " + name(at.index) + ": deadlock" + describe_waits();
            osler_emulator_switch(save, at.host_stack_pointer);
            abort();
        }
        if (next == at.in_flight.end()) next = at.in_flight.begin();
        Completion land = std::move(next->land);
        at.in_flight.erase(next);
        land();
    }
    if (at.order == Order::Forward) {
        at.current = at.ready.front();
        at.ready.pop_front();
    } else {
        at.current = at.ready.back();
        at.ready.pop_back();
    }
    void** next = &at.fibers[at.current].stack_pointer;
    // What landed may have freed the very thread that waits here: it goes on where it is, its saved stack is of an earlier wait.
    if (next != save) osler_emulator_switch(save, *next);
}

// Stops this thread until another makes it ready.
inline void wait(Wait what) {
    Fiber& self = fiber();
    self.wait = what;
    resume_next(&self.stack_pointer);
}

inline void make_ready(std::vector<uint16_t>& waiting) {
    block->ready.insert(block->ready.end(), waiting.begin(), waiting.end());
    waiting.clear();
}

// Counts this thread in; true for the one that completes the barrier, which frees the others.
inline bool arrive(Barrier& barrier, unsigned expected) {
    if (++barrier.arrived < expected) return false;
    barrier.arrived = 0;
    return true;
}

inline void synchronize(Barrier& barrier, unsigned expected, Wait what) {
    if (arrive(barrier, expected)) {
        make_ready(barrier.waiting);
    } else {
        barrier.waiting.push_back(static_cast<uint16_t>(block->current));
        wait(what);
    }
}

// Under a sanitizer, makes memory forbidden or allowed.
inline void protect([[maybe_unused]] void* memory, [[maybe_unused]] size_t bytes, [[maybe_unused]] bool forbidden) {
#if defined(__SANITIZE_ADDRESS__)
    if (forbidden) ASAN_POISON_MEMORY_REGION(memory, bytes);
    else ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
#endif
}

// The offset of `pointer` in the block's shared memory, which is its address on a device; `bytes` must lie in it.
inline uint32_t shared_offset(const void* pointer, size_t bytes, size_t alignment, const char* operation) {
    const auto* at = static_cast<const unsigned char*>(pointer);
    if (at < block->shared || at + bytes > block->shared + block->dynamic_bytes + block->static_bytes) {
        fail(std::string(operation) + ": not in shared memory, or past its end");
    }
    const auto offset = static_cast<uint32_t>(at - block->shared);
    if (offset % alignment != 0) fail(std::string(operation) + ": shared address not aligned to " + std::to_string(alignment));
    return offset;
}

// A static array of the kernel: the same for all threads of the block, poisoned when the first one comes to it.
inline void* static_shared(const void* key, size_t bytes, size_t alignment) {
    auto found = block->static_offsets.find(key);
    if (found == block->static_offsets.end()) {
        size_t start = block->dynamic_bytes + block->static_bytes;
        start = (start + alignment - 1) / alignment * alignment;
        if (start + bytes > block->shared_most) fail("more shared memory than a block may have");
        protect(block->shared + start, bytes, false);
        memset(block->shared + start, POISON, bytes);
        block->static_bytes = start + bytes - block->dynamic_bytes;
        found = block->static_offsets.emplace(key, start).first;
    }
    return block->shared + found->second;
}

}  // namespace emulator
