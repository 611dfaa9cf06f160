// The stack switch, the loop over blocks, and what the Rust side calls.

#include "emulator.hpp"
#include <sys/mman.h>

#if !defined(__x86_64__)
#error "osler-emulator switches stacks in x86-64 assembly: build and test it on an x86-64 machine"
#endif
#if !defined(__cpp_lib_bit_cast) && __cplusplus < 202002L
#error "osler-emulator needs a C++20 compiler, such as g++ 10 or clang 12"
#endif

// Saves what the calling convention preserves, exchanges stacks, restores. Address of the old stack's top into *from.
asm(R"(
.text
.globl osler_emulator_switch
.type osler_emulator_switch, @function
osler_emulator_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size osler_emulator_switch, . - osler_emulator_switch
)");

namespace emulator {
namespace {

constexpr size_t STACK_BYTES = 256 * 1024;
constexpr size_t GUARD_BYTES = 4096;

// Stacks of one CPU thread's fibers, kept between launches. Below each lies a page that cannot be touched.
struct Stacks {
    unsigned char* memory = nullptr;

    unsigned char* top(unsigned fiber) {
        if (!memory) {
            const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            void* mapped = mmap(nullptr, STACK_BYTES * MAX_THREADS, PROT_READ | PROT_WRITE, flags, -1, 0);
            if (mapped == MAP_FAILED) abort();
            memory = static_cast<unsigned char*>(mapped);
            for (unsigned at = 0; at < MAX_THREADS; at++) mprotect(memory + STACK_BYTES * at, GUARD_BYTES, PROT_NONE);
        }
        return memory + STACK_BYTES * (fiber + 1);
    }

    ~Stacks() {
        if (memory) munmap(memory, STACK_BYTES * MAX_THREADS);
    }
};

thread_local Stacks stacks;

void enter() {
    (*block->body)();
    fiber().done = true;
    void* finished;
    if (--block->unfinished == 0) osler_emulator_switch(&finished, block->host_stack_pointer);
    resume_next(&finished);
    abort();
}

void prepare(unsigned at) {
    Fiber& fiber = block->fibers[at];
    unsigned char* top = stacks.top(at);
    // Frames of an earlier block may never have returned: forget what the sanitizer noted about them.
    protect(top - STACK_BYTES + GUARD_BYTES, STACK_BYTES - GUARD_BYTES, false);
    // As if `enter` had been called: a return address that is never used, its own address, six saved registers.
    void** stack = reinterpret_cast<void**>(top - 64);
    *--stack = nullptr;
    *--stack = reinterpret_cast<void*>(&enter);
    for (int saved = 0; saved < 6; saved++) *--stack = nullptr;
    fiber = Fiber{};
    fiber.stack_pointer = stack;
    fiber.index = dim3{at, 0, 0};
}

// What a block that ended has left undone, or nothing.
std::string finished(const Block& at) {
    for (const Barrier& barrier : at.barriers) {
        if (barrier.arrived != 0) return "threads arrived at a barrier that others did not come to";
    }
    if (!at.in_flight.empty()) return "tensor copies in flight";
    for (unsigned thread = 0; thread < at.threads; thread++) {
        for (const auto& group : at.copy_groups[thread]) {
            if (!group.empty()) return "copies by cp.async that nobody waited for";
        }
        if (!at.products[thread].pending.empty()) return "products by wgmma that nobody waited for";
        const StoreGroups& stores = at.store_groups[thread];
        if (!stores.open.empty() || !stores.committed.empty()) return "bulk stores that nobody waited for";
    }
    return "";
}

void run_block(Block& at) {
    protect(at.shared, SHARED_BYTES, false);
    memset(at.shared, POISON, at.dynamic_bytes);
    memset(at.published, POISON, at.dynamic_bytes);
    protect(at.shared + at.dynamic_bytes, SHARED_BYTES - at.dynamic_bytes, true);
    at.static_bytes = 0;
    at.static_offsets.clear();
    at.unfinished = at.threads;
    at.ready.clear();
    for (unsigned thread = 0; thread < at.threads; thread++) {
        prepare(thread);
        at.ready.push_back(static_cast<uint16_t>(thread));
        at.copy_groups[thread].clear();
        at.products[thread] = ProductQueue{};
        at.store_groups[thread] = StoreGroups{};
    }
    at.in_flight.clear();
    at.phase_waiters.clear();
    for (Barrier& barrier : at.barriers) barrier = Barrier{};
    for (Warp& warp : at.warps) warp.barrier = Barrier{};
    resume_next(&at.host_stack_pointer);
    if (at.error.empty() && !finished(at).empty()) at.error = "block " + name(at.index) + ": ended with " + finished(at);
}

std::string check(const Launch& launch) {
    if (launch.threads == 0 || launch.threads > MAX_THREADS || launch.threads % WARP_LANES != 0) {
        return "a block has 32 to 1024 threads, in whole warps";
    }
    const dim3 grid = launch.grid;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) {
        return "grid " + name(grid) + " is empty or too large";
    }
    if (launch.shared_bytes > SHARED_BYTES) return "more shared memory than a block may have";
    return "";
}

}  // namespace

std::string run(const Launch& launch, const std::function<void()>& body) {
    std::string error = check(launch);
    if (!error.empty()) return error;
    Block at;
    at.grid = launch.grid;
    at.size = dim3{launch.threads, 1, 1};
    at.threads = launch.threads;
    at.order = launch.order;
    at.fibers.resize(launch.threads);
    at.warps.resize(launch.threads / WARP_LANES);
    at.copy_groups.resize(launch.threads);
    at.products.resize(launch.threads);
    at.store_groups.resize(launch.threads);
    at.dynamic_bytes = launch.shared_bytes;
    at.shared = static_cast<unsigned char*>(aligned_alloc(1024, SHARED_BYTES + 1024));
    at.published = static_cast<unsigned char*>(malloc(at.dynamic_bytes + 1));
    at.body = &body;
    block = &at;
    const uint64_t blocks = uint64_t(at.grid.x) * at.grid.y * at.grid.z;
    for (uint64_t step = 0; step < blocks && at.error.empty(); step++) {
        const uint64_t flat = at.order == Order::Forward ? step : blocks - 1 - step;
        at.index.x = static_cast<unsigned>(flat % at.grid.x);
        at.index.y = static_cast<unsigned>(flat / at.grid.x % at.grid.y);
        at.index.z = static_cast<unsigned>(flat / at.grid.x / at.grid.y);
        run_block(at);
    }
    protect(at.shared, SHARED_BYTES, false);
    free(at.shared);
    free(at.published);
    block = nullptr;
    return at.error;
}

}  // namespace emulator

using emulator::Argument;

// Runs a kernel by name. Gives the length of the error's text, 0 when there is none; the text is cut to `capacity`.
extern "C" size_t osler_emulator_launch(const char* kernel, const uint32_t* grid, uint32_t threads, uint64_t shared_bytes, uint32_t order,
                                        const Argument* arguments, size_t count, char* message, size_t capacity) {
    std::string error;
    const auto found = emulator::kernels().find(kernel);
    if (found == emulator::kernels().end()) {
        error = "no such kernel";
    } else if (found->second.threads < threads) {
        error = "the kernel is compiled for at most " + std::to_string(found->second.threads) + " threads";
    } else if (found->second.parameters.size() != count) {
        error = "the kernel has " + std::to_string(found->second.parameters.size()) + " parameters, given " + std::to_string(count);
    } else {
        for (size_t at = 0; at < count; at++) {
            if (found->second.parameters[at] != arguments[at].kind) error = "argument " + std::to_string(at) + " is of another kind";
        }
    }
    if (error.empty()) {
        const emulator::Launch launch{{grid[0], grid[1], grid[2]}, threads, shared_bytes, static_cast<emulator::Order>(order)};
        error = emulator::run(launch, [&] { found->second.call(arguments); });
    }
    if (error.empty()) return 0;
    error = std::string(kernel) + ": " + error;
    const size_t length = std::min(error.size(), capacity);
    memcpy(message, error.data(), length);
    return length;
}
