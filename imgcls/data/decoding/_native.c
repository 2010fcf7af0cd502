/* Decode a box of a baseline JPEG straight into a batch: crop, antialiased resize and flip in one pass over the rows.
 *
 * Only what the box needs is decoded: the columns by jpeg_crop_scanline, the rows above by jpeg_skip_scanlines, and
 * nothing below. The resize does the arithmetic of Pillow's Image.resize(size, filter, box=box) to the bit, with its
 * filters BILINEAR and BICUBIC (float32 box, double weights rounded to 22 bits, bytes between the passes), so that a
 * file gives the same pixels whichever of the two decodes it.
 *
 * Loaded with ctypes by native.py; there is no Python in here. Every function returns codes. libjpeg's errors and its
 * first warning leave by longjmp to the setjmp of the same call: Pillow then judges the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>

#include <jerror.h>

#include "_intervals.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "imgcls needs the headers of libjpeg-turbo 2.1 or later"
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define HAVE_AVX2_BUILD 1
#else
#define HAVE_AVX2_BUILD 0
#endif

/* Every 64-bit ARM has NEON, so there is no question at run time. */
#if defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define HAVE_NEON 1
#else
#define HAVE_NEON 0
#endif

#ifdef _WIN32
#define OPEN_FLAGS (O_RDONLY | O_BINARY | O_NOINHERIT)
/* Of windows.h, whose other names are some of libjpeg's. */
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned int page, unsigned long flags, const char *text,
                                                        int length, wchar_t *wide, int capacity);
#define UTF8_PAGE 65001u
#else
/* O_NONBLOCK: a pipe among the files must not hang the reader, which refuses what is not a regular file. */
#define OPEN_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK)
#endif

#define API __attribute__((visibility("default")))

/* Raised with every change of a signature, of the pixels, or of the files that are taken; native.py refuses a library of another number. */
#define IMGCLS_NATIVE_VERSION 6

/* The numbers native.Status gives. */
enum {
    STATUS_OK = 0,
    STATUS_HEADER = 1,
    STATUS_UNSUPPORTED = 2,
    STATUS_TOO_LARGE = 3,
    STATUS_CORRUPT = 4,
    STATUS_TRUNCATED = 5,
    STATUS_BOX = 6,
    STATUS_MEMORY = 7,
    STATUS_UNREADABLE = 8
};

enum { MAX_SIDE = 16384, WEIGHT_BITS = 22, LOW_BITS = 14, PADDING = 64 };

/* What a workspace keeps between calls at most; a rare huge image does not stay in memory for ever. */
static const size_t KEEP_SCRATCH = (size_t)16 << 20;
static const size_t KEEP_FILES = (size_t)64 << 20;

/* A larger file is none of an image of so few pixels as are decoded; native.MAX_FILE_BYTES is the same. */
static const int64_t MOST_FILE = (int64_t)1 << 30;

/* What one image may need, beyond any sane shape. */
static const size_t MOST_SCRATCH = (size_t)1 << 30;

_Static_assert(sizeof(size_t) >= 8, "the sizes of the tables are computed without checks in 64 bits");

typedef struct {
    unsigned char *bytes;
    size_t capacity;
} Buffer;

typedef struct {
    const unsigned char *data;
    size_t length;
    int32_t status;
} File;

typedef struct {
    Buffer scratch;
    Buffer contents;
    File *files;
    size_t num_files;
    size_t files_capacity;
    int use_avx2;
    Intervals intervals;
} Workspace;

typedef struct {
    struct jpeg_error_mgr manager;
    jmp_buf escape;
    int code;
} ErrorTrap;

typedef struct {
    struct jpeg_decompress_struct cinfo;
    ErrorTrap trap;
} Decoder;

/* How pixels are interpolated, by the numbers of native.FILTERS. */
enum { BILINEAR = 0, BICUBIC = 1 };

/* Output position i is the weighted sum of count[i] source positions from first[i] on. */
typedef struct {
    int32_t *first;
    int32_t *count;
    int32_t *weights;
    int stride;
    int begin;
    int end;
} Axis;

static int grow(Buffer *buffer, size_t size) {
    if (size <= buffer->capacity) return 1;
    size_t capacity = size + size / 4;
    unsigned char *bytes = realloc(buffer->bytes, capacity);
    if (!bytes) return 0;
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return 1;
}

static void release(Buffer *buffer) {
    free(buffer->bytes);
    buffer->bytes = NULL;
    buffer->capacity = 0;
}

static void on_error(j_common_ptr cinfo) {
    ErrorTrap *trap = (ErrorTrap *)cinfo->err;
    trap->code = cinfo->err->msg_code;
    longjmp(trap->escape, 1);
}

static void on_message(j_common_ptr cinfo, int level) {
    if (level < 0) on_error(cinfo);
}

static void on_output(j_common_ptr cinfo) { (void)cinfo; }

static void prepare(Decoder *decoder) {
    decoder->cinfo.err = jpeg_std_error(&decoder->trap.manager);
    decoder->trap.manager.error_exit = on_error;
    decoder->trap.manager.emit_message = on_message;
    decoder->trap.manager.output_message = on_output;
    /* jpeg_destroy is called even when jpeg_create itself fails. */
    decoder->cinfo.mem = NULL;
}

/* Whether the entropy-coded data are followed by the end of the image. Where another marker comes first, a decoder
 * that reads on to the end may refuse the file, whatever rows it was asked for: such a file is Pillow's to judge. */
static int find_end(const unsigned char *rest, size_t length) {
    const unsigned char *at = rest, *end = rest + length;
    while (at < end && (at = memchr(at, 0xFF, (size_t)(end - at)))) {
        while (at < end && *at == 0xFF) at++;
        if (at == end) break;
        if (*at != 0 && (*at < JPEG_RST0 || *at > JPEG_RST0 + 7)) return *at == JPEG_EOI ? STATUS_OK : STATUS_UNSUPPORTED;
        at++;
    }
    return STATUS_TRUNCATED;
}

/* Whether a file of intervals, which has nothing behind its image, is whole. */
static int ends_well(const File *file) {
    return file->length >= 2 && file->data[file->length - 2] == 0xFF && file->data[file->length - 1] == JPEG_EOI;
}

/* Read the header; the sizes are set wherever it could be read, also where the file is Pillow's to decode. */
static int read_header(Decoder *decoder, const File *file, int64_t max_pixels, int32_t *height, int32_t *width) {
    j_decompress_ptr cinfo = &decoder->cinfo;
    if (file->length < 4 || file->data[0] != 0xFF || file->data[1] != 0xD8) return STATUS_HEADER;
    jpeg_create_decompress(cinfo);
    jpeg_mem_src(cinfo, file->data, (unsigned long)file->length);
    jpeg_read_header(cinfo, TRUE);
    *height = (int32_t)cinfo->image_height;
    *width = (int32_t)cinfo->image_width;
    if ((int64_t)cinfo->image_height * cinfo->image_width > max_pixels) return STATUS_TOO_LARGE;
    /* Only what has one scan is decoded here: the number of scans, which has a limit, is Pillow's to check. */
    if (cinfo->data_precision != 8 || cinfo->progressive_mode || cinfo->arith_code || jpeg_has_multiple_scans(cinfo))
        return STATUS_UNSUPPORTED;
    int gray = cinfo->num_components == 1 && cinfo->jpeg_color_space == JCS_GRAYSCALE;
    int colour =
        cinfo->num_components == 3 && (cinfo->jpeg_color_space == JCS_YCbCr || cinfo->jpeg_color_space == JCS_RGB);
    if (!gray && !colour) return STATUS_UNSUPPORTED;
    for (int c = 0; c < cinfo->num_components; c++)
        if (cinfo->comp_info[c].h_samp_factor > 2 || cinfo->comp_info[c].v_samp_factor > 2) return STATUS_UNSUPPORTED;
    return STATUS_OK;
}

static int status_of_trap(const Decoder *decoder, int otherwise) {
    return decoder->trap.code == JERR_OUT_OF_MEMORY ? STATUS_MEMORY : otherwise;
}

static int32_t size_of(const File *file, int64_t max_pixels, int32_t *size) {
    Segment segment;
    if (read_segment(file->data, file->length, &segment) && ends_well(file)) {
        size[0] = segment.height; /* the header is looked at when it is decoded */
        size[1] = segment.width;
        return (int64_t)segment.height * segment.width > max_pixels ? STATUS_TOO_LARGE : STATUS_OK;
    }
    Decoder decoder;
    prepare(&decoder);
    size[0] = size[1] = 0;
    if (setjmp(decoder.trap.escape)) {
        jpeg_destroy_decompress(&decoder.cinfo);
        return status_of_trap(&decoder, STATUS_HEADER);
    }
    int status = read_header(&decoder, file, max_pixels, &size[0], &size[1]);
    if (status == STATUS_OK)
        status = find_end(decoder.cinfo.src->next_input_byte, decoder.cinfo.src->bytes_in_buffer);
    jpeg_destroy_decompress(&decoder.cinfo);
    return status;
}

/* How far a filter reaches on either side, in steps of the coarser of the two grids. */
static double reach(int filter) { return filter == BICUBIC ? 2.0 : 1.0; }

static int axis_stride(float begin, float end, int out_size, int filter) {
    double scale = (double)(end - begin) / out_size;
    return (int)ceil(reach(filter) * (scale < 1.0 ? 1.0 : scale)) * 2 + 1;
}

/* The triangle; or the cubic of Keys 1981 with a = -0.5, in Pillow's order of operations. */
static double weight_at(double distance, int filter) {
    const double a = -0.5;
    double x = fabs(distance);
    if (filter == BILINEAR) return x < 1.0 ? 1.0 - x : 0.0;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    return x < 2.0 ? (((x - 5) * x + 8) * x - 4) * a : 0.0;
}

/* Pillow's weights, in its order of operations. Zero when some output has no source. */
static int fill_axis(Axis *axis, int in_size, float begin, float end, int out_size, int flip, int filter) {
    double scale = (double)(end - begin) / out_size;
    double step = scale < 1.0 ? 1.0 : scale;
    double support = reach(filter) * step;
    double inverse = 1.0 / step;
    axis->begin = INT_MAX;
    axis->end = 0;
    for (int i = 0; i < out_size; i++) {
        int32_t *weights = axis->weights + (size_t)(flip ? out_size - 1 - i : i) * axis->stride;
        double centre = begin + (i + 0.5) * scale;
        int first = (int)(centre - support + 0.5);
        if (first < 0) first = 0;
        int last = (int)(centre + support + 0.5);
        if (last > in_size) last = in_size;
        int count = last - first;
        if (count < 1 || count > axis->stride) return 0;
        double total = 0.0;
        for (int k = 0; k < count; k++) total += weight_at((k + first - centre + 0.5) * inverse, filter);
        for (int k = 0; k < count; k++) {
            double weight = weight_at((k + first - centre + 0.5) * inverse, filter);
            if (total != 0.0) weight /= total;
            weights[k] = (int32_t)((weight < 0 ? -0.5 : 0.5) + weight * (1 << WEIGHT_BITS));
        }
        int at = flip ? out_size - 1 - i : i;
        axis->first[at] = first;
        axis->count[at] = count;
        if (first < axis->begin) axis->begin = first;
        if (last > axis->end) axis->end = last;
    }
    return 1;
}

static unsigned char to_byte(int32_t sum) {
    int32_t value = sum >> WEIGHT_BITS;
    return value > 255 ? 255 : value < 0 ? 0 : (unsigned char)value;
}

static inline void shrink_row_of(const unsigned char *row, const Axis *axis, int width, const int channels,
                                 unsigned char *out) {
    for (int x = 0; x < width; x++) {
        const unsigned char *pixel = row + (size_t)(axis->first[x] - axis->begin) * channels;
        const int32_t *weights = axis->weights + (size_t)x * axis->stride;
        int32_t sums[3] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1)};
        for (int k = 0; k < axis->count[x]; k++, pixel += channels)
            for (int c = 0; c < channels; c++) sums[c] += weights[k] * pixel[c];
        for (int c = 0; c < channels; c++) *out++ = to_byte(sums[c]);
    }
}

#if HAVE_NEON

/* Three channels; reads up to 13 bytes past the last tap and writes one past the last output, as the paddings allow. */
static void shrink_row_neon(const unsigned char *row, const Axis *axis, int width, unsigned char *out) {
    /* Of the bytes r g b r g b ..., one tap each as three int32; 255 gives 0. */
    static const uint8_t places[4][16] = {
        {0, 255, 255, 255, 1, 255, 255, 255, 2, 255, 255, 255, 255, 255, 255, 255},
        {3, 255, 255, 255, 4, 255, 255, 255, 5, 255, 255, 255, 255, 255, 255, 255},
        {6, 255, 255, 255, 7, 255, 255, 255, 8, 255, 255, 255, 255, 255, 255, 255},
        {9, 255, 255, 255, 10, 255, 255, 255, 11, 255, 255, 255, 255, 255, 255, 255},
    };
    const uint8x16_t spread[4] = {vld1q_u8(places[0]), vld1q_u8(places[1]), vld1q_u8(places[2]), vld1q_u8(places[3])};
#define TAP(j) vreinterpretq_s32_u8(vqtbl1q_u8(pixels, spread[j]))
    for (int x = 0; x < width; x++) {
        const unsigned char *pixel = row + (size_t)(axis->first[x] - axis->begin) * 3;
        const int32_t *weights = axis->weights + (size_t)x * axis->stride;
        int32x4_t sums = vdupq_n_s32(1 << (WEIGHT_BITS - 1));
        int count = axis->count[x], k = 0;
        for (; k + 4 <= count; k += 4) {
            uint8x16_t pixels = vld1q_u8(pixel + 3 * k);
            sums = vmlaq_n_s32(sums, TAP(0), weights[k]);
            sums = vmlaq_n_s32(sums, TAP(1), weights[k + 1]);
            sums = vmlaq_n_s32(sums, TAP(2), weights[k + 2]);
            sums = vmlaq_n_s32(sums, TAP(3), weights[k + 3]);
        }
        if (k < count) {
            uint8x16_t pixels = vld1q_u8(pixel + 3 * k);
            sums = vmlaq_n_s32(sums, TAP(0), weights[k]);
            if (k + 1 < count) sums = vmlaq_n_s32(sums, TAP(1), weights[k + 1]);
            if (k + 2 < count) sums = vmlaq_n_s32(sums, TAP(2), weights[k + 2]);
        }
        uint16x4_t words = vqmovun_s32(vshrq_n_s32(sums, WEIGHT_BITS));
        uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);
        memcpy(out + 3 * (size_t)x, &bytes, 4);
    }
#undef TAP
}

#endif

static void shrink_row(const unsigned char *row, const Axis *axis, int width, int channels, unsigned char *out) {
#if HAVE_NEON
    if (channels == 3) shrink_row_neon(row, axis, width, out);
#else
    if (channels == 3) shrink_row_of(row, axis, width, 3, out);
#endif
    else shrink_row_of(row, axis, width, 1, out);
}

static void blend_rows(const unsigned char *const *rows, const int32_t *weights, int count, int from, int length,
                       unsigned char *out) {
    /* In blocks, so that a compiler can keep the sums in vector registers. */
    enum { BLOCK = 32 };
    for (int at = from; at < length; at += BLOCK) {
        int size = length - at < BLOCK ? length - at : BLOCK;
        int32_t sums[BLOCK];
        for (int i = 0; i < BLOCK; i++) sums[i] = 1 << (WEIGHT_BITS - 1);
        for (int k = 0; k < count; k++) {
            /* The ring's rows are padded by more than a block. */
            const unsigned char *row = rows[k] + at;
            int32_t weight = weights[k];
            for (int i = 0; i < BLOCK; i++) sums[i] += weight * row[i];
        }
        for (int i = 0; i < size; i++) out[at + i] = to_byte(sums[i]);
    }
}

#if HAVE_AVX2_BUILD

/* A weight of 24 bits as high * 2^14 + low, where high has the sign, so that pairs of taps go through the 16-bit multiply-add exactly. Table
 * per output and per four taps: eight int32 of high parts, eight of low; the lower half holds taps 0 and 1 for each
 * of r, g, b, the upper half taps 2 and 3. */
static void pack_weights(const Axis *axis, int width, int groups, int32_t *table) {
    for (int x = 0; x < width; x++) {
        const int32_t *weights = axis->weights + (size_t)x * axis->stride;
        for (int g = 0; g < groups; g++) {
            for (int half = 0; half < 2; half++) {
                uint32_t high = 0, low = 0;
                for (int j = 0; j < 2; j++) {
                    int k = 4 * g + 2 * half + j;
                    int32_t weight = k < axis->count[x] ? weights[k] : 0;
                    high |= ((uint32_t)(weight >> LOW_BITS) & 0xFFFF) << (16 * j);
                    low |= ((uint32_t)weight & ((1u << LOW_BITS) - 1)) << (16 * j);
                }
                for (int c = 0; c < 4; c++) {
                    table[4 * half + c] = (int32_t)high;
                    table[8 + 4 * half + c] = (int32_t)low;
                }
            }
            table += 16;
        }
    }
}

__attribute__((target("avx2"))) static inline __m256i sum_taps(const unsigned char *pixels, const int32_t *table,
                                                                  int groups, __m256i spread) {
    __m256i high = _mm256_setzero_si256(), low = _mm256_setzero_si256();
    for (int g = 0; g < groups; g++) {
        __m256i taps = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(pixels + 12 * g)));
        taps = _mm256_shuffle_epi8(taps, spread);
        high = _mm256_add_epi32(high, _mm256_madd_epi16(taps, _mm256_load_si256((const __m256i *)(table + 16 * g))));
        low = _mm256_add_epi32(low, _mm256_madd_epi16(taps, _mm256_load_si256((const __m256i *)(table + 16 * g + 8))));
    }
    return _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
}

/* Three channels, four outputs at a time; reads up to 16 bytes past the last tap and writes whole fours. */
__attribute__((target("avx2"))) static inline void shrink_row_avx2_groups(const unsigned char *row,
                                                                            const int32_t *offsets,
                                                                            const int32_t *table, int groups,
                                                                            int width, unsigned char *out) {
    const __m256i spread = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                            6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m128i gather = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    const int step = 16 * groups;
    for (int x = 0; x < width; x += 4) {
        __m256i a = sum_taps(row + offsets[x], table, groups, spread);
        __m256i b = sum_taps(row + offsets[x + 1], table + step, groups, spread);
        __m256i c = sum_taps(row + offsets[x + 2], table + 2 * step, groups, spread);
        __m256i d = sum_taps(row + offsets[x + 3], table + 3 * step, groups, spread);
        table += 4 * step;
        /* Lower halves: outputs 0 and 2; upper halves: 1 and 3. */
        __m256i ab = _mm256_add_epi32(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
        __m256i cd = _mm256_add_epi32(_mm256_permute2x128_si256(c, d, 0x20), _mm256_permute2x128_si256(c, d, 0x31));
        ab = _mm256_srai_epi32(_mm256_add_epi32(ab, half), WEIGHT_BITS);
        cd = _mm256_srai_epi32(_mm256_add_epi32(cd, half), WEIGHT_BITS);
        __m256i words = _mm256_packus_epi32(ab, cd);
        words = _mm256_permute4x64_epi64(words, 0xD8);
        __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        /* Now in the order 0 1 2 3, each as r g b 0. */
        _mm_storeu_si128((__m128i *)(out + 3 * x), _mm_shuffle_epi8(bytes, gather));
    }
}

__attribute__((target("avx2"))) static void shrink_row_avx2(const unsigned char *row, const int32_t *offsets,
                                                              const int32_t *table, int groups, int width,
                                                              unsigned char *out) {
    switch (groups) {
        case 1: shrink_row_avx2_groups(row, offsets, table, 1, width, out); break;
        case 2: shrink_row_avx2_groups(row, offsets, table, 2, width, out); break;
        default: shrink_row_avx2_groups(row, offsets, table, groups, width, out);
    }
}

__attribute__((target("avx2"))) static void blend_rows_avx2(const unsigned char *const *rows, const int32_t *weights,
                                                              int count, int length, unsigned char *out) {
    const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    int i = 0;
    for (; i + 32 <= length; i += 32) {
        __m256i s0 = half, s1 = half, s2 = half, s3 = half;
        for (int k = 0; k < count; k++) {
            const unsigned char *row = rows[k] + i;
            __m256i weight = _mm256_set1_epi32(weights[k]);
#define TAP(at) _mm256_mullo_epi32(weight, _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(row + (at)))))
            s0 = _mm256_add_epi32(s0, TAP(0));
            s1 = _mm256_add_epi32(s1, TAP(8));
            s2 = _mm256_add_epi32(s2, TAP(16));
            s3 = _mm256_add_epi32(s3, TAP(24));
#undef TAP
        }
        s0 = _mm256_packus_epi32(_mm256_srai_epi32(s0, WEIGHT_BITS), _mm256_srai_epi32(s1, WEIGHT_BITS));
        s2 = _mm256_packus_epi32(_mm256_srai_epi32(s2, WEIGHT_BITS), _mm256_srai_epi32(s3, WEIGHT_BITS));
        __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(s0, s2), order);
        _mm256_storeu_si256((__m256i *)(out + i), bytes);
    }
    blend_rows(rows, weights, count, i, length, out);
}

#endif

typedef struct {
    Axis across;
    Axis down;
    int32_t *offsets;
    int32_t *table;
    int groups;
    unsigned char *row;
    unsigned char *ring;
    size_t ring_stride;
    int ring_rows;
    const unsigned char **taps;
} Plan;

static size_t take(size_t *total, size_t size) {
    size_t at = *total;
    *total += (size + 63) / 64 * 64;
    return at;
}

typedef struct {
    int height;
    int width;
    int channels;
} Shape;

/* Lay the tables and buffers of one image out in the workspace, for axes whose strides are known. */
static int lay_out(Plan *plan, Workspace *space, int in_height, int in_width, Shape shape) {
    size_t width4 = ((size_t)shape.width + 3) / 4 * 4;
    plan->groups = (plan->across.stride + 3) / 4;
    plan->ring_rows = plan->down.stride < in_height ? plan->down.stride : in_height;
    plan->ring_stride = (width4 * shape.channels + PADDING + 63) / 64 * 64;
    size_t row_bytes = ((size_t)in_width + 4 * (size_t)plan->groups) * shape.channels + 8 + PADDING;

    size_t total = 0;
    size_t across_first = take(&total, sizeof(int32_t) * shape.width);
    size_t across_count = take(&total, sizeof(int32_t) * shape.width);
    size_t across_weights = take(&total, sizeof(int32_t) * shape.width * plan->across.stride);
    size_t down_first = take(&total, sizeof(int32_t) * shape.height);
    size_t down_count = take(&total, sizeof(int32_t) * shape.height);
    size_t down_weights = take(&total, sizeof(int32_t) * shape.height * plan->down.stride);
    size_t offsets = take(&total, sizeof(int32_t) * width4);
    size_t table = take(&total, sizeof(int32_t) * 16 * width4 * plan->groups);
    size_t taps = take(&total, sizeof(unsigned char *) * plan->ring_rows);
    size_t row = take(&total, row_bytes);
    size_t ring = take(&total, plan->ring_stride * plan->ring_rows);
    if (total > MOST_SCRATCH || !grow(&space->scratch, total + 64)) return STATUS_MEMORY;

    unsigned char *base = space->scratch.bytes + (64 - (uintptr_t)space->scratch.bytes % 64) % 64;
    plan->across.first = (int32_t *)(base + across_first);
    plan->across.count = (int32_t *)(base + across_count);
    plan->across.weights = (int32_t *)(base + across_weights);
    plan->down.first = (int32_t *)(base + down_first);
    plan->down.count = (int32_t *)(base + down_count);
    plan->down.weights = (int32_t *)(base + down_weights);
    plan->offsets = (int32_t *)(base + offsets);
    plan->table = (int32_t *)(base + table);
    plan->taps = (const unsigned char **)(base + taps);
    /* libjpeg-turbo's colour conversion writes past the caches (movntdq) to a row aligned to its vectors, and reading
     * it back then waits for memory: three quarters of the time of the resize. To any other row it writes as usual. */
    plan->row = base + row + 8;
    plan->ring = base + ring;
    memset(base + row, 0, row_bytes);
    return STATUS_OK;
}

static int make_plan(Plan *plan, Workspace *space, int in_height, int in_width, const double *box, int flip,
                     int filter, Shape shape) {
    /* Written so that a NaN fails too. */
    if (!(box[0] >= 0 && box[1] >= 0 && box[2] <= in_width && box[3] <= in_height)) return STATUS_BOX;
    float left = (float)box[0], top = (float)box[1], right = (float)box[2], bottom = (float)box[3];
    if (!(left < right && top < bottom)) return STATUS_BOX;
    plan->across.stride = axis_stride(left, right, shape.width, filter);
    plan->down.stride = axis_stride(top, bottom, shape.height, filter);
    int status = lay_out(plan, space, in_height, in_width, shape);
    if (status != STATUS_OK) return status;
    if (!fill_axis(&plan->across, in_width, left, right, shape.width, flip, filter)) return STATUS_BOX;
    if (!fill_axis(&plan->down, in_height, top, bottom, shape.height, 0, filter)) return STATUS_BOX;
#if HAVE_AVX2_BUILD
    if (space->use_avx2 && shape.channels == 3) {
        int longest = 1;
        for (int x = 0; x < shape.width; x++)
            if (plan->across.count[x] > longest) longest = plan->across.count[x];
        plan->groups = (longest + 3) / 4;
        /* Outputs are made in fours; those past the last are of no weight. */
        int width4 = (shape.width + 3) / 4 * 4;
        pack_weights(&plan->across, shape.width, plan->groups, plan->table);
        memset(plan->table + (size_t)16 * plan->groups * shape.width, 0,
               sizeof(int32_t) * 16 * plan->groups * (width4 - shape.width));
        for (int x = 0; x < width4; x++)
            plan->offsets[x] = x < shape.width ? (plan->across.first[x] - plan->across.begin) * shape.channels : 0;
    }
#endif
    return STATUS_OK;
}

static void resize_rows(Workspace *space, Decoder *decoder, const Plan *plan, unsigned char *row, int shift,
                        Shape shape, unsigned char *out) {
    const Axis *down = &plan->down;
    const unsigned char *kept = row + shift;
    int length = shape.width * shape.channels;
    int y = 0;
    for (int source = down->begin; source < down->end; source++) {
        JSAMPROW rows[1] = {row};
        if (jpeg_read_scanlines(&decoder->cinfo, rows, 1) != 1) on_error((j_common_ptr)&decoder->cinfo);
        unsigned char *slot = plan->ring + (size_t)(source % plan->ring_rows) * plan->ring_stride;
#if HAVE_AVX2_BUILD
        if (space->use_avx2 && shape.channels == 3)
            shrink_row_avx2(kept, plan->offsets, plan->table, plan->groups, shape.width, slot);
        else
#endif
            shrink_row(kept, &plan->across, shape.width, shape.channels, slot);
        for (; y < shape.height && down->first[y] + down->count[y] - 1 <= source; y++) {
            int count = down->count[y];
            const int32_t *weights = down->weights + (size_t)y * down->stride;
            for (int k = 0; k < count; k++)
                plan->taps[k] = plan->ring + (size_t)((down->first[y] + k) % plan->ring_rows) * plan->ring_stride;
#if HAVE_AVX2_BUILD
            if (space->use_avx2)
                blend_rows_avx2(plan->taps, weights, count, length, out + (size_t)y * length);
            else
#endif
                blend_rows(plan->taps, weights, count, 0, length, out + (size_t)y * length);
        }
    }
}

static int decode_box(Workspace *space, Decoder *decoder, const File *file, const double *box, int flip, int filter,
                      Shape shape, unsigned char *out) {
    j_decompress_ptr cinfo = &decoder->cinfo;
    int32_t height, width;
    int status = read_header(decoder, file, INT64_MAX, &height, &width);
    if (status != STATUS_OK) return status;
    Segment segment;
    int by_intervals = read_segment(file->data, file->length, &segment) && ends_well(file);
    /* Another image than its size was said of, or other intervals: Pillow reads it like any other JPEG. */
    if (by_intervals && (segment.height != height || segment.width != width || segment.interval != cinfo->restart_interval))
        return STATUS_CORRUPT;
    Plan plan;
    status = make_plan(&plan, space, height, width, box, flip, filter, shape);
    if (status != STATUS_OK) return status;

    cinfo->out_color_space = shape.channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    cinfo->dct_method = JDCT_ISLOW;
    const unsigned char *scan = cinfo->src->next_input_byte;
    jpeg_start_decompress(cinfo);
    if (by_intervals) use_intervals(cinfo, &space->intervals, &segment, scan, file->data + file->length);
    /* libjpeg takes the edges of its crop for the edges of the image when it interpolates chroma, which spoils the
     * outermost column: ask for one or two more on either side. */
    int from = plan.across.begin >= 1 ? plan.across.begin - 1 : 0;
    int to = plan.across.end + 2 <= width ? plan.across.end + 2 : width;
    JDIMENSION offset = (JDIMENSION)from, columns = (JDIMENSION)(to - from);
    if (from > 0 || to < width) jpeg_crop_scanline(cinfo, &offset, &columns);
    else columns = (JDIMENSION)width;
    if (by_intervals) keep_columns(cinfo, &space->intervals, offset, columns);
    /* A skip off a row group's boundary returns wrong rows (libjpeg-turbo issue 915); from row 0 all are right. */
    if (plan.down.begin > 0 &&
        jpeg_skip_scanlines(cinfo, (JDIMENSION)plan.down.begin) != (JDIMENSION)plan.down.begin)
        return STATUS_CORRUPT;
    /* The columns asked for lie within the image, so its row holds them. */
    if (offset + columns > (JDIMENSION)width) return STATUS_CORRUPT;
    resize_rows(space, decoder, &plan, plan.row, (plan.across.begin - (int)offset) * shape.channels, shape, out);
    /* A libjpeg that does not ask for its MCUs where ours does. */
    if (by_intervals && space->intervals.position == 0) return STATUS_UNSUPPORTED;
    return STATUS_OK;
}

static int32_t decode_one(Workspace *space, const File *file, const double *box, int flip, int filter, Shape shape,
                          unsigned char *out) {
    Decoder decoder;
    prepare(&decoder);
    if (setjmp(decoder.trap.escape)) {
        jpeg_destroy_decompress(&decoder.cinfo);
        return status_of_trap(&decoder, STATUS_CORRUPT);
    }
    int status = decode_box(space, &decoder, file, box, flip, filter, shape, out);
    jpeg_destroy_decompress(&decoder.cinfo);
    if (space->scratch.capacity > KEEP_SCRATCH) release(&space->scratch);
    return status;
}

static int reserve_files(Workspace *space, int64_t count) {
    space->num_files = 0;
    if (count < 0 || (uint64_t)count > SIZE_MAX / sizeof(File)) return 0;
    if ((size_t)count > space->files_capacity) {
        File *files = realloc(space->files, (size_t)count * sizeof(File));
        if (!files) return 0;
        space->files = files;
        space->files_capacity = (size_t)count;
    }
    return 1;
}

static int open_path(const char *path) {
#ifdef _WIN32
    /* Python's bytes of a path are UTF-8, and open() would take them for letters of the system's code page. */
    wchar_t wide[4096];
    if (!MultiByteToWideChar(UTF8_PAGE, 0, path, -1, wide, 4096)) return -1;
    return _wopen(wide, OPEN_FLAGS);
#else
    return open(path, OPEN_FLAGS);
#endif
}

/* Append one file to the workspace's contents. */
static int read_file(Workspace *space, const char *path, size_t *used, size_t *length) {
    int handle = open_path(path);
    if (handle < 0) return STATUS_UNREADABLE;
    struct stat info;
    int status = STATUS_UNREADABLE;
    if (fstat(handle, &info) == 0 && S_ISREG(info.st_mode) && (int64_t)info.st_size <= MOST_FILE) {
        size_t size = (size_t)info.st_size, done = 0;
        if (!grow(&space->contents, *used + size)) {
            status = STATUS_MEMORY;
        } else {
            while (done < size) {
                ssize_t got = read(handle, space->contents.bytes + *used + done, size - done);
                if (got > 0) done += (size_t)got;
                else if (got == 0 || errno != EINTR) break;
            }
            if (done == size) {
                *length = size;
                *used += size;
                status = STATUS_OK;
            }
        }
    }
    close(handle);
    return status;
}

#ifndef _WIN32
/* Append a range of an open file to the workspace's contents. */
static int read_range(Workspace *space, int handle, int64_t start, int64_t length, size_t *used) {
    if (start < 0 || length < 0 || length > MOST_FILE) return STATUS_UNREADABLE;
    size_t size = (size_t)length, done = 0;
    if (!grow(&space->contents, *used + size)) return STATUS_MEMORY;
    while (done < size) {
        ssize_t got = pread(handle, space->contents.bytes + *used + done, size - done, (off_t)(start + (int64_t)done));
        if (got > 0) done += (size_t)got;
        else if (got == 0 || errno != EINTR) return STATUS_UNREADABLE;
    }
    *used += size;
    return STATUS_OK;
}
#endif

static void measure(Workspace *space, int64_t max_pixels, int32_t *sizes, int32_t *statuses) {
    for (size_t i = 0; i < space->num_files; i++) {
        File *file = &space->files[i];
        sizes[2 * i] = sizes[2 * i + 1] = 0;
        if (file->status == STATUS_OK) file->status = size_of(file, max_pixels, sizes + 2 * i);
        statuses[i] = file->status;
    }
}

/* Say where files that were read are in the contents, which may have moved while they grew, and read their sizes. */
static void place_and_measure(Workspace *space, int64_t count, int64_t max_pixels, int32_t *sizes, int32_t *statuses) {
    size_t at = 0;
    for (int64_t i = 0; i < count; i++) {
        space->files[i].data = space->contents.bytes + at;
        at += space->files[i].length;
    }
    space->num_files = (size_t)count;
    measure(space, max_pixels, sizes, statuses);
}

API int32_t imgcls_native_version(void) { return IMGCLS_NATIVE_VERSION; }

/* Whether the libjpeg found at run time is of the kind compiled for; another refuses every file. */
API int32_t imgcls_native_works(void) {
    Decoder decoder;
    prepare(&decoder);
    volatile int works = 0;
    if (!setjmp(decoder.trap.escape)) {
        jpeg_create_decompress(&decoder.cinfo);
        works = 1;
    }
    jpeg_destroy_decompress(&decoder.cinfo);
    return works;
}

API int32_t imgcls_native_has_avx2(void) {
#if HAVE_AVX2_BUILD
    return __builtin_cpu_supports("avx2") ? 1 : 0;
#else
    return 0;
#endif
}

/* A workspace serves one thread at a time. NULL when there is no memory. */
API Workspace *imgcls_workspace_new(int32_t allow_avx2) {
    Workspace *space = calloc(1, sizeof(Workspace));
    if (space) space->use_avx2 = space->intervals.use_bmi2 = allow_avx2 && imgcls_native_has_avx2();
    return space;
}

API void imgcls_workspace_free(Workspace *space) {
    if (!space) return;
    release(&space->scratch);
    release(&space->contents);
    free(space->files);
    free(space);
}

/* Hold `count` files that the caller keeps alive, and read their sizes. 0, or -1 when there is no memory. */
API int32_t imgcls_open_bytes(Workspace *space, const unsigned char *const *data, const int64_t *lengths,
                              int64_t count, int64_t max_pixels, int32_t *sizes, int32_t *statuses) {
    if (!reserve_files(space, count)) return -1;
    for (int64_t i = 0; i < count; i++) {
        File file = {data[i], lengths[i] > 0 ? (size_t)lengths[i] : 0, STATUS_OK};
        space->files[i] = file;
    }
    space->num_files = (size_t)count;
    measure(space, max_pixels, sizes, statuses);
    return 0;
}

/* Read `count` files, their names one after the other in `paths`, each ended by a NUL, and their sizes. */
API int32_t imgcls_open_files(Workspace *space, const char *paths, int64_t count, int64_t max_pixels, int32_t *sizes,
                              int32_t *statuses) {
    if (!reserve_files(space, count)) return -1;
    if (space->contents.capacity > KEEP_FILES) release(&space->contents);
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        File file = {NULL, 0, STATUS_OK};
        file.status = read_file(space, paths, &used, &file.length);
        space->files[i] = file;
        paths += strlen(paths) + 1;
    }
    place_and_measure(space, count, max_pixels, sizes, statuses);
    return 0;
}

/* Read `count` ranges of open files, of `lengths` bytes from `starts` on, and their sizes. -2 where there is no pread. */
API int32_t imgcls_open_ranges(Workspace *space, const int32_t *handles, const int64_t *starts, const int64_t *lengths,
                               int64_t count, int64_t max_pixels, int32_t *sizes, int32_t *statuses) {
#ifdef _WIN32
    (void)space, (void)handles, (void)starts, (void)lengths, (void)count, (void)max_pixels, (void)sizes, (void)statuses;
    return -2;
#else
    if (!reserve_files(space, count)) return -1;
    if (space->contents.capacity > KEEP_FILES) release(&space->contents);
    size_t used = 0;
    for (int64_t i = 0; i < count; i++) {
        size_t before = used;
        File file = {NULL, 0, STATUS_OK};
        file.status = read_range(space, handles[i], starts[i], lengths[i], &used);
        file.length = used - before;
        space->files[i] = file;
    }
    place_and_measure(space, count, max_pixels, sizes, statuses);
    return 0;
#endif
}

/* The bytes of one file held; valid until the next open. NULL when there is none of that number. */
API const unsigned char *imgcls_contents(const Workspace *space, int64_t index, int64_t *length) {
    *length = 0;
    if (index < 0 || (size_t)index >= space->num_files) return NULL;
    *length = (int64_t)space->files[index].length;
    return space->files[index].data;
}

/* Decode every file held that has status 0 into out (count, height, width, channels). -1 on wrong arguments. */
API int32_t imgcls_decode(Workspace *space, const double *boxes, const uint8_t *flips, int64_t count, int32_t height,
                          int32_t width, int32_t channels, int32_t filter, uint8_t *out, int32_t *statuses) {
    if ((size_t)count != space->num_files || (channels != 1 && channels != 3)) return -1;
    if (filter != BILINEAR && filter != BICUBIC) return -1;
    if (height < 1 || width < 1 || height > MAX_SIDE || width > MAX_SIDE) return -1;
    Shape shape = {height, width, channels};
    size_t image_bytes = (size_t)height * width * channels;
    for (int64_t i = 0; i < count; i++) {
        const File *file = &space->files[i];
        statuses[i] = file->status;
        if (file->status == STATUS_OK)
            statuses[i] = decode_one(space, file, boxes + 4 * i, flips[i], filter, shape, out + (size_t)i * image_bytes);
    }
    return 0;
}

/* Write a JPEG again with a restart marker after each MCU that completes `blocks` blocks of 8 columns, and optimised
 * Huffman tables, its coefficients unchanged and its metadata left out, into out (capacity). written: the number of
 * bytes; 0 where the status is not OK. */
API int32_t imgcls_write_restarts(const unsigned char *data, int64_t length, int32_t blocks, int64_t max_pixels,
                                  unsigned char *out, int64_t capacity, int64_t *written) {
    *written = 0;
    if (blocks < 1 || blocks > 0xFFFF || length < 0 || capacity < 0) return STATUS_UNSUPPORTED;
    File file = {data, (size_t)length, STATUS_OK};
    int32_t height, width;
    Decoder source;
    struct jpeg_compress_struct target;
    prepare(&source);
    target.err = source.cinfo.err;
    target.mem = NULL;
    if (setjmp(source.trap.escape)) {
        jpeg_destroy_compress(&target);
        jpeg_destroy_decompress(&source.cinfo);
        return status_of_trap(&source, STATUS_CORRUPT);
    }
    int status = read_header(&source, &file, max_pixels, &height, &width);
    if (status == STATUS_OK) status = find_end(source.cinfo.src->next_input_byte, source.cinfo.src->bytes_in_buffer);
    if (status == STATUS_OK) {
        jpeg_create_compress(&target);
        uint32_t across = source.cinfo.num_components == 1 ? 1 : (uint32_t)source.cinfo.max_h_samp_factor;
        uint32_t interval = ((uint32_t)blocks + across - 1) / across;
        *written = (int64_t)write_intervals(&source.cinfo, &target, interval, out, (size_t)capacity);
        if (*written == 0) status = STATUS_UNSUPPORTED;
    }
    jpeg_destroy_compress(&target);
    jpeg_destroy_decompress(&source.cinfo);
    return status;
}

static int32_t skim_one(const File *file, int32_t end) {
    Decoder decoder;
    prepare(&decoder);
    if (setjmp(decoder.trap.escape)) {
        jpeg_destroy_decompress(&decoder.cinfo);
        return status_of_trap(&decoder, STATUS_CORRUPT);
    }
    int32_t height, width;
    int status = read_header(&decoder, file, INT64_MAX, &height, &width);
    if (status == STATUS_OK) {
        jpeg_start_decompress(&decoder.cinfo);
        /* One column, for the few rows that a skip has to decode after all. */
        JDIMENSION offset = 0, columns = 1;
        jpeg_crop_scanline(&decoder.cinfo, &offset, &columns);
        jpeg_skip_scanlines(&decoder.cinfo, (JDIMENSION)(end < height ? end : height - 1));
    }
    jpeg_destroy_decompress(&decoder.cinfo);
    return status;
}

/* For measuring only: the entropy decoding down to row bottoms[i], without the pixels. */
API int32_t imgcls_skim(Workspace *space, const int32_t *bottoms, int64_t count, int32_t *statuses) {
    if ((size_t)count != space->num_files) return -1;
    for (int64_t i = 0; i < count; i++) {
        statuses[i] = space->files[i].status;
        if (statuses[i] == STATUS_OK) statuses[i] = skim_one(&space->files[i], bottoms[i]);
    }
    return 0;
}
