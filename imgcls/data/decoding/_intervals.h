/* JPEGs with a restart marker every few blocks and a segment that says where the markers are: a crop then decodes only
 * the intervals that it touches.
 *
 * A file is a JPEG like any other, with the segment right after its start: APP15, "imgcls", 0, 1, then big-endian the
 * height, the width, and the MCUs in an interval (16 bits each), the intervals in a group (8 bits), and the bytes in
 * each group (16 bits each), the markers within and after it included.
 *
 * libjpeg keeps its view of the whole image, so its pixels are those of the whole image; in place of its function that
 * decodes the next MCU it gets one that passes over the MCUs that no output needs. With restart markers libjpeg-turbo
 * leaves its fast path (jdhuff.c, decode_mcu), so the Huffman decoding is here as well (ITU T.81, annexes C and F.2).
 */
#ifndef IMGCLS_INTERVALS_H
#define IMGCLS_INTERVALS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

/* Of jpegint.h, which is not installed: the first two members have been the same since libjpeg 5. */
struct jpeg_entropy_decoder {
    void (*start_pass)(j_decompress_ptr cinfo);
    boolean (*decode_mcu)(j_decompress_ptr cinfo, JBLOCKROW *blocks);
};

enum {
    SEGMENT_MARKER = JPEG_APP0 + 15,
    SEGMENT_HEAD = 4 + 8 + 7, /* the marker, the length, the name, the numbers */
    INTERVALS_A_GROUP = 8,
    LOOK_BITS = 9,
    END_OF_BLOCK = 64
};

static const unsigned char SEGMENT_NAME[8] = "imgcls\0\1";

/* The coefficients of a block in the file's order. */
static const unsigned char ZIGZAG[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6,  7,  14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

typedef struct {
    int32_t height;
    int32_t width;
    uint32_t interval; /* MCUs */
    uint32_t group;    /* intervals */
    uint32_t num_groups;
    const unsigned char *groups;
} Segment;

static uint32_t read_16(const unsigned char *at) { return (uint32_t)at[0] << 8 | at[1]; }

static void write_16(unsigned char *at, uint32_t value) {
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

/* Read the segment, if the file begins with one. What it says of the image is not known to be true. */
static int read_segment(const unsigned char *data, size_t length, Segment *segment) {
    if (length < 2 + SEGMENT_HEAD || data[0] != 0xFF || data[1] != 0xD8 || data[2] != 0xFF || data[3] != SEGMENT_MARKER)
        return 0;
    size_t size = read_16(data + 4) + 2;
    if (memcmp(data + 6, SEGMENT_NAME, sizeof SEGMENT_NAME) != 0 || size < SEGMENT_HEAD || size > length - 2) return 0;
    const unsigned char *numbers = data + 6 + sizeof SEGMENT_NAME;
    segment->height = (int32_t)read_16(numbers);
    segment->width = (int32_t)read_16(numbers + 2);
    segment->interval = read_16(numbers + 4);
    segment->group = numbers[6];
    segment->groups = data + 2 + SEGMENT_HEAD;
    segment->num_groups = (uint32_t)(size - SEGMENT_HEAD) / 2;
    return segment->height > 0 && segment->width > 0 && segment->interval > 0 && segment->group > 0;
}

/* An entry of `look`: bits 0 to 4 are the length of the code, 5 to 8 how many bits of the value follow, 9 to 15 how many
 * coefficients further the value goes (64: no more in this block). 0: the code is longer than LOOK_BITS. */
typedef struct {
    uint16_t look[1 << LOOK_BITS];
    int32_t last[17];   /* the greatest code of each length, -1 where there is none */
    int32_t offset[17]; /* from a code of each length to its place in symbols */
    const UINT8 *symbols;
} HuffmanTable;

typedef struct {
    const unsigned char *at;
    const unsigned char *end;
    uint64_t bits; /* the next is the highest; below the first `count` are bits that are read again */
    int count;
    int padding; /* of the count: zeros after the end of the data */
    int broken;
} Bits;

typedef struct {
    int use_bmi2;
    Segment segment;
    const unsigned char *scan;
    const unsigned char *end;
    JDIMENSION first_column; /* of the MCUs that are decoded, and the last */
    JDIMENSION last_column;
    JDIMENSION column; /* of the MCU that libjpeg asks for next */
    uint32_t position; /* of that MCU in the scan */
    uint32_t decoded;  /* the MCU that follows the last one decoded */
    uint32_t left;     /* MCUs of its interval */
    uint32_t group_at; /* where the offset of a group is known */
    size_t group_offset;
    Bits bits;
    int last_dc[3];
    HuffmanTable dc[NUM_HUFF_TBLS];
    HuffmanTable ac[NUM_HUFF_TBLS];
    JBLOCK passed_over;
} Intervals;

static uint32_t entry_of(int symbol, int length) {
    int run = symbol >> 4, size = symbol & 15;
    uint32_t step = size || run == 15 ? (uint32_t)run + 1 : END_OF_BLOCK;
    return (uint32_t)length | (uint32_t)size << 5 | step << 9;
}

/* libjpeg has checked the table: at most 256 symbols, and no code of all ones or beyond. */
static void build_table(HuffmanTable *table, const JHUFF_TBL *source) {
    uint32_t code = 0;
    int place = 0;
    memset(table->look, 0, sizeof table->look);
    table->symbols = source->huffval;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = source->bits[length];
        table->offset[length] = place - (int32_t)code;
        table->last[length] = count ? (int32_t)code + count - 1 : -1;
        for (int i = 0; i < count; i++, code++, place++)
            for (int k = 0; length <= LOOK_BITS && k < 1 << (LOOK_BITS - length); k++)
                table->look[(code << (LOOK_BITS - length)) + k] = (uint16_t)entry_of(source->huffval[place], length);
    }
}

static void refill_slowly(Bits *bits) {
    while (bits->count < 56) {
        uint64_t byte = 0;
        ptrdiff_t rest = bits->end - bits->at;
        if (rest >= 1 && *bits->at != 0xFF) {
            byte = *bits->at++;
        } else if (rest >= 2 && bits->at[1] == 0) {
            byte = 0xFF;
            bits->at += 2;
        } else {
            bits->padding += 8; /* a marker, or the end */
        }
        bits->bits |= byte << (56 - bits->count);
        bits->count += 8;
    }
}

/* To at least 48 bits, and at most 63. */
static inline __attribute__((always_inline)) void refill(Bits *bits) {
    if (bits->end - bits->at >= 8) {
        uint64_t next;
        memcpy(&next, bits->at, 8);
        next = __builtin_bswap64(next);
        uint64_t ones = 0x0101010101010101u;
        if (!((~next - ones) & next & (ones << 7))) { /* no byte is FF */
            bits->bits |= next >> bits->count;
            bits->at += (63 - bits->count) >> 3;
            bits->count |= 56;
            return;
        }
    }
    if (bits->count < 48) {
        Bits copy = *bits; /* whose address is taken, so that the original's is not: it stays in registers */
        refill_slowly(&copy);
        *bits = copy;
    }
}

static uint32_t find_long_code(uint64_t bits, const HuffmanTable *table) {
    for (int length = LOOK_BITS + 1; length <= 16; length++) {
        int32_t code = (int32_t)(bits >> (64 - length));
        if (code <= table->last[length]) return entry_of(table->symbols[(code + table->offset[length]) & 255], length);
    }
    return 0;
}

/* The next code and its value. Between two calls there are at least 16 bits, as many as a code has: the two together
 * have at most 31. */
static inline __attribute__((always_inline)) int32_t read_value(Bits *bits, const HuffmanTable *table, uint32_t *step) {
    uint32_t entry = table->look[bits->bits >> (64 - LOOK_BITS)];
    refill(bits); /* meanwhile: the entry takes a few cycles to come */
    if (__builtin_expect(entry == 0, 0)) {
        entry = find_long_code(bits->bits, table);
        bits->broken |= entry == 0;
    }
    uint32_t length = entry & 31, size = entry >> 5 & 15;
    uint64_t rest = bits->bits << length;
    bits->bits = rest << size;
    bits->count -= (int)(length + size);
    *step = entry >> 9;
    /* A value that begins with 0 is negative. */
    int32_t value = (int32_t)(rest >> 1 >> (63 - size));
    return value - ((int32_t)((1u << size) - 1) & ((int32_t)(rest >> 63) - 1));
}

static inline __attribute__((always_inline)) void read_block(Bits *bits, const HuffmanTable *dc, const HuffmanTable *ac,
                                                             int *last_dc, JCOEF *block) {
    uint32_t step;
    *last_dc = (int)((uint32_t)*last_dc + (uint32_t)read_value(bits, dc, &step));
    block[0] = (JCOEF)*last_dc;
    for (uint32_t at = 0; at < 63;) {
        int32_t value = read_value(bits, ac, &step);
        at += step;
        if (at > 63) break;
        block[ZIGZAG[at]] = (JCOEF)value;
        if (step == 0) break; /* no code */
    }
}

/* What is wrong with the data goes the way of libjpeg's own errors. */
static void refuse_intervals(j_decompress_ptr cinfo) {
    cinfo->err->msg_code = 0;
    (*cinfo->err->error_exit)((j_common_ptr)cinfo);
}

/* Begin at the first bit of an interval. */
static void begin_interval(Intervals *intervals, const unsigned char *at) {
    Bits bits = {at, intervals->end, 0, 0, 0, 0};
    refill_slowly(&bits);
    intervals->bits = bits;
    intervals->left = intervals->segment.interval;
    memset(intervals->last_dc, 0, sizeof intervals->last_dc);
}

/* Pass the marker after the interval of the MCUs decoded last. */
static void begin_next_interval(j_decompress_ptr cinfo, Intervals *intervals) {
    const unsigned char *at = intervals->bits.at;
    uint32_t number = intervals->decoded / intervals->segment.interval - 1;
    if (intervals->end - at < 2 || at[0] != 0xFF || at[1] != JPEG_RST0 + number % 8) refuse_intervals(cinfo);
    begin_interval(intervals, at + 2);
}

static const unsigned char *find_interval(j_decompress_ptr cinfo, Intervals *intervals, uint32_t number) {
    const Segment *segment = &intervals->segment;
    uint32_t group = number / segment->group;
    if (group >= segment->num_groups) refuse_intervals(cinfo);
    for (; intervals->group_at < group; intervals->group_at++)
        intervals->group_offset += read_16(segment->groups + 2 * (size_t)intervals->group_at);
    if (intervals->group_offset > (size_t)(intervals->end - intervals->scan)) refuse_intervals(cinfo);
    const unsigned char *at = intervals->scan + intervals->group_offset;
    for (uint32_t i = group * segment->group; i < number;) {
        at = memchr(at, 0xFF, (size_t)(intervals->end - at));
        if (!at || intervals->end - at < 2) refuse_intervals(cinfo);
        i += at[1] != 0;
        at += 2;
    }
    if (number && (at[-2] != 0xFF || at[-1] != JPEG_RST0 + (number - 1) % 8)) refuse_intervals(cinfo);
    return at;
}

static inline __attribute__((always_inline)) void read_mcu_of(j_decompress_ptr cinfo, Intervals *intervals,
                                                              JBLOCKROW *blocks) {
    if (intervals->left == 0) begin_next_interval(cinfo, intervals);
    Bits bits = intervals->bits;
    for (int i = 0; i < cinfo->blocks_in_MCU; i++) {
        int c = cinfo->MCU_membership[i];
        const jpeg_component_info *component = cinfo->cur_comp_info[c];
        JCOEF *block = blocks ? **blocks++ : intervals->passed_over;
        read_block(&bits, &intervals->dc[component->dc_tbl_no], &intervals->ac[component->ac_tbl_no],
                   &intervals->last_dc[c], block);
    }
    if (bits.broken || bits.count < bits.padding) refuse_intervals(cinfo);
    intervals->bits = bits;
    intervals->left--;
    intervals->decoded++;
}

static void read_mcu_portable(j_decompress_ptr cinfo, Intervals *intervals, JBLOCKROW *blocks) {
    read_mcu_of(cinfo, intervals, blocks);
}

#if defined(__x86_64__) && defined(__GNUC__)
/* Shifts by a variable number of bits are a third of the work of the portable code. */
__attribute__((target("bmi,bmi2"))) static void read_mcu_bmi2(j_decompress_ptr cinfo, Intervals *intervals,
                                                              JBLOCKROW *blocks) {
    read_mcu_of(cinfo, intervals, blocks);
}
#endif

static void read_mcu(j_decompress_ptr cinfo, Intervals *intervals, JBLOCKROW *blocks) {
#if defined(__x86_64__) && defined(__GNUC__)
    if (intervals->use_bmi2) {
        read_mcu_bmi2(cinfo, intervals, blocks);
        return;
    }
#endif
    read_mcu_portable(cinfo, intervals, blocks);
}

/* Take the place of libjpeg's function of this name, which it calls for every MCU down to the last row that is read. */
static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
    Intervals *intervals = cinfo->client_data;
    JDIMENSION column = intervals->column;
    uint32_t position = intervals->position++;
    intervals->column = column + 1 == cinfo->MCUs_per_row ? 0 : column + 1;
    if (!blocks || column < intervals->first_column || column > intervals->last_column) return TRUE;
    if (intervals->decoded != position) {
        uint32_t number = position / intervals->segment.interval;
        uint32_t begin = number * intervals->segment.interval;
        if (intervals->decoded < begin || intervals->decoded > position) {
            begin_interval(intervals, find_interval(cinfo, intervals, number));
            intervals->decoded = begin;
        }
        while (intervals->decoded < position) read_mcu(cinfo, intervals, NULL);
    }
    read_mcu(cinfo, intervals, blocks);
    return TRUE;
}

/* Decode by intervals what jpeg_start_decompress has begun. The scan begins at `scan`. */
static void use_intervals(j_decompress_ptr cinfo, Intervals *intervals, const Segment *segment,
                          const unsigned char *scan, const unsigned char *end) {
    intervals->segment = *segment;
    intervals->scan = scan;
    intervals->end = end;
    intervals->first_column = 0;
    intervals->last_column = cinfo->MCUs_per_row - 1;
    intervals->column = 0;
    intervals->position = intervals->decoded = intervals->group_at = 0;
    intervals->group_offset = 0;
    begin_interval(intervals, scan);
    int dc = 0, ac = 0; /* the tables that are built, as bits */
    for (int c = 0; c < cinfo->comps_in_scan; c++) {
        const jpeg_component_info *component = cinfo->cur_comp_info[c];
        int dc_no = component->dc_tbl_no, ac_no = component->ac_tbl_no;
        if (!(dc >> dc_no & 1)) build_table(&intervals->dc[dc_no], cinfo->dc_huff_tbl_ptrs[dc_no]);
        if (!(ac >> ac_no & 1)) build_table(&intervals->ac[ac_no], cinfo->ac_huff_tbl_ptrs[ac_no]);
        dc |= 1 << dc_no;
        ac |= 1 << ac_no;
    }
    cinfo->client_data = intervals;
    cinfo->entropy->decode_mcu = decode_mcu;
}

/* Leave the MCUs undecoded that are left or right of these columns of the image. */
static void keep_columns(j_decompress_ptr cinfo, Intervals *intervals, JDIMENSION offset, JDIMENSION columns) {
    JDIMENSION width = (JDIMENSION)DCTSIZE * (cinfo->comps_in_scan == 1 ? 1 : cinfo->max_h_samp_factor);
    intervals->first_column = offset / width;
    intervals->last_column = (offset + columns - 1) / width;
}

/* Where a compressor writes: a buffer that does not grow. A full one is an error of libjpeg's kind. */
typedef struct {
    struct jpeg_destination_mgr manager;
    unsigned char *begin;
    size_t capacity;
} Destination;

static void begin_writing(j_compress_ptr cinfo) {
    Destination *to = (Destination *)cinfo->dest;
    to->manager.next_output_byte = to->begin;
    to->manager.free_in_buffer = to->capacity;
}

static boolean refuse_to_grow(j_compress_ptr cinfo) {
    cinfo->err->msg_code = 0;
    (*cinfo->err->error_exit)((j_common_ptr)cinfo);
    return FALSE;
}

static void end_writing(j_compress_ptr cinfo) { (void)cinfo; }

static size_t num_groups_of(j_decompress_ptr source, uint32_t interval) {
    int single = source->num_components == 1;
    size_t across = DCTSIZE * (size_t)(single ? 1 : source->max_h_samp_factor);
    size_t down = DCTSIZE * (size_t)(single ? 1 : source->max_v_samp_factor);
    size_t mcus = (source->image_width + across - 1) / across * ((source->image_height + down - 1) / down);
    size_t a_group = (size_t)interval * INTERVALS_A_GROUP;
    return (mcus + a_group - 1) / a_group;
}

/* Set the bytes of each group, from the scan that ends at `end`. 0 if one does not fit its 16 bits. */
static int write_groups(unsigned char *groups, size_t num_groups, const unsigned char *scan, const unsigned char *end) {
    const unsigned char *begin = scan, *at = scan;
    uint32_t intervals = 0;
    for (size_t group = 0; group < num_groups;) {
        at = memchr(at, 0xFF, (size_t)(end - at));
        if (!at || end - at < 2) return 0;
        int marker = at[1] != 0, last = at[1] == JPEG_EOI;
        at += 2;
        if (!marker || (++intervals % INTERVALS_A_GROUP && !last)) continue;
        if (at - begin > 0xFFFF || last != (group + 1 == num_groups)) return 0;
        write_16(groups + 2 * group++, (uint32_t)(at - begin));
        begin = at;
    }
    return 1;
}

/* Write the segment, in `size` bytes, for a JPEG that was written behind the space for it. */
static int write_segment(j_decompress_ptr source, uint32_t interval, unsigned char *out, size_t size,
                         const unsigned char *end) {
    unsigned char *segment = out + 2, *numbers = segment + 4 + sizeof SEGMENT_NAME;
    const unsigned char *at = out + size + 2; /* behind the start of the image */
    while (at[1] != 0xDA) at += 2 + read_16(at + 2);
    at += 2 + read_16(at + 2);
    if (!write_groups(segment + SEGMENT_HEAD, (size - SEGMENT_HEAD) / 2, at, end)) return 0;
    out[0] = segment[0] = 0xFF;
    out[1] = 0xD8;
    segment[1] = SEGMENT_MARKER;
    write_16(segment + 2, (uint32_t)size - 2);
    memcpy(segment + 4, SEGMENT_NAME, sizeof SEGMENT_NAME);
    write_16(numbers, source->image_height);
    write_16(numbers + 2, source->image_width);
    write_16(numbers + 4, interval);
    numbers[6] = INTERVALS_A_GROUP;
    return 1;
}

/* Write the coefficients of `source`, whose header has been read, with restart markers. Return the number of bytes, or
 * 0 where the segment cannot say where the markers are. */
static size_t write_intervals(j_decompress_ptr source, j_compress_ptr target, uint32_t interval, unsigned char *out,
                              size_t capacity) {
    size_t num_groups = num_groups_of(source, interval), size = SEGMENT_HEAD + 2 * num_groups;
    if (size > 0xFFFF || size > capacity) return 0;
    Destination to = {{0}, out + size, capacity - size};
    to.manager.init_destination = begin_writing;
    to.manager.empty_output_buffer = refuse_to_grow;
    to.manager.term_destination = end_writing;
    jvirt_barray_ptr *coefficients = jpeg_read_coefficients(source);
    jpeg_copy_critical_parameters(source, target);
    target->optimize_coding = TRUE;
    target->restart_interval = interval;
    target->dest = &to.manager;
    jpeg_write_coefficients(target, coefficients);
    jpeg_finish_compress(target);
    jpeg_finish_decompress(source);
    const unsigned char *end = to.manager.next_output_byte;
    return write_segment(source, interval, out, size, end) ? (size_t)(end - out) : 0;
}

#endif
