// Kernels by name, and their launch over a grid with arguments that are checked against the kernel's parameters.
#pragma once

#include "block.hpp"
#include <type_traits>
#include <utility>

namespace emulator {

// Kinds of kernel parameters; `Argument` of the Rust side counts the same way.
enum class Kind : uint32_t { Pointer = 0, U32 = 1, U64 = 2, F32 = 3, TensorMap = 4 };

struct Argument {
    Kind kind;
    const void* value;
};

struct Kernel {
    unsigned threads;
    std::vector<Kind> parameters;
    std::function<void(const Argument*)> call;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

}  // namespace emulator

struct TensorMap;

namespace emulator {

template <class T>
constexpr Kind kind_of() {
    if constexpr (std::is_pointer_v<T>) return Kind::Pointer;
    else if constexpr (std::is_same_v<T, uint32_t>) return Kind::U32;
    else if constexpr (std::is_same_v<T, uint64_t>) return Kind::U64;
    else if constexpr (std::is_same_v<T, float>) return Kind::F32;
    else {
        static_assert(std::is_same_v<T, TensorMap>, "kernel parameters are pointers, uint32_t, uint64_t, float or TensorMap");
        return Kind::TensorMap;
    }
}

template <class... T, size_t... At>
void call(void (*kernel)(T...), const Argument* arguments, std::index_sequence<At...>) {
    kernel(*static_cast<const std::remove_cv_t<T>*>(arguments[At].value)...);
}

// Enters a kernel into the table when the program starts.
struct Registration {
    template <class... T>
    Registration(const char* name, unsigned threads, void (*kernel)(T...)) {
        kernels()[name] = Kernel{threads, {kind_of<std::remove_cv_t<T>>()...}, [kernel](const Argument* arguments) {
                                     call(kernel, arguments, std::index_sequence_for<T...>{});
                                 }};
    }
};

struct Launch {
    dim3 grid;
    unsigned threads;
    size_t shared_bytes;
    Order order;
    // So many of the grid's first blocks, and of its last, and no others.
    uint64_t ends;
    // What a block may have, static and dynamic together: SHARED_BYTES at most.
    size_t shared_most;
};

// Runs a body as a grid of blocks, one after the other, or, in the backward order, a few side by side where they wait for each other.
// Gives the first error, or nothing.
std::string run(const Launch& launch, const std::function<void()>& body);

}  // namespace emulator
