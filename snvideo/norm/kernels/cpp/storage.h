// The types that x is stored in. Arithmetic on all that are narrower than float is in float.

#pragma once

#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

namespace {

INLINE uint32_t bits_of(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINE float value_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Rounded to nearest, ties to even, in operations that become vectors on every processor.

struct bfloat16 {
    uint16_t bits;

    bfloat16() = default;
    INLINE_MEMBER bfloat16(float value) {
        const uint32_t wide = bits_of(value);
        bits = uint16_t(value != value ? 0x7fc0 : (wide + 0x7fff + (wide >> 16 & 1)) >> 16);
    }
    INLINE_MEMBER operator float() const { return value_of(uint32_t(bits) << 16); }
};

struct float16 {
    uint16_t bits;

    float16() = default;
    INLINE_MEMBER float16(float value) {
        constexpr uint32_t LOWEST = 113u << 23, INF = 143u << 23;  // exponents, in a float
        const uint32_t wide = bits_of(value), size = wide & 0x7fffffff;
        const uint32_t finite = size < INF ? size : INF, own = finite & 0x7f800000;
        const uint32_t exponent = own > LOWEST ? own : LOWEST;
        // Added to a power of two so much larger, the sum keeps just the bits that this type has.
        const float anchor = value_of(exponent + (13u << 23));
        const uint32_t kept = bits_of(anchor + value_of(finite)) - bits_of(anchor);
        const uint32_t nan = size > 0x7f800000 ? 0x200 : 0;
        bits = uint16_t((wide >> 16 & 0x8000) | (((exponent - LOWEST) >> 13) + kept) | nan);
    }
    INLINE_MEMBER operator float() const {
        // Sign, exponent and fraction at their places in a float; the exponent is 112 too low.
        const uint32_t wide = uint32_t(int32_t(int16_t(bits))) << 13 & 0x8fffe000;
        const uint32_t infinite = (wide & 0x0f800000) == 0x0f800000 ? 0x7f800000 : 0;
        return value_of(bits_of(value_of(wide) * 0x1p112f) | infinite);
    }
};

template <typename S> struct WideOf { using Type = S; };
template <> struct WideOf<bfloat16> { using Type = float; };
template <> struct WideOf<float16> { using Type = float; };

// The type of the arithmetic on values stored as S, and of the tables with them.
template <typename S> using Wide = typename WideOf<S>::Type;

// Eight values at once, in vectors of the compiler's: it finds none in sums of short rows.
#pragma GCC diagnostic ignored "-Wpsabi"  // of functions that are always inline

constexpr int64_t EIGHT = 8;

template <typename T> struct Eight {
    typedef T Type __attribute__((vector_size(EIGHT * sizeof(T))));
};

template <typename To, typename From>
INLINE To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

template <typename T>
INLINE typename Eight<T>::Type eight(const T* x) {
    typename Eight<T>::Type values;
    std::memcpy(&values, x, sizeof values);
    return values;
}

INLINE Eight<float>::Type eight(const bfloat16* x) {
    const auto bits = eight(reinterpret_cast<const uint16_t*>(x));
    return same_bits<Eight<float>::Type>(__builtin_convertvector(bits, Eight<uint32_t>::Type) << 16);
}

INLINE Eight<float>::Type eight(const float16* x) {
    const auto bits = eight(reinterpret_cast<const int16_t*>(x));
    const auto extended = __builtin_convertvector(bits, Eight<int32_t>::Type);
    const auto wide = same_bits<Eight<uint32_t>::Type>(extended) << 13 & 0x8fffe000;
    const auto infinite = same_bits<Eight<uint32_t>::Type>((wide & 0x0f800000) == 0x0f800000);
    const auto values = same_bits<Eight<float>::Type>(wide) * 0x1p112f;
    return same_bits<Eight<float>::Type>(same_bits<Eight<uint32_t>::Type>(values) |
                                         (infinite & 0x7f800000));
}

}  // namespace
