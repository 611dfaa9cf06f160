// Hopper's asynchronous instructions (sm_90a): barriers in shared memory, bulk copies of tensors, and products of warpgroups. The
// emulator's bodies of the wrappers in kernels/cuda/ptx_hopper.cuh.
//
// What is in flight is poison until it is waited for: a copy lands when no thread can go on without it, a product is made, from what shared
// memory then holds, when its group is waited for and no other thread can go on, or, in the backward order, when the warp waits for any
// group. Neither sees what threads wrote there before a fence.proxy.async; whose fence it is makes no difference here, though it does on a
// device.
#pragma once

#include "tensor_core.hpp"

// A row-major bf16 matrix and the box of it that one copy moves, as the Rust side lays it out for the emulator.
struct TensorMap {
    uint64_t address, rows, columns, row_bytes;
    uint32_t box_rows, box_columns;
    uint64_t unused[11];
};
static_assert(sizeof(TensorMap) == 128);

#define TENSOR_MAP(name) const TensorMap name

namespace emulator {

// The 128-byte swizzle: bits 4 to 6 of an address are exchanged by bits 7 to 9.
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// An mbarrier's 64 bits.
struct Phase {
    int32_t bytes;
    uint16_t pending;
    uint16_t count_and_parity;
};
static_assert(sizeof(Phase) == 8);

inline Phase& phase_of(uint64_t* barrier, const char* operation) {
    shared_offset(barrier, 8, 8, operation);
    Phase& phase = *reinterpret_cast<Phase*>(barrier);
    if (*barrier == ~uint64_t(0)) fail(std::string(operation) + ": the barrier is not initialised");
    return phase;
}

// Ends the phase when all have arrived and all bytes are there.
inline void settle(Phase& phase, uint32_t offset) {
    if (phase.pending != 0 || phase.bytes != 0) return;
    phase.count_and_parity ^= 1;
    phase.pending = phase.count_and_parity >> 1;
    auto waiters = block->phase_waiters.find(offset);
    if (waiters != block->phase_waiters.end()) make_ready(waiters->second);
}

inline void arrive(uint64_t* barrier, const char* operation, unsigned bytes) {
    Phase& phase = phase_of(barrier, operation);
    if (phase.pending == 0) fail(std::string(operation) + ": more arrivals than the barrier counts");
    phase.bytes += static_cast<int32_t>(bytes);
    phase.pending--;
    settle(phase, shared_offset(barrier, 8, 8, operation));
}

// Where copies and products read what lies at `offset` in shared memory.
inline const unsigned char* async_view(uint32_t offset) {
    return (offset < block->dynamic_bytes ? block->published : block->shared) + offset;
}

// Row `row`, column `column` of a box at `offset` in shared memory; rows are 128 bytes.
inline uint32_t box_element(uint32_t offset, uint32_t row, uint32_t column) { return swizzled(offset + row * 128 + column * 2); }

// What comes by a copy is seen by threads and by what is asynchronous.
inline void land(uint32_t offset, const void* from, size_t bytes) {
    memcpy(block->shared + offset, from, bytes);
    if (offset < block->dynamic_bytes) memcpy(block->published + offset, from, bytes);
}

inline void check_box(const TensorMap& map, const void* shared, const char* operation) {
    if (map.box_columns != 64) fail(std::string(operation) + ": a box is 64 columns, 128 bytes, wide");
    if (map.box_rows == 0 || map.box_rows > 256) fail(std::string(operation) + ": a box has 1 to 256 rows");
    shared_offset(shared, size_t(map.box_rows) * 128, 1024, operation);
}

// What of the box lies in the matrix, between shared memory and the matrix. `use` gets a shared element's offset and the global one, or none.
template <class F>
void each_element(const TensorMap& map, uint32_t offset, int first_column, int first_row, const F& use) {
    for (uint32_t row = 0; row < map.box_rows; row++) {
        for (uint32_t column = 0; column < map.box_columns; column++) {
            const int64_t at_row = int64_t(first_row) + row, at_column = int64_t(first_column) + column;
            const bool inside = at_row >= 0 && at_column >= 0 && uint64_t(at_row) < map.rows && uint64_t(at_column) < map.columns;
            auto* global = reinterpret_cast<uint16_t*>(map.address + at_row * map.row_bytes + at_column * 2);
            use(box_element(offset, row, column), inside ? global : nullptr);
        }
    }
}

}  // namespace emulator

inline void mbarrier_init(uint64_t* barrier, unsigned arrivals) {
    emulator::shared_offset(barrier, 8, 8, "mbarrier.init");
    const emulator::Phase phase{0, static_cast<uint16_t>(arrivals), static_cast<uint16_t>(arrivals << 1)};
    memcpy(barrier, &phase, 8);
}

inline void mbarrier_arrive(uint64_t* barrier) { emulator::arrive(barrier, "mbarrier.arrive", 0); }
inline void mbarrier_arrive_expect(uint64_t* barrier, unsigned bytes) { emulator::arrive(barrier, "mbarrier.arrive.expect_tx", bytes); }

// Until the phase of this parity has ended.
inline void mbarrier_wait(uint64_t* barrier, unsigned parity, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const emulator::Phase& phase = emulator::phase_of(barrier, "mbarrier.try_wait");
    const uint32_t offset = emulator::shared_offset(barrier, 8, 8, "mbarrier.try_wait");
    while ((phase.count_and_parity & 1) == parity) {
        emulator::block->phase_waiters[offset].push_back(static_cast<uint16_t>(emulator::block->current));
        emulator::wait({"the mbarrier at shared address", offset, {file, line}});
    }
}

inline void fence_mbarrier_init() {}
inline void fence_proxy_async() { memcpy(emulator::block->published, emulator::block->shared, emulator::block->dynamic_bytes); }

inline void tma_load(void* to, const TensorMap* map, uint64_t* barrier, int column, int row) {
    emulator::check_box(*map, to, "tma load");
    const uint32_t bytes = map->box_rows * 128, offset = emulator::shared_offset(to, bytes, 1024, "tma load");
    const std::vector<unsigned char> poison(bytes, emulator::POISON);
    emulator::land(offset, poison.data(), bytes);
    // The map is copied: a kernel's parameter ends with the thread that issued the copy.
    const uint32_t barrier_offset = emulator::shared_offset(barrier, 8, 8, "tma load");
    emulator::block->in_flight.push_back({barrier_offset, [map = *map, offset, barrier, barrier_offset, column, row, bytes] {
        emulator::each_element(map, offset, column, row, [](uint32_t shared, const uint16_t* global) {
            const uint16_t value = global ? *global : 0;
            emulator::land(shared, &value, 2);
        });
        emulator::Phase& phase = *reinterpret_cast<emulator::Phase*>(barrier);
        phase.bytes -= static_cast<int32_t>(bytes);
        emulator::settle(phase, barrier_offset);
    }});
}

// Stores are made when their group is waited for, from what shared memory then holds.
inline void tma_store(const TensorMap* map, const void* from, int column, int row) {
    emulator::check_box(*map, from, "tma store");
    const uint32_t offset = emulator::shared_offset(from, map->box_rows * 128, 1024, "tma store");
    emulator::block->store_groups[emulator::block->current].open.push_back([map = *map, offset, column, row] {
        emulator::each_element(map, offset, column, row, [](uint32_t shared, uint16_t* global) {
            if (global) memcpy(global, emulator::async_view(shared), 2);
        });
    });
}

// to[i] += from[i] for `bytes` of floats.
inline void bulk_reduce_add(float* to, const float* from, unsigned bytes) {
    const uint32_t offset = emulator::shared_offset(from, bytes, 16, "bulk reduce");
    if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0) emulator::fail("bulk reduce: not in whole 16 bytes");
    emulator::block->store_groups[emulator::block->current].open.push_back([to, offset, bytes] {
        for (unsigned at = 0; at < bytes / 4; at++) {
            float value;
            memcpy(&value, emulator::async_view(offset + 4 * at), 4);
            to[at] += value;
        }
    });
}

// to[i] = from[i] for so many bytes.
inline void bulk_store(float* to, const float* from, unsigned bytes) {
    const uint32_t offset = emulator::shared_offset(from, bytes, 16, "bulk store");
    if (bytes % 16 != 0 || reinterpret_cast<uintptr_t>(to) % 16 != 0) emulator::fail("bulk store: not in whole 16 bytes");
    emulator::block->store_groups[emulator::block->current].open.push_back(
        [to, offset, bytes] { memcpy(to, emulator::async_view(offset), bytes); });
}

inline void bulk_commit() {
    auto& groups = emulator::block->store_groups[emulator::block->current];
    groups.committed.push_back(std::move(groups.open));
    groups.open.clear();
}

template <unsigned PENDING>
void bulk_wait() {
    auto& committed = emulator::block->store_groups[emulator::block->current].committed;
    while (committed.size() > PENDING) {
        for (const emulator::Completion& store : committed.front()) store();
        committed.pop_front();
    }
}

namespace emulator {

// Lets other blocks go on.
inline void pause(Wait what) {
    block->turn_waiters.push_back(static_cast<uint16_t>(block->current));
    wait(what);
}

}  // namespace emulator

// Until `turn` blocks have had theirs.
inline void wait_for_turn(const uint32_t* turns, uint32_t turn, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    while (*turns != turn) emulator::pause({"the turn after so many:", turn, {file, line}});
}

// In the backward order the last block that has begun goes on first then.
inline void give_turn(uint32_t* turns, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const emulator::StoreGroups& stores = emulator::block->store_groups[emulator::block->current];
    if (!stores.open.empty() || !stores.committed.empty()) emulator::fail("a turn is given while bulk stores are in flight");
    ++*turns;
    emulator::block->progress++;
    if (emulator::block->order == emulator::Order::Backward) emulator::pause({"other blocks", -1, {file, line}});
}

template <unsigned REGISTERS> void registers_increase() {}
template <unsigned REGISTERS> void registers_decrease() {}

// The address of a tile, and its offsets between groups of eight rows (`stride`) and, where columns are contiguous, between blocks of 64
// columns (`leading`), for products: 128-byte swizzle.
inline uint64_t product_descriptor(const void* tile, uint32_t leading, uint32_t stride) {
    const uint64_t address = emulator::shared_offset(tile, 1, 16, "wgmma descriptor");
    return address >> 4 | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | uint64_t(1) << 62;
}

namespace emulator {

// Row or column `major` (of the output), place `inner` of the sum, of an operand in shared memory. PTX, "Shared memory matrix layout":
// rows of 128 bytes in groups of eight; those of one group follow each other, and `contiguous` says what runs along them.
inline float operand(uint64_t descriptor, unsigned major, unsigned inner, bool major_contiguous) {
    const uint32_t start = uint32_t(descriptor & 0x3FFF) * 16;
    const uint32_t leading = uint32_t(descriptor >> 16 & 0x3FFF) * 16, stride = uint32_t(descriptor >> 32 & 0x3FFF) * 16;
    const uint32_t offset = major_contiguous ? major / 64 * leading + inner / 8 * stride + inner % 8 * 128 + major % 64 * 2
                                             : major / 8 * stride + major % 8 * 128 + inner * 2;
    const uint32_t address = swizzled(start + offset);
    if (address + 2 > block->dynamic_bytes + block->static_bytes) fail("wgmma: reads past the end of shared memory");
    uint16_t value;
    memcpy(&value, async_view(address), 2);
    return bf16_to_float(value);
}

inline void poison(float* numbers, size_t count) { memset(static_cast<void*>(numbers), POISON, count * sizeof(float)); }

inline bool is_poison(const float* numbers, size_t count) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(numbers);
    return std::all_of(bytes, bytes + count * sizeof(float), [](unsigned char byte) { return byte == POISON; });
}

// The sixteen rows of `slot`'s warp, from the products at the front of its lanes' queues.
inline void make_product(const std::vector<PendingProduct*>& lanes) {
    const PendingProduct& first = *lanes[0];
    const unsigned columns = first.columns, warp_row = block->current / WARP_LANES % 4 * 16;
    std::vector<float> right(16 * columns), sum(16 * columns);
    float left[16][16];
    for (unsigned inner = 0; inner < 16; inner++) {
        for (unsigned at = 0; at < columns; at++) right[inner * columns + at] = operand(first.right, at, inner, first.right_transposed);
    }
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        const PendingProduct& product = *lanes[lane];
        for (unsigned i = 0; i < columns / 2; i++) {
            sum[(lane / 4 + 8 * (i / 2 % 2)) * columns + 8 * (i / 4) + lane % 4 * 2 + i % 2] = product.base[i];
        }
        for (unsigned i = 0; i < 8 && product.left_in_registers; i++) {
            left[lane / 4 + 8 * (i / 2 % 2)][lane % 4 * 2 + i % 2 + 8 * (i / 4)] = element(product.left_registers, i);
        }
    }
    for (unsigned row = 0; row < 16; row++) {
        for (unsigned inner = 0; inner < 16; inner++) {
            const float factor =
                first.left_in_registers ? left[row][inner] : operand(first.left, warp_row + row, inner, first.left_transposed);
            for (unsigned at = 0; at < columns; at++) sum[row * columns + at] += factor * right[inner * columns + at];
        }
    }
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        for (unsigned i = 0; i < columns / 2; i++) {
            lanes[lane]->base[i] = sum[(lane / 4 + 8 * (i / 2 % 2)) * columns + 8 * (i / 4) + lane % 4 * 2 + i % 2];
        }
    }
}

// The warp's products at place `at` of its lanes' queues, once.
inline void make_products(ProductQueue* queues, size_t at) {
    std::vector<PendingProduct*> lanes;
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        if (queues[lane].pending.size() <= at) fail("wgmma: lanes of one warp have started different products");
        lanes.push_back(&queues[lane].pending[at]);
    }
    if (lanes[0]->made) return;
    for (unsigned lane = 0; lane < WARP_LANES; lane++) {
        // The one before that adds to the same accumulator is made.
        for (size_t before = at; lanes[lane]->base.empty() && before-- > 0;) {
            const PendingProduct& earlier = queues[lane].pending[before];
            if (earlier.accumulator == lanes[lane]->accumulator) lanes[lane]->base = earlier.base;
        }
    }
    make_product(lanes);
    for (PendingProduct* product : lanes) product->made = true;
}

// Hands a finished product on: to the next one that adds to the same accumulator, or into the accumulator.
inline void finish_product(ProductQueue& queue) {
    PendingProduct done = std::move(queue.pending.front());
    queue.pending.pop_front();
    if (!is_poison(done.accumulator, done.columns / 2)) fail("wgmma: an accumulator was written while its product was in flight");
    for (PendingProduct& next : queue.pending) {
        if (next.accumulator != done.accumulator) continue;
        if (next.base.empty()) next.base = std::move(done.base);
        return;
    }
    memcpy(done.accumulator, done.base.data(), done.columns / 2 * sizeof(float));
}

inline void start_product(PendingProduct product, bool accumulate) {
    ProductQueue& queue = block->products[block->current];
    if (!queue.fenced) fail("wgmma without a wgmma.fence since the last wait");
    product.group = queue.committed;
    bool chained = false;
    for (const PendingProduct& earlier : queue.pending) chained = chained || earlier.accumulator == product.accumulator;
    // An empty base is filled by the earlier product to the same accumulator.
    if (!accumulate) product.base.assign(product.columns / 2, 0.0f);
    else if (!chained) product.base.assign(product.accumulator, product.accumulator + product.columns / 2);
    poison(product.accumulator, product.columns / 2);
    queue.pending.push_back(std::move(product));
}

}  // namespace emulator

inline void wgmma_fence() { emulator::block->products[emulator::block->current].fenced = true; }
inline void wgmma_commit() { emulator::block->products[emulator::block->current].committed++; }

// Makes the products of all groups but the last PENDING, a warp's lanes together.
template <unsigned PENDING>
void wgmma_wait() {
    using namespace emulator;
    unsigned pending = PENDING;
    const ProductQueue& own = block->products[block->current];
    // As late as they may be, or, in the backward order, as early.
    if (block->order == Order::Forward && !own.pending.empty() && own.pending.front().group + PENDING < own.committed) {
        block->product_waiters.push_back(static_cast<uint16_t>(block->current));
        wait({"products", -1, {nullptr, 0}});
    }
    together("wgmma.wait_group", pending, [](auto) {
        const unsigned first_thread = block->current / WARP_LANES * WARP_LANES;
        ProductQueue* queues = &block->products[first_thread];
        for (size_t at = 0; block->order == Order::Backward && at < queues[0].pending.size(); at++) make_products(queues, at);
        while (!queues[0].pending.empty() && queues[0].pending.front().group + PENDING < queues[0].committed) {
            make_products(queues, 0);
            for (unsigned lane = 0; lane < WARP_LANES; lane++) finish_product(queues[lane]);
        }
    });
    // What follows may touch accumulators.
    if (PENDING == 0) block->products[block->current].fenced = false;
}

// sum[64, COLUMNS] (+)= left[64, 16] * right[16, COLUMNS], of which this thread has COLUMNS / 2 numbers. Transposed operands lie with rows
// of the output contiguous.
template <unsigned COLUMNS, bool LEFT_TRANSPOSED = false, bool RIGHT_TRANSPOSED = false>
void wgmma(float (&sum)[COLUMNS / 2], uint64_t left, uint64_t right, bool accumulate) {
    static_assert(COLUMNS % 8 == 0 && COLUMNS <= 256);
    emulator::PendingProduct product;
    product.columns = COLUMNS;
    product.accumulator = sum;
    product.left = left;
    product.right = right;
    product.left_transposed = LEFT_TRANSPOSED;
    product.right_transposed = RIGHT_TRANSPOSED;
    emulator::start_product(std::move(product), accumulate);
}

// The same with the left operand in registers, in the layout of mma_m16n8k16.
template <unsigned COLUMNS, bool RIGHT_TRANSPOSED = false>
void wgmma_registers(float (&sum)[COLUMNS / 2], const uint32_t (&left)[4], uint64_t right, bool accumulate) {
    static_assert(COLUMNS % 8 == 0 && COLUMNS <= 256);
    emulator::PendingProduct product;
    product.columns = COLUMNS;
    product.accumulator = sum;
    product.left_in_registers = true;
    memcpy(product.left_registers, left, sizeof left);
    product.right = right;
    product.right_transposed = RIGHT_TRANSPOSED;
    emulator::start_product(std::move(product), accumulate);
}
