// What kernels/src/cuda/nccl.rs calls of libnccl, on a CPU: ranks are threads of one process, a group runs when it ends, and calls out of
// order are refused. Written from NVIDIA's documentation of each call; it stands in for neither its faults nor its speed.
#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {
constexpr int SUCCESS = 0, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE = 6, IN_PROGRESS = 7, UINT8 = 1;
struct Id {
    char bytes[128];
};

// All ranks that gave the same identifier.
struct World {
    int ranks = 0, here = 0;
    bool aborted = false;
    // From one to another: point to point, and of one root's broadcasts.
    std::map<std::pair<int, int>, std::deque<std::vector<char>>> sent, broadcast;
};
// Never destroyed: a rank whose others never come waits past the end of the program.
std::mutex& guard = *new std::mutex;
std::condition_variable& changed = *new std::condition_variable;
std::map<std::string, World>& worlds = *new std::map<std::string, World>;
int ids = 0;

struct Communicator {
    World* world;
    int rank;
    // Of the last group.
    int state = SUCCESS;
};
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};
struct Transfer {
    Communicator* communicator;
    int kind, peer;  // 0 sends, 1 receives, 2 broadcasts
    const void* from;
    void* to;
    size_t bytes;
};
thread_local std::vector<Transfer> group;
thread_local int depth = 0;
thread_local std::string last;

int refuse(int code, const char* why) { return last = why, code; }

int add(const Transfer& transfer, int datatype) {
    if (!depth) return refuse(INVALID_USAGE, "outside a group");
    if (datatype != UINT8) return refuse(INVALID_ARGUMENT, "a type that is not asked for");
    if (transfer.peer < 0 || transfer.peer >= transfer.communicator->world->ranks) return refuse(INVALID_ARGUMENT, "no such rank");
    return group.push_back(transfer), SUCCESS;
}

// Takes what has come, when it has.
int take(std::unique_lock<std::mutex>& lock, World& world, std::deque<std::vector<char>>& from, const Transfer& transfer) {
    changed.wait(lock, [&] { return world.aborted || !from.empty(); });
    if (world.aborted) return refuse(REMOTE, "aborted");
    if (from.front().size() != transfer.bytes) return refuse(INTERNAL, "another length");
    memcpy(transfer.to, from.front().data(), transfer.bytes);
    return from.pop_front(), SUCCESS;
}
}  // namespace

#define CALL(name, ...) extern "C" int name(__VA_ARGS__)

CALL(ncclGetUniqueId, Id* id) {
    std::lock_guard lock(guard);
    memset(id->bytes, 0x5a, sizeof id->bytes);
    return memcpy(id->bytes, &++ids, sizeof ids), SUCCESS;
}
CALL(ncclGetVersion, int* version) { return *version = 21901, SUCCESS; }
// Nothing waits: what is under way is asked for by ncclCommGetAsyncError.
CALL(ncclCommInitRankConfig, Communicator** made, int ranks, Id id, int rank, const Config* config) {
    std::lock_guard lock(guard);
    if (config->size != 24 || config->magic != 0xcafebeef || config->version != 21400 || config->blocking != 0) return INVALID_USAGE;
    if (rank < 0 || rank >= ranks || !std::all_of(id.bytes + sizeof ids, std::end(id.bytes), [](char byte) { return byte == 0x5a; }))
        return refuse(INVALID_ARGUMENT, "an identifier or a rank\nthat was not given");
    World& world = worlds[std::string(id.bytes, sizeof id.bytes)];
    world.ranks = ranks, world.here++;
    return *made = new Communicator{&world, rank}, IN_PROGRESS;
}
CALL(ncclCommGetAsyncError, Communicator* communicator, int* state) {
    std::lock_guard lock(guard);
    *state = communicator->world->here < communicator->world->ranks ? IN_PROGRESS : communicator->state;
    return SUCCESS;
}
CALL(ncclCommDestroy, Communicator* communicator) {
    return communicator->state == SUCCESS ? SUCCESS : INVALID_USAGE;
}
CALL(ncclCommAbort, Communicator* communicator) {
    std::lock_guard lock(guard);
    communicator->world->aborted = true;
    changed.notify_all();
    return SUCCESS;
}
CALL(ncclGroupStart, void) { return depth++, SUCCESS; }
CALL(ncclSend, const void* from, size_t bytes, int type, int peer, Communicator* communicator, void*) {
    return add({communicator, 0, peer, from, nullptr, bytes}, type);
}
CALL(ncclRecv, void* to, size_t bytes, int type, int peer, Communicator* communicator, void*) {
    return add({communicator, 1, peer, nullptr, to, bytes}, type);
}
CALL(ncclBroadcast, const void* from, void* to, size_t bytes, int type, int root, Communicator* communicator, void*) {
    return add({communicator, 2, root, from, to, bytes}, type);
}
CALL(ncclGroupEnd, void) {
    if (!depth || --depth) return refuse(INVALID_USAGE, "groups that do not end");
    std::vector<Transfer> asked;
    asked.swap(group);
    std::lock_guard lock(guard);
    for (const Transfer& transfer : asked) {
        World& world = *transfer.communicator->world;
        const int rank = transfer.communicator->rank;
        const char* bytes = static_cast<const char*>(transfer.from);
        if (transfer.kind == 0) world.sent[{rank, transfer.peer}].emplace_back(bytes, bytes + transfer.bytes);
        for (int to = 0; transfer.kind == 2 && transfer.peer == rank && to < world.ranks; to++)
            if (to != rank) world.broadcast[{rank, to}].emplace_back(bytes, bytes + transfer.bytes);
    }
    changed.notify_all();
    if (asked.empty()) return SUCCESS;
    Communicator* communicator = asked[0].communicator;
    if (communicator->state != SUCCESS) return refuse(INVALID_USAGE, "the group before is under way");
    communicator->state = IN_PROGRESS;
    std::thread([asked = std::move(asked), communicator] {
        std::unique_lock lock(guard);
        int code = SUCCESS;
        for (const Transfer& transfer : asked) {
            World& world = *communicator->world;
            const std::pair<int, int> way{transfer.peer, communicator->rank};
            if (code == SUCCESS && transfer.kind == 1) code = take(lock, world, world.sent[way], transfer);
            if (code == SUCCESS && transfer.kind == 2 && way.first != way.second) code = take(lock, world, world.broadcast[way], transfer);
        }
        communicator->state = code;
    }).detach();
    return IN_PROGRESS;
}
extern "C" const char* ncclGetErrorString(int code) {
    return code == REMOTE ? "remote process exited" : code == INVALID_ARGUMENT ? "invalid argument" : "invalid usage";
}
extern "C" const char* ncclGetLastError(Communicator*) { return last.c_str(); }
