/* Draws sets of positions at random: what choose.py does in numpy, bit for bit the same, at a tenth of the time.
 *
 * Built by hatch_build.py, called through choose.py; without a C compiler numpy does it. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))

/* The finaliser of splitmix64, as bits.py has it. */
static uint64_t mix(uint64_t value) {
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
    value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
    return value ^ (value >> 31);
}

/* The value that is at `place` when all are sorted (Hoare's selection); no two are equal. Changes their order. */
static uint64_t select_value(uint64_t *values, size_t count, size_t place) {
    size_t first = 0, last = count - 1;
    while (first < last) {
        uint64_t pivot = values[first + (last - first) / 2];
        size_t low = first, high = last;
        for (;; low++, high--) {
            while (values[low] < pivot)
                low++;
            while (values[high] > pivot)
                high--;
            if (low >= high)
                break;
            uint64_t other = values[low];
            values[low] = values[high];
            values[high] = other;
        }
        if (place <= high)
            last = high;
        else
            first = high + 1;
    }
    return values[place];
}

/* The value that is at `place` when all keys are sorted. It is looked for among those alone that share its first byte,
 * which are few, as keys are random. */
static uint64_t find_threshold(const uint64_t *keys, size_t count, size_t place, uint64_t *scratch) {
    uint32_t counts[256] = {0};
    for (size_t i = 0; i < count; i++)
        counts[keys[i] >> 56]++;
    size_t byte = 0, before = 0;
    while (before + counts[byte] <= place)
        before += counts[byte++];
    size_t num_alike = 0;
    for (size_t i = 0; i < count; i++) {
        scratch[num_alike] = keys[i];
        num_alike += keys[i] >> 56 == byte;
    }
    return select_value(scratch, num_alike, place - before);
}

/* For each sample the `num_chosen` of `count` positions that have the smallest random keys, in ascending order, and the
 * others. The low bits of a key are the position, so no two are equal.
 *
 * key:     of seed and epoch.
 * chosen:  num_samples x num_chosen.
 * others:  num_samples x (count - num_chosen).
 * scratch: 3 x (count + 1). */
EXPORTED void reelshard_choose(uint64_t key, const int64_t *samples, size_t num_samples, size_t count,
                               size_t num_chosen, int64_t *chosen, int64_t *others, uint64_t *scratch) {
    uint64_t low_bits = 1;
    while (low_bits < count)
        low_bits <<= 1;
    low_bits -= 1;
    uint64_t *keys = scratch, *rest = scratch + count + 1;
    int64_t *ours = (int64_t *)(rest + count + 1); /* the one behind the last of either is written to */
    size_t num_others = count - num_chosen;
    for (size_t row = 0; row < num_samples; row++) {
        uint64_t stream = mix((uint64_t)samples[row] ^ key);
        for (size_t i = 0; i < count; i++)
            keys[i] = (mix(stream + i) & ~low_bits) | i;
        uint64_t threshold = find_threshold(keys, count, num_chosen - 1, rest);
        size_t num_ours = 0;
        for (size_t i = 0; i < count; i++) { /* without a branch: no CPU foresees what is random */
            ours[num_ours] = (int64_t)i;
            rest[i - num_ours] = i;
            num_ours += keys[i] <= threshold;
        }
        memcpy(chosen + row * num_chosen, ours, num_chosen * sizeof *ours);
        memcpy(others + row * num_others, rest, num_others * sizeof *rest);
    }
}
