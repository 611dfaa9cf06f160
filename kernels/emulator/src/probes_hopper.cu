// As probes.cu, for Hopper's instructions.

// What a probe does wrong on purpose.
constexpr uint32_t RIGHT = 0, READS_EARLY = 1, WAITS_FOR_NOTHING = 2, EXPECTS_TOO_MUCH = 3, NO_FENCE = 4, WRITES_EARLY = 5,
                   PUBLISHES_NOTHING = 6, CLEARS_EARLY = 7;

DEVICE void write_product(float* product, const float* sum, unsigned columns) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (unsigned i = 0; i < columns / 2; i++) {
        const unsigned row = 16 * warp + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
        product[row * columns + column] = sum[i];
    }
}

// product[64, 64] = left[64, 64] * right, where right is [64 columns, 64 inner], both loaded by TMA with the inner index contiguous.
KERNEL(probe_wgmma, 128)(float* product, TENSOR_MAP(left), TENSOR_MAP(right), uint32_t mistake) {
    DYNAMIC_SHARED(uint16_t, tiles);
    SHARED_ARRAY(uint64_t, loaded, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(loaded, 1);
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 2 * 64 * 128 + (mistake == EXPECTS_TOO_MUCH ? 16 : 0));
        tma_load(tiles, &left, loaded, 0, 0);
        tma_load(tiles + 4096, &right, loaded, 0, 0);
    }
    if (mistake != WAITS_FOR_NOTHING) {
        mbarrier_wait(loaded, 0);
        // What threads write is for products once it is fenced.
        if (threadIdx.x < 64) tiles[threadIdx.x * 64] = 0;
        if (mistake != PUBLISHES_NOTHING) fence_proxy_async();
        __syncthreads();
    }
    float sum[32];
    if (mistake != NO_FENCE) wgmma_fence();
    for (unsigned k = 0; k < 4; k++) {
        wgmma<64>(sum, product_descriptor(tiles + 16 * k, 16, 1024), product_descriptor(tiles + 4096 + 16 * k, 16, 1024), k > 0);
    }
    wgmma_commit();
    if (mistake == READS_EARLY) write_product(product, sum, 64);
    if (mistake == WRITES_EARLY) sum[0] = 1.0f;
    if (mistake == CLEARS_EARLY) {
        wgmma_wait<1>();
        __syncthreads();
        for (unsigned at = threadIdx.x; at < 4096; at += 128) tiles[at] = 0;
        fence_proxy_async();
        __syncthreads();
    }
    wgmma_wait<0>();
    if (mistake != READS_EARLY) write_product(product, sum, 64);
    __syncthreads();
    if (mistake == WAITS_FOR_NOTHING) mbarrier_wait(loaded, 0);
}

// product[64, 128] = left * right, both transposed in memory: left [64 inner, 64 rows], right [64 inner, 128 columns] in two boxes. The
// second half of the inner index comes in a group of its own.
KERNEL(probe_wgmma_transposed, 128)(float* product, TENSOR_MAP(left), TENSOR_MAP(right)) {
    DYNAMIC_SHARED(uint16_t, tiles);
    SHARED_ARRAY(uint64_t, loaded, 1);
    uint16_t* columns = tiles + 64 * 64;
    if (threadIdx.x == 0) mbarrier_init(loaded, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 3 * 64 * 128);
        tma_load(tiles, &left, loaded, 0, 0);
        tma_load(columns, &right, loaded, 0, 0);
        tma_load(columns + 4096, &right, loaded, 64, 0);
    }
    mbarrier_wait(loaded, 0);
    float sum[64];
    for (unsigned i = 0; i < 64; i++) sum[i] = 1.0f;
    wgmma_fence();
    for (unsigned k = 0; k < 4; k++) {
        // Sixteen rows of 128 bytes further.
        const uint64_t left_at = product_descriptor(tiles + 1024 * k, 8192, 1024);
        wgmma<128, true, true>(sum, left_at, product_descriptor(columns + 1024 * k, 8192, 1024), true);
        if (k == 1) wgmma_commit();
    }
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>();
    for (unsigned i = 0; i < 64; i++) sum[i] -= 1.0f;
    write_product(product, sum, 128);
}

// product[64, 64] = left[64, 16] * right, the left operand in registers; right is [16 inner, 64 columns].
KERNEL(probe_wgmma_registers, 128)(float* product, const uint16_t* left, TENSOR_MAP(right)) {
    DYNAMIC_SHARED(uint16_t, tile);
    SHARED_ARRAY(uint64_t, loaded, 1);
    if (threadIdx.x == 0) mbarrier_init(loaded, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 16 * 128);
        tma_load(tile, &right, loaded, 0, 0);
    }
    const unsigned row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, column = threadIdx.x % 4 * 2;
    uint32_t fragment[4];
    for (unsigned i = 0; i < 4; i++) {
        fragment[i] = *reinterpret_cast<const uint32_t*>(left + (row + 8 * (i % 2)) * 16 + column + 8 * (i / 2));
    }
    mbarrier_wait(loaded, 0);
    float sum[32];
    wgmma_fence();
    wgmma_registers<64, true>(sum, fragment, product_descriptor(tile, 16, 1024), false);
    wgmma_commit();
    wgmma_wait<0>();
    write_product(product, sum, 64);
}

// Copies a box that hangs over the matrix's edge to another matrix, and adds 32 floats to `sums`, both from shared memory.
KERNEL(probe_stores, 32)(float* sums, TENSOR_MAP(from), TENSOR_MAP(to), uint32_t row) {
    DYNAMIC_SHARED(uint16_t, tile);
    SHARED_ARRAY(uint64_t, loaded, 1);
    SHARED_ARRAY(float4, parts, 8);
    if (threadIdx.x == 0) mbarrier_init(loaded, 1);
    reinterpret_cast<float*>(parts)[threadIdx.x] = float(threadIdx.x);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(loaded, 8 * 128);
        tma_load(tile, &from, loaded, 0, int(row));
    }
    mbarrier_wait(loaded, 0);
    if (threadIdx.x == 0) {
        fence_proxy_async();
        tma_store(&to, tile, 0, int(row));
        bulk_reduce_add(sums, reinterpret_cast<float*>(parts), 128);
        bulk_commit();
        bulk_wait<0>();
    }
}

// A producer warp and a consumer warp around a ring of two boxes of 8 rows: copied[row] = the first column of each row of `from`.
KERNEL(probe_pipeline, 64)(uint16_t* copied, TENSOR_MAP(from), uint32_t boxes) {
    DYNAMIC_SHARED(uint16_t, ring);
    SHARED_ARRAY(uint64_t, full, 2);
    SHARED_ARRAY(uint64_t, empty, 2);
    if (threadIdx.x == 0) {
        for (unsigned stage = 0; stage < 2; stage++) {
            mbarrier_init(full + stage, 1);
            mbarrier_init(empty + stage, 8);
        }
    }
    __syncthreads();
    for (uint32_t box = 0; box < boxes; box++) {
        const unsigned stage = box % 2, round = box / 2 % 2;
        if (threadIdx.x == 32) {
            mbarrier_wait(empty + stage, round ^ 1);
            mbarrier_arrive_expect(full + stage, 8 * 128);
            tma_load(ring + stage * 512, &from, full + stage, 0, int(8 * box));
        } else if (threadIdx.x < 8) {
            mbarrier_wait(full + stage, round);
            // Row r's first chunk is exchanged with chunk r.
            copied[8 * box + threadIdx.x] = ring[stage * 512 + threadIdx.x * 64 + threadIdx.x * 8];
            mbarrier_arrive(empty + stage);
        }
    }
}

// Two boxes on barriers of their own; only that of the second is waited for before both are read.
KERNEL(probe_two_loads, 32)(uint16_t* seen, TENSOR_MAP(from)) {
    DYNAMIC_SHARED(uint16_t, tiles);
    SHARED_ARRAY(uint64_t, loaded, 2);
    if (threadIdx.x == 0) {
        for (unsigned box = 0; box < 2; box++) {
            mbarrier_init(loaded + box, 1);
            mbarrier_arrive_expect(loaded + box, 8 * 128);
            tma_load(tiles + 512 * box, &from, loaded + box, 0, int(8 * box));
        }
    }
    __syncthreads();
    mbarrier_wait(loaded + 1, 0);
    if (threadIdx.x < 2) seen[threadIdx.x] = tiles[512 * threadIdx.x];
    __syncwarp();
    mbarrier_wait(loaded, 0);
}

// Blocks have one number in turns, each twice: it is doubled and the block's turn added. A block's turn is its index, or the next that is free.
KERNEL(probe_turns, 32)(uint32_t* turns, float* number, uint32_t takes) {
    DYNAMIC_SHARED(float, staged);
    if (threadIdx.x != 0) return;
    const uint32_t turn = takes != 0 ? atomicAdd(turns + 1, 1u) : blockIdx.x;
    for (uint32_t round = 0; round < 2; round++) {
        wait_for_turn(turns, round * gridDim.x + turn);
        for (unsigned at = 0; at < 4; at++) staged[at] = number[at] + float(turn);
        fence_proxy_async();
        if (round == 0 && turn == 0) bulk_store(number, staged, 16);
        else bulk_reduce_add(number, staged, 16);
        bulk_commit();
        bulk_wait<0>();
        give_turn(turns);
    }
}
