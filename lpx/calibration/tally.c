/* What calibration does with every value of every activation: see tally.py, which loads this file
 * compiled, and does without where it is not. Nothing of Python is in here, so that it compiles
 * where Python's headers are missing.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    CODES = 0x8000,
    BINS = 0x7f80, /* codes of finite values; those of infinities and NaN come after */
    /* Tables that take turns: a processor waits to count one value twice in a row in one place,
       and half of what a ReLU gives is zero. */
    TURNS = 4,
    PAGE = 64, /* divides CODES and BINS */
    /* Values that a core's first cache holds from one reading to the next, and few enough for a
       sum of floats to be good. */
    CHUNK = 1 << 12,
    ABREAST = 16, /* as many as any vector holds */
    FRACTION = 23, /* bits of a float's fraction, below its 8 of exponent */
    /* Powers of two of an exact sum that share an integer, and such integers: see exact_mean.py. */
    POWERS = 16,
    PARTS = 16,
};

typedef struct {
    float lows[ABREAST], highs[ABREAST];
} Extremes;

/* Extremes of a chunk, which pass NaN over. In lanes, so that compilers make vectors of them. */
static void extend(const float *values, size_t count, Extremes *extremes)
{
    Extremes found = *extremes;
    size_t i = 0;

    for (; i + ABREAST <= count; i += ABREAST)
        for (int lane = 0; lane < ABREAST; lane++) {
            float value = values[i + lane];

            found.lows[lane] = value < found.lows[lane] ? value : found.lows[lane];
            found.highs[lane] = value > found.highs[lane] ? value : found.highs[lane];
        }
    for (; i < count; i++) {
        found.lows[0] = values[i] < found.lows[0] ? values[i] : found.lows[0];
        found.highs[0] = values[i] > found.highs[0] ? values[i] : found.highs[0];
    }
    *extremes = found;
}

/* Add the values of a chunk, whose channels alternate, to the sums of their channels; in floats,
   twice as many of which a vector holds. */
static void add(const float *values, size_t count, int block, double *sums)
{
    float added[ABREAST] = {0};
    size_t i = 0;

    for (; i + ABREAST <= count; i += ABREAST)
        for (int lane = 0; lane < ABREAST; lane++)
            added[lane] += values[i + lane];
    for (int lane = 0; i < count; i++, lane++)
        added[lane] += values[i];
    for (int lane = 0; lane < ABREAST; lane++)
        sums[lane % block] += added[lane];
}

/* Sums of all values of a group, which doubles hold whatever the values are. */
static void add_again(const float *values, size_t count, int block, double *sums)
{
    memset(sums, 0, ABREAST * sizeof *sums);
    for (size_t i = 0; i < count; i++)
        sums[i % block] += values[i];
}

static int all_finite(const double *sums)
{
    double zero = 0;

    for (int lane = 0; lane < ABREAST; lane++)
        zero += sums[lane] - sums[lane];
    return zero == 0;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static void add_exactly(float value, int64_t sum[PARTS])
{
    uint32_t bits = bits_of(value);
    int exponent = bits >> FRACTION & 0xff;
    int64_t fraction = bits & ((1 << FRACTION) - 1);
    int power = exponent ? exponent - 1 : 0;
    int64_t addend = (fraction | (int64_t)(exponent > 0) << FRACTION) << power % POWERS;

    sum[power / POWERS] += bits >> 31 ? -addend : addend;
}

static inline uint32_t code(float value)
{
    return bits_of(value) >> 16 & (CODES - 1);
}

static void tally(const float *values, size_t count, uint32_t tables[TURNS][CODES])
{
    size_t i = 0;

    for (; i + TURNS <= count; i += TURNS)
        for (int turn = 0; turn < TURNS; turn++)
            tables[turn][code(values[i + turn])]++;
    for (; i < count; i++)
        tables[0][code(values[i])]++;
}

static int any_not_finite(uint32_t tables[TURNS][CODES])
{
    uint32_t any = 0;

    for (int turn = 0; turn < TURNS; turn++)
        for (int i = BINS; i < CODES; i++)
            any |= tables[turn][i];
    return any != 0;
}

/* Clear the tables, and add them to the counts where there are any; most pages are empty. */
static void clear(uint32_t tables[TURNS][CODES], int64_t *counts)
{
    for (int turn = 0; turn < TURNS; turn++)
        for (int start = 0; start < CODES; start += PAGE) {
            uint32_t *page = tables[turn] + start, any = 0;

            for (int i = 0; i < PAGE; i++)
                any |= page[i];
            if (!any)
                continue;
            for (int i = 0; counts && i < PAGE; i++)
                counts[start + i] += page[i];
            memset(page, 0, PAGE * sizeof *page);
        }
}

/* Entries that `tables` must have. */
const int32_t lpx_tables = TURNS * CODES;

/* Tally an activation; returns 0, and adds nothing to anything, where a value is not finite.
 *
 * values: [faces][groups][plane][block], at least 1 and fewer than 2^32.
 * groups: each is of `block` channels.
 * block: 1, 2, 4, 8 or 16.
 * counts: [BINS], added to.
 * range: [2], becomes the smallest and the largest value.
 * sums: [groups][block][PARTS], to which the mean of each channel of each face is added.
 * means: [faces][groups][block], becomes those means.
 * tables: [lpx_tables], all zero, and so again afterwards; of this thread alone.
 */
int lpx_tally(const float *values, size_t faces, size_t groups, size_t plane, int block,
              int64_t *counts, float *range, int64_t *sums, float *means, uint32_t *tables)
{
    uint32_t (*turns)[CODES] = (uint32_t (*)[CODES])tables;
    const size_t size = plane * block, channels = groups * block;
    Extremes extremes;

    for (int lane = 0; lane < ABREAST; lane++)
        extremes.lows[lane] = extremes.highs[lane] = values[0];
    for (size_t group = 0; group < faces * groups; group++) {
        const float *part = values + group * size;
        double added[ABREAST] = {0};

        for (size_t start = 0; start < size; start += CHUNK) {
            size_t count = size - start < CHUNK ? size - start : CHUNK;

            extend(part + start, count, &extremes);
            add(part + start, count, block, added);
            tally(part + start, count, turns);
        }
        if (!all_finite(added))
            add_again(part, size, block, added);
        for (int lane = 0; lane < block; lane++)
            means[group * block + lane] = (float)(added[lane] / (double)plane);
    }
    if (any_not_finite(turns)) {
        clear(turns, NULL);
        return 0;
    }
    clear(turns, counts);
    for (size_t i = 0; i < faces * channels; i++)
        add_exactly(means[i], sums + i % channels * PARTS);
    /* Whether a zero is negative would depend on the order of the values: none is. */
    range[0] = range[1] = values[0] + 0.0f;
    for (int lane = 0; lane < ABREAST; lane++) {
        float low = extremes.lows[lane] + 0.0f, high = extremes.highs[lane] + 0.0f;

        range[0] = low < range[0] ? low : range[0];
        range[1] = high > range[1] ? high : range[1];
    }
    return 1;
}
