// What kernels/tests/driver.rs calls of libcuda and libcublasLt, on a CPU: memory is the host's, everything runs at once, and calls out of
// order are refused. Written from NVIDIA's documentation of each call; it stands in for neither's faults nor speed.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace {
constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_CONTEXT = 201, NOT_FOUND = 500, NOT_READY = 600, NOT_WHILE_RECORDED = 900;
constexpr size_t MEMORY_BYTES = size_t(1) << 32;
thread_local void* current = nullptr;
char context, stream_object, beside, pool;
std::mutex memory;  // of the three below
std::map<uint64_t, size_t> allocated;
std::map<uint64_t, size_t> reached;  // of the host's
size_t used = 0;

// What is asked of the one stream while it is being recorded, instead of being done.
using Graph = std::vector<std::function<int()>>;
thread_local Graph* recorded = nullptr;
// What is asked of the other stream, until the one waits for it.
thread_local Graph put_off;
int catch_up() {
    Graph work;
    work.swap(put_off);
    for (const auto& one : work)
        if (const int error = one()) return error;
    return SUCCESS;
}
// Copies from the host and what kernels write to its memory, until something comes after them.
Graph copies;
std::multimap<uint64_t, size_t> targets;  // of the latter
std::mutex copying;
void copy() {
    std::lock_guard guard(copying);
    for (const auto& one : copies) one();
    copies.clear();
    targets.clear();
}
int ask(std::function<int()> work, void* stream = &stream_object) {
    if (stream == &beside) return put_off.push_back(std::move(work)), SUCCESS;
    copy();
    if (!recorded) return work();
    return recorded->push_back(std::move(work)), SUCCESS;
}

struct Function {
    const char* name;
    size_t sizes[8];
};
const Function FUNCTIONS[] = {{"add_partials", {8, 8, 4, 8}}, {"tell", {8, 8, 8}}, {"end_telling", {8, 8}}};

// Whether `bytes` bytes from `address` on lie in one allocation.
bool holds(uint64_t address, size_t bytes, const std::map<uint64_t, size_t>& allocated = ::allocated) {
    std::lock_guard guard(memory);
    auto next = allocated.upper_bound(address);
    if (next == allocated.begin()) return false;
    auto found = std::prev(next);
    return address + bytes <= found->first + found->second;
}

// As a kernel does: what is at `from` now comes to the host's memory some time after.
int write_to_host(uint64_t to, const void* from, size_t bytes) {
    if (!holds(to, bytes, reached)) return INVALID_VALUE;
    const std::vector<char> seen(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    std::lock_guard guard(copying);
    targets.emplace(to, bytes);
    return copies.push_back([=] { return memcpy(reinterpret_cast<void*>(to), seen.data(), bytes), SUCCESS; }), SUCCESS;
}
}  // namespace

#define CALL(name, ...) extern "C" int name(__VA_ARGS__)
#define NEEDS_CONTEXT if (current != &context) return NO_CONTEXT

CALL(cuInit, unsigned) { return SUCCESS; }
// NVRTC asks a driver that is open for more than it documents: a table that begins with its own size, here without an entry.
CALL(cuGetExportTable, const void** table, const void*) {
    static const size_t bytes = sizeof bytes;
    return *table = &bytes, SUCCESS;
}
CALL(cuDriverGetVersion, int* version) { return *version = 13000, SUCCESS; }
CALL(cuDeviceGetCount, int* count) { return *count = 1, SUCCESS; }
CALL(cuDeviceGet, int* device, int ordinal) { return *device = 7, ordinal == 0 ? SUCCESS : INVALID_VALUE; }
CALL(cuDeviceGetName, char* name, int len, int) { return strncpy(name, "Stand-in", len), SUCCESS; }
CALL(cuDeviceTotalMem_v2, size_t* bytes, int) { return *bytes = MEMORY_BYTES, SUCCESS; }
CALL(cuDeviceGetAttribute, int* value, int attribute, int device) {
    const std::map<int, int> known = {{16, 132}, {75, 9}, {76, 0}, {97, 227 * 1024}, {115, 1}};
    if (device != 7 || !known.count(attribute)) return INVALID_VALUE;
    return *value = known.at(attribute), SUCCESS;
}
CALL(cuDeviceGetDefaultMemPool, void** found, int) { return *found = &pool, SUCCESS; }
CALL(cuMemPoolSetAttribute, void* which, int attribute, void* value) {
    return which == &pool && attribute == 4 && *static_cast<uint64_t*>(value) == UINT64_MAX ? SUCCESS : INVALID_VALUE;
}
CALL(cuMemPoolTrimTo, void* which, size_t) { return which == &pool ? SUCCESS : INVALID_VALUE; }
CALL(cuDevicePrimaryCtxRetain, void** found, int) { return *found = &context, SUCCESS; }
CALL(cuDevicePrimaryCtxRelease_v2, int) { return SUCCESS; }
CALL(cuCtxGetCurrent, void** found) { return *found = current, SUCCESS; }
CALL(cuCtxSetCurrent, void* wanted) { return current = wanted, SUCCESS; }
CALL(cuMemGetInfo_v2, size_t* free, size_t* total) {
    NEEDS_CONTEXT;
    return *free = MEMORY_BYTES - used, *total = MEMORY_BYTES, SUCCESS;
}
CALL(cuStreamCreate, void** stream, unsigned) {
    NEEDS_CONTEXT;
    return *stream = &stream_object, SUCCESS;
}
CALL(cuCtxGetStreamPriorityRange, int* least, int* most) {
    NEEDS_CONTEXT;
    return *least = 0, *most = -5, SUCCESS;
}
CALL(cuStreamCreateWithPriority, void** stream, unsigned flags, int priority) {
    NEEDS_CONTEXT;
    return *stream = &beside, flags == 1 && priority == -5 ? SUCCESS : INVALID_VALUE;
}
CALL(cuStreamWaitEvent, void* stream, void* event, unsigned) {
    NEEDS_CONTEXT;
    if ((stream != &stream_object && stream != &beside) || !*static_cast<int*>(event)) return INVALID_VALUE;
    copy();
    return stream == &stream_object ? catch_up() : SUCCESS;
}
CALL(cuStreamDestroy_v2, void*) { return SUCCESS; }
CALL(cuStreamSynchronize, void* stream) {
    copy();
    return recorded ? NOT_WHILE_RECORDED : stream == &beside ? catch_up() : SUCCESS;
}
// What a list that is replayed copies last has come by a later command, or by the third question of all.
CALL(cuStreamQuery, void* stream) {
    NEEDS_CONTEXT;
    static std::atomic<unsigned> asked = 0;
    if (stream != &stream_object || recorded) return INVALID_VALUE;
    return ++asked % 3 ? NOT_READY : (copy(), SUCCESS);
}
CALL(cuStreamBeginCapture_v2, void*, int mode) {
    if (recorded || mode != 1) return INVALID_VALUE;
    return recorded = new Graph(), SUCCESS;
}
CALL(cuStreamEndCapture, void*, Graph** graph) {
    if (!recorded) return INVALID_VALUE;
    return *graph = recorded, recorded = nullptr, SUCCESS;
}
CALL(cuGraphInstantiateWithFlags, Graph** instance, Graph* graph, uint64_t flags) {
    return *instance = new Graph(*graph), flags == 0 ? SUCCESS : INVALID_VALUE;
}
CALL(cuGraphLaunch, Graph* instance, void* stream) {
    NEEDS_CONTEXT;
    if (stream != &stream_object || recorded) return INVALID_VALUE;
    copy();
    for (const auto& work : *instance)
        if (const int error = work()) return error;
    return SUCCESS;
}
CALL(cuGraphExecDestroy, Graph* instance) { return delete instance, SUCCESS; }
CALL(cuGraphDestroy, Graph* graph) { return delete graph, SUCCESS; }
CALL(cuEventCreate, void** event, unsigned) { return *event = new int(0), SUCCESS; }
CALL(cuEventDestroy_v2, void* event) { return delete static_cast<int*>(event), SUCCESS; }
CALL(cuEventRecord, void* event, void*) { return *static_cast<int*>(event) = 1, SUCCESS; }
// One that was never recorded waits for nothing.
CALL(cuEventSynchronize, void* event) {
    if (*static_cast<int*>(event)) copy();
    return SUCCESS;
}
// Nothing is done before the host waits for it.
CALL(cuEventQuery, void* event) { return *static_cast<int*>(event) ? NOT_READY : SUCCESS; }
CALL(cuEventElapsedTime_v2, float* milliseconds, void* begin, void* end) {
    return *milliseconds = 1, *static_cast<int*>(begin) && *static_cast<int*>(end) ? SUCCESS : INVALID_VALUE;
}
CALL(cuMemAllocAsync, uint64_t* address, size_t bytes, void* stream) {
    NEEDS_CONTEXT;
    if (stream != &stream_object || bytes == 0) return INVALID_VALUE;
    if (recorded) return NOT_WHILE_RECORDED;
    std::lock_guard guard(memory);
    if (used + bytes > MEMORY_BYTES) return OUT_OF_MEMORY;
    *address = reinterpret_cast<uint64_t>(aligned_alloc(256, (bytes + 255) / 256 * 256));
    memset(reinterpret_cast<void*>(*address), 0xff, bytes);
    return allocated[*address] = bytes, used += bytes, SUCCESS;
}
CALL(cuMemFreeAsync, uint64_t address, void*) {
    copy();
    std::lock_guard guard(memory);
    if (!allocated.count(address)) return INVALID_VALUE;
    used -= allocated[address];
    return allocated.erase(address), free(reinterpret_cast<void*>(address)), SUCCESS;
}
CALL(cuMemHostAlloc, void** address, size_t bytes, unsigned flags) {
    NEEDS_CONTEXT;
    std::lock_guard guard(memory);
    *address = malloc(bytes);
    memset(*address, 0xff, bytes);
    return reached[reinterpret_cast<uint64_t>(*address)] = bytes, flags == 0 ? SUCCESS : INVALID_VALUE;
}
// Not while kernels are at it.
CALL(cuMemFreeHost, void* address) {
    std::scoped_lock guard(memory, copying);
    const auto found = reached.find(reinterpret_cast<uint64_t>(address));
    if (found == reached.end()) return INVALID_VALUE;
    const auto target = targets.lower_bound(found->first);
    if (target != targets.end() && target->first < found->first + found->second) return INVALID_VALUE;
    return reached.erase(found), free(address), SUCCESS;
}
CALL(cuMemsetD8Async, uint64_t address, unsigned char value, size_t bytes, void*) {
    if (!holds(address, bytes)) return INVALID_VALUE;
    return ask([=] { return memset(reinterpret_cast<void*>(address), value, bytes), SUCCESS; });
}
CALL(cuMemcpyHtoDAsync_v2, uint64_t to, const void* from, size_t bytes, void*) {
    if (recorded) return NOT_WHILE_RECORDED;
    if (!holds(to, bytes)) return INVALID_VALUE;
    std::lock_guard guard(copying);
    return copies.push_back([=] { return memcpy(reinterpret_cast<void*>(to), from, bytes), SUCCESS; }), SUCCESS;
}
CALL(cuMemcpyDtoHAsync_v2, void* to, uint64_t from, size_t bytes, void*) {
    if (recorded) return NOT_WHILE_RECORDED;
    return holds(from, bytes) ? copy(), memcpy(to, reinterpret_cast<void*>(from), bytes), SUCCESS : INVALID_VALUE;
}
CALL(cuMemcpyDtoDAsync_v2, uint64_t to, uint64_t from, size_t bytes, void*) {
    if (!holds(to, bytes) || !holds(from, bytes)) return INVALID_VALUE;
    return ask([=] { return memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes), SUCCESS; });
}
CALL(cuModuleLoadData, void** module, const void* image) {
    return *module = &context, memcmp(image, "\177ELF", 4) == 0 ? SUCCESS : INVALID_VALUE;
}
CALL(cuModuleUnload, void*) { return SUCCESS; }
CALL(cuModuleGetFunction, const Function** function, void*, const char* name) {
    for (const Function& known : FUNCTIONS)
        if (known.name == std::string(name)) return *function = &known, SUCCESS;
    return *function = new Function{strdup(name), {}}, SUCCESS;
}
CALL(cuFuncGetAttribute, int* value, int, const Function*) { return *value = 1024, SUCCESS; }
CALL(cuFuncSetAttribute, const Function*, int attribute, int value) {
    return attribute == 8 && value == 226 * 1024 ? SUCCESS : INVALID_VALUE;
}
CALL(cuFuncGetParamInfo, const Function* function, size_t index, size_t* offset, size_t* size) {
    return *offset = 0, index < 8 && function->sizes[index] ? *size = function->sizes[index], SUCCESS : INVALID_VALUE;
}
CALL(cuLaunchKernel, const Function* function, unsigned x, unsigned, unsigned, unsigned threads, unsigned, unsigned, unsigned, void* stream,
     void** arguments, void** extra) {
    NEEDS_CONTEXT;
    if ((stream != &stream_object && stream != &beside) || extra || !function->sizes[0]) return NOT_FOUND;
    const auto pointer = [&](int at) { return *static_cast<uint64_t*>(arguments[at]); };
    if (function->name == std::string("tell")) {
        const uint64_t to = pointer(0), from = pointer(1), bytes = 4 * pointer(2);
        if (!holds(from, bytes) || uint64_t(x) * threads * 4 < bytes) return INVALID_VALUE;
        return ask([=] { return write_to_host(to, reinterpret_cast<void*>(from), bytes); }, stream);
    }
    if (function->name == std::string("end_telling")) {
        const uint64_t mark = pointer(0), norm = pointer(1);
        if (norm && !holds(norm, 8)) return INVALID_VALUE;
        return ask([=] {
            const double none = 0.0;
            const uint64_t one = 1;
            const int error = write_to_host(mark + 8, norm ? reinterpret_cast<void*>(norm) : &none, 8);
            return error ? error : write_to_host(mark, &one, 8);
        }, stream);
    }
    auto output = reinterpret_cast<float*>(*static_cast<uint64_t*>(arguments[0]));
    auto partials = reinterpret_cast<float*>(*static_cast<uint64_t*>(arguments[1]));
    const auto parts = *static_cast<uint32_t*>(arguments[2]);
    const auto columns = *static_cast<uint64_t*>(arguments[3]);
    return ask([=] {
        for (uint64_t column = 0; column < uint64_t(x) * threads && column < columns; column++)
            for (uint32_t part = 0; part < parts; part++) output[column] += partials[part * columns + column];
        return SUCCESS;
    }, stream);
}
// The map is its arguments, in order: a matrix of bf16, swizzled by 128 bytes, zeros outside.
CALL(cuTensorMapEncodeTiled, uint64_t* map, int type, unsigned rank, uint64_t address, const uint64_t* sizes, const uint64_t* strides,
     const unsigned* box, const unsigned* steps, int interleave, int swizzle, int, int fill) {
    if (type != 9 || rank != 2 || interleave != 0 || swizzle != 3 || fill != 0 || steps[0] != 1 || steps[1] != 1) return INVALID_VALUE;
    if (address % 16 || strides[0] % 16 || strides[0] < 2 * sizes[0] || box[0] > 256 || box[1] > 256 || box[1] == 0) return INVALID_VALUE;
    const uint64_t values[] = {address, sizes[0], sizes[1], strides[0], box[0], box[1]};
    return memcpy(map, values, sizeof values), SUCCESS;
}
CALL(cuGetErrorString, int error, const char** text) {
    return *text = error == INVALID_VALUE ? "invalid argument" : "no such thing", SUCCESS;
}
CALL(cuGetErrorName, int, const char** name) { return *name = "CUDA_ERROR", SUCCESS; }

// cuBLASLt: products by their definition, one element at a time.

namespace {
constexpr int NOT_INITIALISED = 1, INVALID = 7, F32 = 0, BF16 = 14;
struct Computed {
    int compute, scale, transposed_a = 0, transposed_b = 0, epilogue = 1, bias_type = -1;
    uint64_t bias = 0;
};
struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t leading;
};
struct Algorithm {
    uint64_t words[8];
};
struct Proposal {
    Algorithm algorithm;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
};
struct Preference {
    std::map<int, uint64_t> values;
};
char handle;

float read(const void* address, int type, uint64_t at) {
    if (type == F32) return static_cast<const float*>(address)[at];
    const uint32_t bits = uint32_t(static_cast<const uint16_t*>(address)[at]) << 16;
    float value;
    return memcpy(&value, &bits, 4), value;
}

void write(void* address, int type, uint64_t at, float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (type == F32)
        memcpy(static_cast<float*>(address) + at, &bits, 4);
    else
        static_cast<uint16_t*>(address)[at] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The matrix is there, as large as the layout says.
bool there(const Layout* layout, const void* address) {
    const size_t size = layout->type == F32 ? 4 : 2;
    return uint64_t(layout->leading) >= layout->rows &&
           holds(reinterpret_cast<uint64_t>(address), size * ((layout->columns - 1) * layout->leading + layout->rows));
}

uint64_t rows(const Layout* layout, bool transposed) { return transposed ? layout->columns : layout->rows; }
uint64_t columns(const Layout* layout, bool transposed) { return transposed ? layout->rows : layout->columns; }

bool fits(const Computed* computed, const Layout* a, const Layout* b, const Layout* d) {
    return computed->compute == 68 && computed->scale == F32 && a->type == BF16 && b->type == BF16 &&
           rows(a, computed->transposed_a) == d->rows && columns(b, computed->transposed_b) == d->columns &&
           columns(a, computed->transposed_a) == rows(b, computed->transposed_b);
}

template <class T> int destroy(void* object) { return delete static_cast<T*>(object), SUCCESS; }
}  // namespace

extern "C" size_t cublasLtGetVersion() { return 130000; }
CALL(cublasLtCreate, void** created) { return *created = &handle, current == &context ? SUCCESS : NOT_INITIALISED; }
CALL(cublasLtDestroy, void*) { return SUCCESS; }
CALL(cublasLtMatmulDescCreate, void** created, int compute, int scale) { return *created = new Computed{compute, scale}, SUCCESS; }
CALL(cublasLtMatmulDescDestroy, void* object) { return destroy<Computed>(object); }
CALL(cublasLtMatmulDescSetAttribute, Computed* computed, int attribute, const void* value, size_t bytes) {
    if (attribute == 8) return bytes == 8 ? memcpy(&computed->bias, value, 8), SUCCESS : INVALID;
    if (bytes != 4) return INVALID;
    const std::map<int, int*> fields = {
        {3, &computed->transposed_a}, {4, &computed->transposed_b}, {7, &computed->epilogue}, {26, &computed->bias_type}};
    return fields.count(attribute) ? memcpy(fields.at(attribute), value, 4), SUCCESS : INVALID;
}
CALL(cublasLtMatrixLayoutCreate, void** created, int type, uint64_t rows, uint64_t columns, int64_t leading) {
    return *created = new Layout{type, rows, columns, leading}, SUCCESS;
}
CALL(cublasLtMatrixLayoutDestroy, void* object) { return destroy<Layout>(object); }
CALL(cublasLtMatmulPreferenceCreate, void** created) { return *created = new Preference(), SUCCESS; }
CALL(cublasLtMatmulPreferenceDestroy, void* object) { return destroy<Preference>(object); }
CALL(cublasLtMatmulPreferenceSetAttribute, Preference* preference, int attribute, const void* value, size_t bytes) {
    if (bytes != (attribute == 1 ? 8 : 4)) return INVALID;
    return memcpy(&preference->values[attribute], value, bytes), SUCCESS;
}
CALL(cublasLtMatmulAlgoGetHeuristic, void* lt, Computed* computed, Layout* a, Layout* b, Layout*, Layout* d, Preference* preference, int wanted,
     Proposal* proposals, int* found) {
    if (lt != &handle || !fits(computed, a, b, d) || preference->values.size() != 6 || preference->values[3] != 2 || wanted < 2) return INVALID;
    for (uint64_t way = 0; way < 2; way++) proposals[way] = {{{way + 1}}, 1 << 20, SUCCESS, 1, {}};
    return *found = 2, SUCCESS;
}
CALL(cublasLtMatmulAlgoCheck, void*, Computed* computed, Layout* a, Layout* b, Layout*, Layout* d, const Algorithm* way, Proposal* result) {
    *result = {*way, 1 << 20, SUCCESS, 1, {}};
    return fits(computed, a, b, d) && (way->words[0] == 1 || way->words[0] == 2) ? SUCCESS : INVALID;
}
CALL(cublasLtMatmul, void* lt, Computed* computed, const float* alpha, const void* A, Layout* a, const void* B, Layout* b, const float* beta,
     const void* C, Layout* c, void* D, Layout* d, const Algorithm* way, void* workspace, size_t workspace_bytes, void* stream) {
    if (lt != &handle || stream != &stream_object || C != D || c != d || *alpha != 1 || !way || !fits(computed, a, b, d)) return INVALID;
    if (!there(a, A) || !there(b, B) || !there(d, D) || !holds(reinterpret_cast<uint64_t>(workspace), workspace_bytes)) return INVALID;
    if (computed->bias && (computed->epilogue != 4 || computed->bias_type != BF16)) return INVALID;
    return ask([computed = *computed, a = *a, b = *b, d = *d, beta = *beta, A, B, D] {
        for (uint64_t column = 0; column < d.columns; column++)
            for (uint64_t row = 0; row < d.rows; row++) {
                float sum = 0;
                for (uint64_t at = 0; at < columns(&a, computed.transposed_a); at++)
                    sum += read(A, BF16, computed.transposed_a ? row * a.leading + at : at * a.leading + row) *
                           read(B, BF16, computed.transposed_b ? at * b.leading + column : column * b.leading + at);
                if (computed.bias) sum += read(reinterpret_cast<const void*>(computed.bias), BF16, row);
                const uint64_t place = column * d.leading + row;
                write(D, d.type, place, sum + (beta == 0 ? 0 : beta * read(D, d.type, place)));
            }
        return SUCCESS;
    });
}
