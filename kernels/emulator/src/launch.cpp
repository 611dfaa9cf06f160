// The stack switch, the loop over blocks, and what the Rust side calls.

#include "emulator.hpp"
#include <memory>
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
        if (!memory) return;
        // What the sanitizer noted about its frames would hold for whatever comes to lie there: another thread's own memory, for one.
        protect(memory, STACK_BYTES * MAX_THREADS, false);
        munmap(memory, STACK_BYTES * MAX_THREADS);
    }
};

// Blocks that may have begun at the same time.
constexpr unsigned RESIDENT = 3;

thread_local Stacks stacks[RESIDENT];

void enter() {
    (*block->body)();
    fiber().done = true;
    void* finished;
    if (--block->unfinished == 0) osler_emulator_switch(&finished, block->host_stack_pointer);
    resume_next(&finished);
    abort();
}

void prepare(Fiber& fiber, unsigned char* top, unsigned at) {
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

// A block that has begun, and its place on the multiprocessor.
struct Resident : Block {
    unsigned seat;

    Resident(const Launch& launch, const std::function<void()>& kernel, unsigned seat) : seat(seat) {
        grid = launch.grid;
        size = dim3{launch.threads, 1, 1};
        threads = launch.threads;
        order = launch.order;
        fibers.resize(threads);
        warps.resize(threads / WARP_LANES);
        copy_groups.resize(threads);
        products.resize(threads);
        store_groups.resize(threads);
        dynamic_bytes = launch.shared_bytes;
        shared_most = std::min(launch.shared_most, SHARED_BYTES);
        shared = static_cast<unsigned char*>(aligned_alloc(1024, SHARED_BYTES + 1024));
        published = static_cast<unsigned char*>(malloc(dynamic_bytes + 1));
        body = &kernel;
    }
    Resident(const Resident&) = delete;
    ~Resident() {
        protect(shared, SHARED_BYTES, false);
        free(shared);
        free(published);
    }

    // Becomes the grid's next block, with no thread begun.
    void begin(uint64_t flat) {
        index.x = static_cast<unsigned>(flat % grid.x);
        index.y = static_cast<unsigned>(flat / grid.x % grid.y);
        index.z = static_cast<unsigned>(flat / grid.x / grid.y);
        protect(shared, SHARED_BYTES, false);
        memset(shared, POISON, dynamic_bytes);
        memset(published, POISON, dynamic_bytes);
        protect(shared + dynamic_bytes, SHARED_BYTES - dynamic_bytes, true);
        static_bytes = 0;
        static_offsets.clear();
        unfinished = threads;
        ready.clear();
        for (unsigned thread = 0; thread < threads; thread++) {
            prepare(fibers[thread], stacks[seat].top(thread), thread);
            ready.push_back(static_cast<uint16_t>(thread));
            copy_groups[thread].clear();
            products[thread] = ProductQueue{};
            store_groups[thread] = StoreGroups{};
        }
        in_flight.clear();
        phase_waiters.clear();
        product_waiters.clear();
        turn_waiters.clear();
        for (Barrier& barrier : barriers) barrier = Barrier{};
        for (Warp& warp : warps) warp.barrier = Barrier{};
    }

    // Until it ends, fails, or waits for other blocks.
    void go_on() {
        block = this;
        make_ready(turn_waiters);
        resume_next(&host_stack_pointer);
        if (error.empty() && unfinished == 0 && !finished(*this).empty()) error = "block " + name(index) + ": ended with " + finished(*this);
        block = nullptr;
    }

    bool ended() const { return unfinished == 0; }
};

std::string check(const Launch& launch) {
    if (launch.threads == 0 || launch.threads > MAX_THREADS || launch.threads % WARP_LANES != 0) {
        return "a block has 32 to 1024 threads, in whole warps";
    }
    const dim3 grid = launch.grid;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535) {
        return "grid " + name(grid) + " is empty or too large";
    }
    if (launch.shared_bytes > std::min(launch.shared_most, SHARED_BYTES)) return "more shared memory than a block may have";
    return "";
}

}  // namespace

std::string run(const Launch& launch, const std::function<void()>& body) {
    std::string error = check(launch);
    if (!error.empty()) return error;
    const uint64_t all = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    const uint64_t blocks = all - all / 2 <= launch.ends ? all : 2 * launch.ends;
    // Of so many blocks, the number in the grid: those past the middle are its last.
    const auto in_grid = [&](uint64_t at) { return at < blocks / 2 ? at : all - blocks + at; };
    const size_t most = launch.order == Order::Forward ? 1 : RESIDENT;
    std::vector<std::unique_ptr<Resident>> begun, ended;
    uint64_t next = 0;
    while (next < blocks || !begun.empty()) {
        bool progress = next < blocks && begun.size() < most;
        if (progress) {
            if (ended.empty()) {
                begun.push_back(std::make_unique<Resident>(launch, body, static_cast<unsigned>(begun.size())));
            } else {
                begun.push_back(std::move(ended.back()));
                ended.pop_back();
            }
            begun.back()->begin(in_grid(launch.order == Order::Forward ? next : blocks - 1 - next));
            next++;
        }
        // The last that has begun goes as far as it can; only where it must wait another moves.
        for (size_t at = begun.size(); at-- > 0;) {
            const uint64_t before = begun[at]->progress;
            begun[at]->go_on();
            if (!begun[at]->error.empty()) return begun[at]->error;
            const bool done = begun[at]->ended(), moved = begun[at]->progress != before;
            if (done) {
                ended.push_back(std::move(begun[at]));
                begun.erase(begun.begin() + static_cast<std::ptrdiff_t>(at));
            }
            progress = progress || done || moved;
            if (done || moved) break;
        }
        if (!progress) {
            block = begun.front().get();
            error = "block " + name(block->index) + ": deadlock of blocks" + describe_waits();
            block = nullptr;
            return error;
        }
    }
    return "";
}

}  // namespace emulator

using emulator::Argument;

// Runs a kernel by name. Gives the length of the error's text, 0 when there is none; the text is cut to `capacity`.
extern "C" size_t osler_emulator_launch(const char* kernel, const uint32_t* grid, uint32_t threads, uint64_t shared_bytes, uint32_t order,
                                        uint64_t ends, uint64_t shared_most, const Argument* arguments, size_t count, char* message, size_t capacity) {
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
        const emulator::Launch launch{{grid[0], grid[1], grid[2]}, threads, shared_bytes, static_cast<emulator::Order>(order), ends, shared_most};
        error = emulator::run(launch, [&] { found->second.call(arguments); });
    }
    if (error.empty()) return 0;
    error = std::string(kernel) + ": " + error;
    const size_t length = std::min(error.size(), capacity);
    memcpy(message, error.data(), length);
    return length;
}
