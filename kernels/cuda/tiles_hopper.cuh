// Tiles that come by TMA on Hopper, and what two consuming warpgroups have of their products.
//
// A tile of R rows is boxes of 64 columns, one after the other: R rows of 128 bytes each, in the 128-byte swizzle. A thread's accumulator
// number i is of row 16 * warp + lane / 4 + 8 * (i / 2 % 2), column 8 * (i / 4) + 2 * (lane % 4) + i % 2.

constexpr int BOX_COLUMNS = 64;
// Eight rows of 128 bytes: what the swizzle repeats after.
constexpr uint32_t GROUP_BYTES = 1024;
constexpr unsigned CONSUMER_WARPS = 8;

// A warp has read a stage for the last time.
DEVICE void release(uint64_t* empty) {
    if (threadIdx.x % 32 == 0) mbarrier_arrive(empty);
}

// The first of this thread's two rows among its warpgroup's 64; the other is eight further.
DEVICE unsigned row_in_group() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }
