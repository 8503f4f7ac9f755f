/* Decodes what a codec has stored (shards/codecs), past nothing and from nothing that is mapped: what is read here lies in
 * the memory of a reader thread. Every way gives the same bits; which is taken, the CPU that runs it says.
 *
 * Built by hatch_build.py, called through decode.py; without a C compiler numpy does it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define FRONT_BYTES 8 /* a scale, and as many zeros */

enum { RED_OF_V = 45941, GREEN_OF_U = 11277, GREEN_OF_V = 23401, BLUE_OF_U = 58065, HALF = 1 << 14, BITS = 15 };

static uint8_t clamp(int value) { return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value); }

/* A row of `width` pixels, even, from pixel `first` on. */
static void yuv_row_plain(uint8_t *out, const uint8_t *y, const uint8_t *us, const uint8_t *vs, size_t first,
                          size_t width) {
    for (size_t i = first; i < width; i += 2) {
        int u = us[i / 2] - 128, v = vs[i / 2] - 128;
        int red = (RED_OF_V * v + HALF) >> BITS, blue = (BLUE_OF_U * u + HALF) >> BITS;
        int green = (GREEN_OF_U * u + GREEN_OF_V * v + HALF) >> BITS;
        for (size_t j = i; j < i + 2; j++) {
            out[3 * j] = clamp(y[j] + red);
            out[3 * j + 1] = clamp(y[j] - green);
            out[3 * j + 2] = clamp(y[j] + blue);
        }
    }
}

/* A float as the nearest half, ties to even. */
static uint16_t half_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7e00;
    if (bits >= 0x477ff000) /* from where on it rounds to infinity */
        return sign | 0x7c00;
    if (bits >= 0x38800000)
        return (uint16_t)(sign | ((bits + 0xc8000fff + (bits >> 13 & 1)) >> 13));
    float small; /* its last bits are those of a half once it is added to 0.5, by the rounding of the sum */
    memcpy(&small, &bits, sizeof small);
    small += 0.5f;
    memcpy(&bits, &small, sizeof bits);
    return (uint16_t)(sign | (bits - 0x3f000000));
}

static void token_f16_plain(uint16_t *out, const int8_t *from, float scale, size_t first, size_t width) {
    for (size_t i = first; i < width; i++)
        out[i] = half_of((float)from[i] * scale);
}

#ifdef __x86_64__
#include <immintrin.h>

/* Shuffles that put 16 values of one channel among 48: of each three, one byte in three is from this channel. */
#define SPREAD(channel, part)                                                                                          \
    _mm_setr_epi8(PLACE(channel, part, 0), PLACE(channel, part, 1), PLACE(channel, part, 2), PLACE(channel, part, 3),  \
                  PLACE(channel, part, 4), PLACE(channel, part, 5), PLACE(channel, part, 6), PLACE(channel, part, 7),  \
                  PLACE(channel, part, 8), PLACE(channel, part, 9), PLACE(channel, part, 10),                          \
                  PLACE(channel, part, 11), PLACE(channel, part, 12), PLACE(channel, part, 13),                        \
                  PLACE(channel, part, 14), PLACE(channel, part, 15))
#define PLACE(channel, part, byte) ((16 * (part) + (byte)) % 3 == (channel) ? (16 * (part) + (byte)) / 3 : -1)

__attribute__((target("ssse3"))) static size_t yuv_row_ssse3(uint8_t *out, const uint8_t *y, const uint8_t *us,
                                                             const uint8_t *vs, size_t width) {
    const __m128i zero = _mm_setzero_si128(), middle = _mm_set1_epi16(128), round = _mm_set1_epi32(HALF);
    const __m128i green_of = _mm_set1_epi32(GREEN_OF_V << 16 | GREEN_OF_U);
    size_t i = 0;
    for (; i + 16 <= width; i += 16) {
        __m128i u = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(us + i / 2)), zero);
        __m128i v = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(vs + i / 2)), zero);
        u = _mm_sub_epi16(u, middle);
        v = _mm_sub_epi16(v, middle);
        __m128i red = _mm_add_epi16(v, _mm_mulhrs_epi16(v, _mm_set1_epi16(RED_OF_V - 32768)));
        __m128i blue = _mm_add_epi16(_mm_add_epi16(u, u), _mm_mulhrs_epi16(u, _mm_set1_epi16(BLUE_OF_U - 65536)));
        __m128i low = _mm_madd_epi16(_mm_unpacklo_epi16(u, v), green_of);
        __m128i high = _mm_madd_epi16(_mm_unpackhi_epi16(u, v), green_of);
        low = _mm_srai_epi32(_mm_add_epi32(low, round), BITS);
        high = _mm_srai_epi32(_mm_add_epi32(high, round), BITS);
        __m128i green = _mm_sub_epi16(zero, _mm_packs_epi32(low, high));
        __m128i light = _mm_loadu_si128((const __m128i *)(y + i));
        __m128i first = _mm_unpacklo_epi8(light, zero), second = _mm_unpackhi_epi8(light, zero);
#define CHANNEL(offset)                                                                                                \
    _mm_packus_epi16(_mm_add_epi16(first, _mm_unpacklo_epi16(offset, offset)),                                         \
                     _mm_add_epi16(second, _mm_unpackhi_epi16(offset, offset)))
        __m128i r = CHANNEL(red), g = CHANNEL(green), b = CHANNEL(blue);
#define PART(part)                                                                                                     \
    _mm_storeu_si128((__m128i *)(out + 3 * i + 16 * (part)),                                                           \
                     _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(r, SPREAD(0, part)),                                   \
                                               _mm_shuffle_epi8(g, SPREAD(1, part))),                                  \
                                  _mm_shuffle_epi8(b, SPREAD(2, part))))
        PART(0);
        PART(1);
        PART(2);
    }
    return i;
}

__attribute__((target("avx2,f16c"))) static size_t token_f16_f16c(uint16_t *out, const int8_t *from, float scale,
                                                                  size_t width) {
    const __m256 scales = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 8 <= width; i += 8) {
        __m256i whole = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(from + i)));
        __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(whole), scales);
        _mm_storeu_si128((__m128i *)(out + i), _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
    }
    return i;
}

static int has_wide_pixels(void) { return __builtin_cpu_supports("ssse3") != 0; }
static int has_halves(void) { return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("f16c") != 0; }
#else
static size_t yuv_row_ssse3(uint8_t *out, const uint8_t *y, const uint8_t *us, const uint8_t *vs, size_t width) {
    (void)out, (void)y, (void)us, (void)vs, (void)width;
    return 0;
}

static size_t token_f16_f16c(uint16_t *out, const int8_t *from, float scale, size_t width) {
    (void)out, (void)from, (void)scale, (void)width;
    return 0;
}

static int has_wide_pixels(void) { return 0; }
static int has_halves(void) { return 0; }
#endif

/* Frames of height x width pixels, both even: from Y, U and V one plane behind the other to RGB. `plain` leaves out what
 * not every CPU has. */
EXPORTED void reelshard_decode_yuv420(uint8_t *out, const uint8_t *stored, size_t num_frames, size_t height,
                                      size_t width, int plain) {
    int wide = !plain && has_wide_pixels();
    for (size_t frame = 0; frame < num_frames; frame++) {
        const uint8_t *y = stored + frame * (height * width * 3 / 2);
        const uint8_t *u = y + height * width, *v = u + height * width / 4;
        uint8_t *to = out + frame * height * width * 3;
        for (size_t row = 0; row < height; row++) {
            const uint8_t *us = u + row / 2 * (width / 2), *vs = v + row / 2 * (width / 2);
            size_t done = wide ? yuv_row_ssse3(to + row * width * 3, y + row * width, us, vs, width) : 0;
            yuv_row_plain(to + row * width * 3, y + row * width, us, vs, done, width);
        }
    }
}

/* Tokens of `width` numbers: from a scale and int8 to halves, or to floats. */
EXPORTED void reelshard_decode_int8(void *out, const uint8_t *stored, size_t num_tokens, size_t width, int to_halves,
                                    int plain) {
    int wide = !plain && has_halves();
    for (size_t token = 0; token < num_tokens; token++) {
        const uint8_t *from = stored + token * (FRONT_BYTES + width);
        const int8_t *numbers = (const int8_t *)(from + FRONT_BYTES);
        float scale;
        memcpy(&scale, from, sizeof scale);
        if (to_halves) {
            uint16_t *to = (uint16_t *)out + token * width;
            size_t done = wide ? token_f16_f16c(to, numbers, scale, width) : 0;
            token_f16_plain(to, numbers, scale, done, width);
        } else {
            float *to = (float *)out + token * width;
            for (size_t i = 0; i < width; i++)
                to[i] = (float)numbers[i] * scale;
        }
    }
}
