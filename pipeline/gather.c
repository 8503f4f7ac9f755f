/* Gathers rows of a batch out of mapped files. Two things that the C library's memcpy does not do for pieces of a few
 * kilobytes make it faster: it writes past the caches, so that the batch's old contents are not read first, and it
 * fetches the next piece while it copies this one, which no hardware prefetcher can foresee.
 *
 * Built by hatch_build.py, called through gather.py; the same in numpy is there for machines without a C compiler. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LINE_BYTES 64
#define AHEAD_BYTES 4096

#ifdef __SSE2__
#include <emmintrin.h>

static void copy_line(uint8_t *to, const uint8_t *from) {
    for (int i = 0; i < LINE_BYTES; i += 16)
        _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
}

static int can_stream(const uint8_t *to) { return (uintptr_t)to % 16 == 0; }

static void finish(void) { _mm_sfence(); }
#else
static void copy_line(uint8_t *to, const uint8_t *from) { memcpy(to, from, LINE_BYTES); }

static int can_stream(const uint8_t *to) { return to != NULL; }

static void finish(void) {}
#endif

/* Copies `size` bytes while it fetches as many from `next` on into the cache; fetching from nowhere does no harm. */
static void copy(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *next) {
    size_t done = 0;
    if (can_stream(to))
        for (; done + LINE_BYTES <= size; done += LINE_BYTES) {
            __builtin_prefetch(next + done);
            copy_line(to + done, from + done);
        }
    memcpy(to + done, from + done, size - done);
}

/* Fills `out`, num_rows x num_chosen x piece_bytes.
 *
 * sources:   address of each row's payload, num_pieces x piece_bytes; 0 leaves the row of `out` as it is.
 * positions: num_rows x num_chosen, which pieces to take; NULL takes all, and num_chosen is num_pieces.
 *
 * Returns 0, or 1 + the row that names a piece which does not exist. */
int reelshard_gather(uint8_t *out, const uint64_t *sources, const int64_t *positions, size_t num_rows,
                     size_t num_chosen, size_t num_pieces, size_t piece_bytes) {
    for (size_t row = 0; row < num_rows; row++) {
        const uint8_t *source = (const uint8_t *)(uintptr_t)sources[row];
        uint8_t *to = out + row * num_chosen * piece_bytes;
        if (source == NULL)
            continue;
        if (positions == NULL) {
            copy(to, source, num_pieces * piece_bytes, source + AHEAD_BYTES);
            continue;
        }
        const int64_t *chosen = positions + row * num_chosen;
        for (size_t i = 0; i < num_chosen; i++, to += piece_bytes) {
            if (chosen[i] < 0 || (size_t)chosen[i] >= num_pieces)
                return (int)row + 1;
            size_t next = i + 1 < num_chosen ? i + 1 : i;
            copy(to, source + chosen[i] * piece_bytes, piece_bytes, source + chosen[next] * piece_bytes);
        }
    }
    finish();
    return 0;
}
